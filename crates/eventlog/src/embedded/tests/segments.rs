//! Sealing, indexes, and the moments in between.

use super::support::{
    AGENTS, GOALS, append, contents, copy, files, flip, folder, length, open, open_tiny, options, truncate,
    try_open,
};
use crate::error::LogError;
use crate::log::{EventLog as _, LogReader as _};

#[test]
fn a_log_over_many_segments_reads_as_one_and_reopens_the_same() {
    let directory = folder();
    let log = open_tiny(directory.path());
    for number in 0..40 {
        append(&log, number);
    }
    let segments = files(directory.path(), "segment").len();
    assert!(segments >= 10, "{segments} segments");
    assert_eq!(files(directory.path(), "index").len(), segments - 1, "every segment but the last is sealed");
    let before = contents(&log).expect("readable");
    assert_eq!(before.records.len(), 80);
    for offset in 0..40 {
        let read = log.read(GOALS, offset, 3, 1000).expect("readable");
        let offsets: Vec<_> = read.iter().map(|record| record.offset).collect();
        assert_eq!(offsets, (offset..(offset + 3).min(40)).collect::<Vec<_>>());
    }
    log.close().expect("the log closes");
    let log = open_tiny(directory.path());
    assert_eq!(contents(&log).expect("readable"), before);
    assert_eq!((log.recovery().segments, log.recovery().indexes_rebuilt), (segments, 0));
    assert_eq!(log.size().segments, segments);
    assert_eq!((log.size().records, log.size().frames), (80, 40));
    assert_eq!(
        log.size().bytes,
        files(directory.path(), "segment").iter().map(|path| length(path)).sum::<u64>()
    );
}

#[test]
fn a_missing_or_damaged_index_is_built_again() {
    let directory = folder();
    let log = open_tiny(directory.path());
    for number in 0..12 {
        append(&log, number);
    }
    let before = contents(&log).expect("readable");
    log.close().expect("the log closes");
    let indexes = files(directory.path(), "index");
    let originals: Vec<_> = indexes.iter().map(|path| std::fs::read(path).expect("an index")).collect();
    std::fs::remove_file(&indexes[0]).expect("an index");
    flip(&indexes[1], 30, 0x01);
    truncate(&indexes[2], 10);
    let log = open_tiny(directory.path());
    assert_eq!(log.recovery().indexes_rebuilt, 3);
    assert_eq!(contents(&log).expect("readable"), before);
    let rebuilt: Vec<_> = indexes.iter().map(|path| std::fs::read(path).expect("an index")).collect();
    assert_eq!(rebuilt, originals);
    log.close().expect("the log closes");

    // A damaged body is found when it is needed.
    let end = length(&indexes[1]) - 1;
    flip(&indexes[1], end, 0x01);
    let log = open_tiny(directory.path());
    assert_eq!(contents(&log).expect("readable"), before);
}

#[test]
fn a_roll_that_was_interrupted_is_finished() {
    let directory = folder();
    let log = open_tiny(directory.path());
    for number in 0..9 {
        append(&log, number);
    }
    let before = contents(&log).expect("readable");
    log.close().expect("the log closes");
    let last = files(directory.path(), "segment").pop().expect("a segment");
    for cut in 0..=40 {
        let copied = copy(directory.path());
        let segment = copied.path().join(last.file_name().expect("a name"));
        // Only the bytes of the header were there; what the last segment held was never written.
        truncate(&segment, cut);
        let log = open_tiny(copied.path());
        assert_eq!(length(&segment), 40, "the header is whole again");
        let found = contents(&log).expect("readable");
        let kept = found.records.len();
        assert_eq!(found.records, before.records[..kept]);
        let next = kept as u64 / 2;
        assert_eq!(found.ends.0, next);
        assert_eq!(log.position("dispatcher", GOALS), Some(next), "positions come from the segment before");
        assert_eq!(append(&log, next).offsets, [next, next]);
        log.close().expect("the log closes");
        let log = open_tiny(copied.path());
        assert_eq!(log.end_offset(AGENTS), next + 1);
    }
}

#[test]
fn a_missing_segment_is_named() {
    let directory = folder();
    let log = open_tiny(directory.path());
    for number in 0..9 {
        append(&log, number);
    }
    log.close().expect("the log closes");
    let segments = files(directory.path(), "segment");
    std::fs::remove_file(&segments[1]).expect("a segment");
    let opened = try_open(directory.path(), options());
    let Err(LogError::Corrupt { segment, reason, .. }) = opened else { panic!("opened: {opened:?}") };
    assert_eq!(segment, segments[2]);
    assert!(reason.contains("begins with frame"), "{reason}");
}

#[test]
fn what_an_interrupted_open_or_retention_left_is_cleared_away() {
    let directory = folder();
    let log = open(directory.path());
    append(&log, 0);
    log.close().expect("the log closes");
    let orphan = directory.path().join(format!("{:020}.index", 77));
    let unfinished = directory.path().join(format!("{:020}.index.unfinished", 1));
    let foreign = directory.path().join("notes.txt");
    for path in [&orphan, &unfinished, &foreign] {
        std::fs::write(path, "something").expect("a file");
    }
    drop(open(directory.path()));
    assert_eq!((orphan.exists(), unfinished.exists(), foreign.exists()), (false, false, true));
}
