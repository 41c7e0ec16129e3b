//! The contract of a log. The embedded log keeps it, a Kafka log can, and one conformance suite checks both.
//!
//! - **Atomic**: the records of one [`Append`], whatever their topics, and its positions become durable together
//!   or not at all.
//! - **Durable before acknowledged**: `on_commit` is called with `Ok` only after the bytes are on the device.
//! - **Ordered**: appends commit in the order in which they were queued, and are acknowledged in that order;
//!   records of one append in the order that they have there.
//! - **Offsets** of a topic partition count from 0 without a gap.
//! - **Committed only**: no reader sees a record before it is durable.
//! - **No retry inside**: after a failed write or sync the log takes no more appends, because what is on the
//!   device is then unknown.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use kintsugi_events::Topic;
use serde::{Deserialize, Serialize};

use crate::error::LogError;
use crate::record::{NewRecord, Record, TopicPartition};

/// A record's place in the order in which the log committed, over all topics: from 0 without a gap.
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

/// Names one group commit: the frame that was written and synced as a whole. From 1 without a gap.
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
    /// The LSN of the first record; the others follow without a gap. The next LSN where there is no record.
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
    /// Fails with [`LogError::Trimmed`] where `from` is below [`LogReader::start_lsn`].
    fn replay(&self, from: Lsn, visit: &mut dyn FnMut(Record) -> ControlFlow<()>) -> Result<Lsn, LogError>;

    /// The oldest offset that is kept.
    fn start_offset(&self, of: TopicPartition) -> u64;

    /// The offset that the next record will get.
    fn end_offset(&self, of: TopicPartition) -> u64;

    /// The oldest LSN that is kept.
    fn start_lsn(&self) -> Lsn;

    /// The LSN that the next record will get.
    fn end_lsn(&self) -> Lsn;

    /// Every partition that ever had a record.
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

    /// Makes what is queued durable, then takes nothing more. A second call does nothing. Reading goes on.
    fn close(&self) -> Result<(), LogError>;
}
