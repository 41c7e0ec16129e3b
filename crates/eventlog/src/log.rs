//! The contract of a log, and one conformance suite checks it on every log there is.
//!
//! - **Atomic**: the records of one [`Append`], whatever their topics, and its positions become durable together
//!   or not at all.
//! - **Durable before acknowledged**: `on_commit` is called with `Ok` only after the bytes are where no crash of
//!   this process loses them.
//! - **Ordered**: appends commit in the order in which they were queued, and are acknowledged in that order;
//!   records of one append in the order that they have there.
//! - **Offsets** of a topic partition grow from record to record, for good. Whether they have gaps is the log's
//!   business: on Kafka the marks of transactions take some, and retention and compaction others. So the record
//!   after offset 7 is the first that a read from 8 on returns, and nothing is missing between the two.
//! - **Committed only**: no reader sees a record before it is durable.
//! - **Certain**: a log goes on after a failure only where it knows what became of each append. One that does not
//!   takes no more, because what is written is then unknown.
//!
//! A *dense* log is held to more: its offsets and LSNs count from 0 without a gap. The embedded log is dense.
//!
//! A log may have other writers than this process: *outsiders*, such as a producer of goals with nothing but a Kafka
//! client. What they write is read like anything else. The embedded log has none.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use kintsugi_events::Topic;
use serde::{Deserialize, Serialize};

use crate::error::LogError;
use crate::record::{NewRecord, Record, TopicPartition};

/// A record's place in the order in which the log committed, over all topics. Later records have higher ones, the
/// records of one append follow each other without a gap, and a record keeps its own over restarts; in a dense log
/// they count from 0 without a gap.
///
/// An outsider's record is numbered when the log notices it, and again by whoever notices it after a restart.
///
/// What stands open is indexed by it, and retention deletes below one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsn(pub u64);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names one group commit: what was made durable as a whole. Later ones have higher numbers, from 1 on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FrameId(pub u64);

impl fmt::Display for FrameId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How far a consumer has come in one partition.
///
/// What it has not read yet is not deleted. A consumer that is gone for good stores [`u64::MAX`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The consumer's name.
    pub consumer: Arc<str>,
    /// The topic that it reads.
    pub topic: Topic,
    /// The partition.
    pub partition: u32,
    /// The offset that it reads next. The last one written counts, even if it is lower than an earlier one.
    pub next_offset: u64,
}

/// What becomes durable together or not at all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Append {
    /// Records, in order.
    pub records: Vec<NewRecord>,
    /// Positions of consumers that follow from these records, or stand alone.
    pub positions: Vec<Position>,
}

/// Where an append became durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The offset of each record in its topic partition, in the order of the append.
    pub offsets: Vec<u64>,
    /// For each record an offset that is not above its own, such that no other record lies between the two. Whoever
    /// has taken in everything below it has missed nothing before the record. In a dense log, the offsets themselves.
    pub follows: Vec<u64>,
    /// The LSN of the first record; the others follow without a gap. [`LogReader::end_lsn`] where there is no record.
    pub first_lsn: Lsn,
    /// The group commit that it was part of.
    pub frame: FrameId,
    /// When the log wrote it, in milliseconds since 1970 in UTC.
    pub appended_at_ms: i64,
}

impl Committed {
    /// The LSN of record number `index` of the append.
    pub const fn lsn(&self, index: u64) -> Lsn {
        Lsn(self.first_lsn.0 + index)
    }
}

/// What has to be true of a part of the log before it is deleted. All of it at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Its newest record is at least this old.
    pub age_min: Duration,
    /// What is newer than it has at least so many bytes.
    pub bytes_min: u64,
    /// All its records are below: the oldest that a snapshot, an open goal, effect or timer still needs.
    pub low_water: Lsn,
}

/// What was deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retained {
    /// Segments that are gone.
    pub segments_deleted: usize,
    /// Their bytes.
    pub bytes_deleted: u64,
    /// The oldest LSN that is left.
    pub start_lsn: Lsn,
}

/// Told once how an append ended. Runs on the log's own thread: it must not block and must not call the log.
pub type OnCommit = Box<dyn FnOnce(Result<Committed, LogError>) + Send>;

/// The reading side of a log.
pub trait LogReader: Send + Sync {
    /// Committed records of a partition from `offset` on, in order: at most `records_max`, and no more than
    /// `bytes_max` bytes of keys and values, but at least one where there is one (and `records_max` is not 0).
    ///
    /// Empty at the end. Fails with [`LogError::Trimmed`] where `offset` is below [`LogReader::start_offset`].
    fn read(
        &self,
        from: TopicPartition,
        offset: u64,
        records_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Record>, LogError>;

    /// Hands every committed record from `from` on to `visit`, over all topics in the order of commit, until
    /// `visit` breaks or what was committed when the call began has been seen. Returns the LSN to go on from.
    ///
    /// Whoever goes on where an earlier call of this process stopped sees every record once. From any other place
    /// the log's own records are seen from there on, and those of outsiders about from there on: who must not miss
    /// one of theirs reads its partition by offset.
    ///
    /// Fails with [`LogError::Trimmed`] where `from` is below [`LogReader::start_lsn`].
    fn replay(&self, from: Lsn, visit: &mut dyn FnMut(Record) -> ControlFlow<()>) -> Result<Lsn, LogError>;

    /// The same for records of `topics` alone, which some logs need not read the others for.
    fn replay_topics(
        &self,
        topics: &[Topic],
        from: Lsn,
        visit: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<Lsn, LogError> {
        self.replay(from, &mut |record| {
            if topics.contains(&record.topic) { visit(record) } else { ControlFlow::Continue(()) }
        })
    }

    /// The oldest offset that is kept, as far as this process knows.
    fn start_offset(&self, of: TopicPartition) -> u64;

    /// One past the last record that this process knows of: the next one gets this offset, in a log that is not
    /// dense perhaps a higher one.
    fn end_offset(&self, of: TopicPartition) -> u64;

    /// No record with a lower LSN is kept.
    fn start_lsn(&self) -> Lsn;

    /// One past the last record that this process knows of: the next one gets this LSN, in a log that is not dense
    /// perhaps a higher one.
    fn end_lsn(&self) -> Lsn;

    /// Every partition that is known to have had a record.
    fn partitions(&self) -> Vec<TopicPartition>;

    /// What `consumer` last stored.
    fn position(&self, consumer: &str, of: TopicPartition) -> Option<u64>;

    /// What every consumer last stored, in no order.
    fn positions(&self) -> Vec<Position>;

    /// Waits until [`LogReader::end_lsn`] is above `seen`, the log is closed, or `timeout` is over. Returns the
    /// end as it is then.
    fn wait_past(&self, seen: Lsn, timeout: Duration) -> Lsn;
}

/// A log that takes appends.
pub trait EventLog: LogReader {
    /// Queues an append and returns at once.
    ///
    /// The queue is bounded: [`LogError::Full`] is retryable, and nothing of the append was taken. Where this
    /// returns an error `on_commit` is never called; where it returns `Ok` it is called exactly once.
    fn append(&self, append: &Append, on_commit: OnCommit) -> Result<(), LogError>;

    /// Waits until there may be room for an append that was refused with [`LogError::Full`].
    fn wait_for_room(&self);

    /// Appends, where there is no room as soon as there is, and waits until it is durable. Not for the log's own
    /// thread.
    fn append_wait(&self, append: &Append) -> Result<Committed, LogError> {
        let (told, outcome) = mpsc::sync_channel(1);
        loop {
            let told = told.clone();
            // The receiver waits below for as long as this exists.
            let on_commit = Box::new(move |result| told.send(result).unwrap_or(()));
            match self.append(append, on_commit) {
                Ok(()) => break,
                Err(failure) if failure.is_retryable() => self.wait_for_room(),
                Err(failure) => return Err(failure),
            }
        }
        drop(told);
        // A writer that died took the callback with it.
        outcome.recv().unwrap_or(Err(LogError::Closed))
    }

    /// Waits until everything that was queued before is durable.
    fn flush(&self) -> Result<(), LogError> {
        self.append_wait(&Append::default()).map(|_| ())
    }

    /// How large the part is that [`EventLog::retain`] would delete now, and what would be the oldest LSN then.
    ///
    /// Nothing in a log whose retention is somebody else's, as that of Kafka's topics is.
    fn retainable(&self, retention: &Retention) -> Retained {
        let _ = retention;
        Retained { start_lsn: self.start_lsn(), ..Retained::default() }
    }

    /// Deletes the oldest as far as `retention` and the consumers' positions allow. May block.
    ///
    /// Does nothing to a log whose retention is somebody else's.
    fn retain(&self, retention: &Retention) -> Result<Retained, LogError> {
        let _ = retention;
        Ok(Retained { start_lsn: self.start_lsn(), ..Retained::default() })
    }

    /// Makes what is queued durable, then takes nothing more. A second call does nothing. Reading goes on.
    fn close(&self) -> Result<(), LogError>;
}
