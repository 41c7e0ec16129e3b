//! The embedded log: one commit log in segment files, for a node that runs on one machine.
//!
//! All topics share one sequence of *frames* in files of 64 MB. A frame is one group commit: every append that was
//! queued while the frame before was being synced, written and synced as a whole before the next is begun. That is
//! what makes an append atomic over topics and positions, what lets one `fdatasync` serve many agents, and what
//! recovery rests on: a damaged frame that anything follows was acknowledged, and is reported, never cut.
//!
//! A directory holds `LOCK` and, for every segment, `<first frame>.segment` and, once it is sealed,
//! `<first frame>.index`, which can be built again.
//!
//! Modules in reading order: `options`, `wire`, `codec` (a record), `frame`, `segment`, `scan`, `index`, `catalog`
//! (what is known in memory), `recovery`, `encoded` (an append that waits), `writer`, `reader`, `retention`, `verify`, `read_only`, `lock`.
//!
//! Nothing here waits for more appends to come, retries a sync, or writes a segment's bytes twice.

mod catalog;
mod codec;
mod encoded;
mod frame;
mod index;
mod lock;
mod options;
mod read_only;
mod reader;
mod recovery;
mod retention;
mod scan;
mod segment;
mod verify;
mod wire;
mod writer;

#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

pub use self::options::{Boundary, Options, Probe, VerifyOnOpen};
pub use self::read_only::ReadOnlyLog;
pub use self::recovery::{Recovery, TornTail};
pub use self::verify::{Damage, Verification, verify};

use self::encoded::EncodedAppend;
use self::lock::DirectoryLock;
use self::reader::View;
use self::writer::Writer;
use kintsugi_types::{ByteCount, Clock};

use crate::error::LogError;
use crate::log::{Append, EventLog, LogReader, Lsn, OnCommit, Position, Retained, Retention};
use crate::queue::{Limits, Queue, Waiting, locked};
use crate::record::{Record, TopicPartition};

/// No append is larger, whatever the options say: the length of a frame has to stay far below what it can count.
const APPEND_BYTES_LIMIT: usize = 128 << 20;

/// What the log and its writer thread share.
struct Shared {
    directory: PathBuf,
    view: View,
    queue: Queue<EncodedAppend>,
    clock: Arc<dyn Clock>,
    /// Held while segments are deleted, so that they go oldest first.
    retention: Mutex<()>,
}

/// A log in a directory of its own.
pub struct EmbeddedLog {
    shared: Arc<Shared>,
    append_bytes_max: usize,
    recovery: Recovery,
    writer: Mutex<Option<JoinHandle<()>>>,
    lock: Mutex<Option<DirectoryLock>>,
}

impl fmt::Debug for EmbeddedLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedLog").field("directory", &self.shared.directory).finish_non_exhaustive()
    }
}

/// How large a log is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogSize {
    /// Segment files.
    pub segments: usize,
    /// Bytes in them, without indexes.
    pub bytes: u64,
    /// Records in them.
    pub records: u64,
    /// Frames ever written, deleted ones included.
    pub frames: u64,
}

impl EmbeddedLog {
    /// Opens the log in `directory`, or begins one there, and mends what a crash left behind.
    ///
    /// Fails with [`LogError::Locked`] where another process has it open, with [`LogError::Corrupt`] where
    /// acknowledged bytes are damaged, and with [`LogError::Io`] where the disk is full or may not be written.
    pub fn open(directory: impl AsRef<Path>, options: Options) -> Result<Self, LogError> {
        let directory = directory.as_ref();
        lock::create_directory(directory)?;
        let lock = DirectoryLock::acquire(directory)?;
        let (catalog, recovery) = recovery::load(directory, recovery::Access::Write, options.verify)?;
        let append_bytes_max = byte_limit(options.append_bytes_max).min(APPEND_BYTES_LIMIT);
        let queue = Queue::new(Limits {
            appends: options.queue_appends_max.max(1),
            bytes: byte_limit(options.queue_bytes_max),
            group_records: options.group_records_max.max(1),
            group_bytes: append_bytes_max,
        });
        let view = View::new(catalog, options.open_segments_max);
        let shared = Arc::new(Shared {
            directory: directory.to_owned(),
            view,
            queue,
            clock: Arc::clone(&options.clock),
            retention: Mutex::default(),
        });
        let writer = Writer::new(Arc::clone(&shared), options)
            .ok_or_else(|| recovery::corrupt(directory, 0, "the log has no segment"))?;
        let thread = thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(LogError::io("start the writer of", directory))?;
        Ok(Self {
            shared,
            append_bytes_max,
            recovery,
            writer: Mutex::new(Some(thread)),
            lock: Mutex::new(Some(lock)),
        })
    }

    /// What opening found and mended.
    pub const fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// Reads every committed byte and names every damaged place. Appends and reads go on meanwhile.
    pub fn verify(&self) -> Result<Verification, LogError> {
        verify(&self.shared.directory)
    }

    /// How large the log is now.
    pub fn size(&self) -> LogSize {
        self.shared.view.size()
    }
}

fn byte_limit(limit: ByteCount) -> usize {
    usize::try_from(limit.bytes()).unwrap_or(usize::MAX)
}

impl LogReader for EmbeddedLog {
    fn read(
        &self,
        from: TopicPartition,
        offset: u64,
        records_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Record>, LogError> {
        self.shared.view.read(from, offset, records_max, bytes_max)
    }

    fn replay(&self, from: Lsn, visit: &mut dyn FnMut(Record) -> ControlFlow<()>) -> Result<Lsn, LogError> {
        self.shared.view.replay(from, visit)
    }

    fn start_offset(&self, of: TopicPartition) -> u64 {
        self.shared.view.catalog().start_offset(of)
    }

    fn end_offset(&self, of: TopicPartition) -> u64 {
        self.shared.view.catalog().end_offset(of)
    }

    fn start_lsn(&self) -> Lsn {
        Lsn(self.shared.view.catalog().start_lsn())
    }

    fn end_lsn(&self) -> Lsn {
        Lsn(self.shared.view.catalog().next_lsn)
    }

    fn partitions(&self) -> Vec<TopicPartition> {
        self.shared.view.catalog().partitions()
    }

    fn position(&self, consumer: &str, of: TopicPartition) -> Option<u64> {
        self.shared.view.catalog().position(consumer, of)
    }

    fn positions(&self) -> Vec<Position> {
        self.shared.view.catalog().positions()
    }

    fn wait_past(&self, seen: Lsn, timeout: Duration) -> Lsn {
        self.shared.view.wait_past(seen, timeout)
    }
}

impl EventLog for EmbeddedLog {
    fn append(&self, append: &Append, on_commit: OnCommit) -> Result<(), LogError> {
        let append = EncodedAppend::new(append, self.append_bytes_max)?;
        self.shared.queue.push(Waiting { append, on_commit })
    }

    fn wait_for_room(&self) {
        self.shared.queue.wait_for_room();
    }

    fn retainable(&self, retention: &Retention) -> Retained {
        retention::retainable(&self.shared, retention)
    }

    /// Whole sealed segments go, oldest first. Blocks on the file system.
    fn retain(&self, retention: &Retention) -> Result<Retained, LogError> {
        retention::retain(&self.shared, retention)
    }

    fn close(&self) -> Result<(), LogError> {
        self.shared.queue.close();
        if let Some(writer) = locked(&self.writer).take()
            // The last handle may be dropped by an appender that the writer is just telling.
            && writer.thread().id() != thread::current().id()
        {
            // The writer turns its own panics into poison.
            let _ = writer.join();
        }
        locked(&self.lock).take();
        self.shared.queue.poisoned().map_or(Ok(()), Err)
    }
}

impl Drop for EmbeddedLog {
    fn drop(&mut self) {
        // Nobody is left to be told; a failure was logged by the writer.
        let _ = self.close();
    }
}
