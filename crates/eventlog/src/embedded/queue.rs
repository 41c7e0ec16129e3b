//! Appends that wait for the writer: bounded by number and by bytes.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::codec::{RECORD_OVERHEAD_BYTES, encode_record};
use super::reader::locked;
use crate::error::LogError;
use crate::log::{Append, OnCommit, Position};
use crate::record::{NewRecord, TopicPartition};

/// The most that a position takes beside its consumer's name.
const POSITION_OVERHEAD_BYTES: usize = 20;

/// An append as the writer needs it.
#[derive(Debug)]
pub(super) struct EncodedAppend {
    /// Its records, one after the other.
    pub(super) bytes: Vec<u8>,
    /// Where each record goes.
    pub(super) places: Vec<TopicPartition>,
    pub(super) positions: Vec<Position>,
}

impl EncodedAppend {
    /// Encodes in the caller's thread: the writer has one core for everybody.
    pub(super) fn new(append: &Append, bytes_max: usize) -> Result<Self, LogError> {
        let contents = append.records.iter().map(|record| record.value.len() + record.key.len());
        let expected: usize = contents.map(|bytes| bytes + RECORD_OVERHEAD_BYTES).sum();
        let mut bytes = Vec::with_capacity(expected.min(bytes_max));
        for record in &append.records {
            if record.value.len() > bytes_max {
                return Err(LogError::TooLarge { bytes: record.value.len(), bytes_max });
            }
            encode_record(&mut bytes, record).map_err(|malformed| LogError::Encode {
                event_type: record.event_type.to_string(),
                reason: malformed.0.to_owned(),
            })?;
            if bytes.len() > bytes_max {
                return Err(LogError::TooLarge { bytes: bytes.len().max(expected), bytes_max });
            }
        }
        let places = append.records.iter().map(NewRecord::topic_partition).collect();
        let encoded = Self { bytes, places, positions: append.positions.clone() };
        let bytes = encoded.size();
        if bytes > bytes_max { Err(LogError::TooLarge { bytes, bytes_max }) } else { Ok(encoded) }
    }

    /// About what it adds to a frame, in bytes.
    pub(super) fn size(&self) -> usize {
        let positions =
            self.positions.iter().map(|position| position.consumer.len() + POSITION_OVERHEAD_BYTES);
        self.bytes.len() + positions.sum::<usize>()
    }

    /// Whether it only waits for what is before it.
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty() && self.positions.is_empty()
    }
}

/// An append that waits.
pub(super) struct Waiting {
    pub(super) encoded: EncodedAppend,
    pub(super) on_commit: OnCommit,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// Whether the writer sleeps. Waking it is a system call, which nobody needs while it is at work.
    is_writer_asleep: bool,
    is_closed: bool,
    poison: Option<Arc<str>>,
}

/// How much may wait, and how much one group takes, at most.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Appends that wait.
    pub(super) appends: usize,
    /// Bytes that wait.
    pub(super) bytes: usize,
    pub(super) group_records: usize,
    pub(super) group_bytes: usize,
}

/// Appends that wait for the writer.
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    /// Told when the writer took a group, or nothing is taken any more.
    room: Condvar,
    limits: Limits,
}

impl Queue {
    pub(super) fn new(limits: Limits) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), room: Condvar::new(), limits }
    }

    /// Puts an append at the end, or refuses it.
    pub(super) fn push(&self, waiting: Waiting) -> Result<(), LogError> {
        let mut state = locked(&self.state);
        if let Some(reason) = &state.poison {
            return Err(LogError::Poisoned { reason: Arc::clone(reason) });
        }
        if state.is_closed {
            return Err(LogError::Closed);
        }
        let (appends, bytes) = (state.waiting.len(), state.bytes);
        let new_bytes = waiting.encoded.size();
        // An append that is larger than the whole queue is taken when it is alone.
        if appends >= self.limits.appends || (appends > 0 && bytes + new_bytes > self.limits.bytes) {
            return Err(LogError::Full { appends, bytes });
        }
        state.bytes += new_bytes;
        state.waiting.push_back(waiting);
        let is_writer_asleep = std::mem::take(&mut state.is_writer_asleep);
        drop(state);
        if is_writer_asleep {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Waits for appends and moves those of the next group into `group`: whole ones, in order, without waiting for
    /// more. `false` when the queue is closed and empty.
    pub(super) fn take_group(&self, group: &mut Vec<Waiting>) -> bool {
        let state = locked(&self.state);
        let is_idle = |state: &mut State| {
            state.is_writer_asleep = state.waiting.is_empty() && !state.is_closed;
            state.is_writer_asleep
        };
        let mut state = self.changed.wait_while(state, is_idle).unwrap_or_else(PoisonError::into_inner);
        let (mut records, mut bytes) = (0, 0);
        while let Some(next) = state.waiting.front() {
            records += next.encoded.places.len();
            bytes += next.encoded.size();
            let is_full = records > self.limits.group_records || bytes > self.limits.group_bytes;
            if is_full && !group.is_empty() {
                break;
            }
            let Some(next) = state.waiting.pop_front() else { break };
            state.bytes -= next.encoded.size();
            group.push(next);
        }
        drop(state);
        self.room.notify_all();
        !group.is_empty()
    }

    /// Waits until the writer took something, unless nothing waits or nothing is taken any more.
    pub(super) fn wait_for_room(&self) {
        let state = locked(&self.state);
        let before = state.waiting.len();
        let is_full = |state: &mut State| {
            before > 0 && state.waiting.len() >= before && !state.is_closed && state.poison.is_none()
        };
        // Whoever waited tries again and finds out what has become of it.
        drop(self.room.wait_while(state, is_full));
    }

    /// Takes nothing more. What waits is still written.
    pub(super) fn close(&self) {
        locked(&self.state).is_closed = true;
        self.room.notify_all();
        self.changed.notify_all();
    }

    /// Takes nothing more and hands out what waits, to be refused for `reason`.
    pub(super) fn poison(&self, reason: &Arc<str>) -> VecDeque<Waiting> {
        let mut state = locked(&self.state);
        state.poison.get_or_insert_with(|| Arc::clone(reason));
        state.bytes = 0;
        self.room.notify_all();
        std::mem::take(&mut state.waiting)
    }

    /// Why nothing is taken any more, after a failure.
    pub(super) fn poisoned(&self) -> Option<LogError> {
        let state = locked(&self.state);
        state.poison.as_ref().map(|reason| LogError::Poisoned { reason: Arc::clone(reason) })
    }
}
