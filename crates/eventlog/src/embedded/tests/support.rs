//! What the tests of the embedded log share.

use std::fs::{File, OpenOptions};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kintsugi_events::Topic;
use kintsugi_types::{ByteCount, ManualClock, Timestamp};
use tempfile::TempDir;

use crate::embedded::{EmbeddedLog, Options};
use crate::error::LogError;
use crate::log::{Append, Committed, EventLog as _, LogReader, Lsn, Position};
use crate::record::{NewRecord, Record, TopicPartition};

pub(super) const GOALS: TopicPartition = TopicPartition::new(Topic::Goals, 0);
pub(super) const AGENTS: TopicPartition = TopicPartition::new(Topic::Agents, 3);
/// Small enough that every second frame begins a segment.
pub(super) const TINY: ByteCount = ByteCount(300);

pub(super) fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// Options with a clock that stands still.
pub(super) fn options() -> Options {
    let clock = Arc::new(ManualClock::new(Timestamp::from_timestamp_millis(1_000_000).expect("a time")));
    Options { clock, ..Options::default() }
}

pub(super) fn open(directory: &Path) -> EmbeddedLog {
    try_open(directory, options()).expect("the log opens")
}

pub(super) fn open_tiny(directory: &Path) -> EmbeddedLog {
    try_open(directory, Options { segment_bytes: TINY, ..options() }).expect("the log opens")
}

pub(super) fn try_open(directory: &Path, options: Options) -> Result<EmbeddedLog, LogError> {
    EmbeddedLog::open(directory, options)
}

pub(super) fn record(of: TopicPartition, value: &str) -> NewRecord {
    NewRecord::bare(of.topic, of.partition, "key", value.as_bytes().to_vec())
}

pub(super) fn stored(consumer: &str, of: TopicPartition, next_offset: u64) -> Position {
    Position { consumer: consumer.into(), topic: of.topic, partition: of.partition, next_offset }
}

/// One frame over two topics with a position, told apart by `number`.
pub(super) fn append(log: &EmbeddedLog, number: u64) -> Committed {
    let append = Append {
        records: vec![record(GOALS, &format!("goal {number}")), record(AGENTS, &format!("event {number}"))],
        positions: vec![stored("dispatcher", GOALS, number + 1)],
    };
    log.append_wait(&append).expect("the append is durable")
}

/// All that a log says of what it holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Contents {
    pub(super) records: Vec<Record>,
    pub(super) positions: Vec<Position>,
    pub(super) ends: (u64, u64, Lsn),
}

pub(super) fn contents(log: &dyn LogReader) -> Result<Contents, LogError> {
    let mut records = Vec::new();
    log.replay(log.start_lsn(), &mut |record| {
        records.push(record);
        ControlFlow::Continue(())
    })?;
    let mut positions = log.positions();
    positions.sort_by(|one, other| one.consumer.cmp(&other.consumer));
    Ok(Contents { records, positions, ends: (log.end_offset(GOALS), log.end_offset(AGENTS), log.end_lsn()) })
}

/// Files with this ending, in order.
pub(super) fn files(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|found| found == ending))
        .collect();
    files.sort();
    files
}

pub(super) fn length(path: &Path) -> u64 {
    std::fs::metadata(path).expect("a file").len()
}

/// A copy of a log, to be damaged.
pub(super) fn copy(directory: &Path) -> TempDir {
    let copy = folder();
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        std::fs::copy(&path, copy.path().join(path.file_name().expect("a name"))).expect("a copy");
    }
    copy
}

pub(super) fn truncate(path: &Path, length: u64) {
    OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(length)).expect("a cut");
}

pub(super) fn flip(path: &Path, at: u64, mask: u8) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("a file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a byte");
    file.write_all_at(&[byte[0] ^ mask], at).expect("a byte");
}

pub(super) fn write_at(path: &Path, at: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).and_then(|file| file.write_all_at(bytes, at)).expect("bytes");
}

pub(super) fn read_at(path: &Path, at: u64, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    File::open(path).and_then(|file| file.read_exact_at(&mut bytes, at)).expect("bytes");
    bytes
}

/// A closed log of `frames` frames in one segment, where each begins, and what the log held after each.
pub(super) struct Prepared {
    pub(super) directory: TempDir,
    pub(super) segment: PathBuf,
    pub(super) begins: Vec<u64>,
    pub(super) after: Vec<Contents>,
}

pub(super) fn prepared(frames: u64) -> Prepared {
    let directory = folder();
    let log = open(directory.path());
    let segment = files(directory.path(), "segment").remove(0);
    let (mut begins, mut after) = (Vec::new(), Vec::new());
    for number in 0..frames {
        begins.push(length(&segment));
        append(&log, number);
        after.push(contents(&log).expect("an undamaged log"));
    }
    log.close().expect("the log closes");
    Prepared { directory, segment, begins, after }
}

impl Prepared {
    pub(super) fn damaged_copy(&self) -> (TempDir, PathBuf) {
        let directory = copy(self.directory.path());
        let segment = directory.path().join(self.segment.file_name().expect("a name"));
        (directory, segment)
    }

    /// The place of the frame that holds byte `at`.
    pub(super) fn frame_of(&self, at: u64) -> Option<usize> {
        self.begins.iter().rposition(|begin| *begin <= at)
    }
}
