//! Appends that wait for the thread that makes them durable: bounded by number and by bytes.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::LogError;
use crate::log::{Committed, OnCommit};

/// Locks, also after another thread panicked: what a lock guards here is whole between any two statements.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells an appender how its append ended. One that panics harms only itself.
pub(crate) fn tell(on_commit: OnCommit, outcome: Result<Committed, LogError>) {
    if catch_unwind(AssertUnwindSafe(|| on_commit(outcome))).is_err() {
        tracing::error!("an appender panicked when it was told of its commit");
    }
}

/// An append in the form in which it waits.
pub(crate) trait Queued {
    /// How many records it has.
    fn records(&self) -> usize;

    /// About what it takes in memory and on the way, in bytes.
    fn size(&self) -> usize;
}

/// An append that waits.
pub(crate) struct Waiting<A> {
    pub(crate) append: A,
    pub(crate) on_commit: OnCommit,
}

struct State<A> {
    waiting: VecDeque<Waiting<A>>,
    bytes: usize,
    /// Whether the writer sleeps. Waking it is a system call, which nobody needs while it is at work.
    is_writer_asleep: bool,
    is_closed: bool,
    poison: Option<Arc<str>>,
}

/// How much may wait, and how much one group takes, at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Appends that wait.
    pub(crate) appends: usize,
    /// Bytes that wait.
    pub(crate) bytes: usize,
    pub(crate) group_records: usize,
    pub(crate) group_bytes: usize,
}

/// What came of asking for a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// There is one.
    Group,
    /// Nothing came in time.
    Nothing,
    /// The queue is closed and empty.
    Over,
}

/// Appends that wait for the writer.
pub(crate) struct Queue<A> {
    state: Mutex<State<A>>,
    changed: Condvar,
    /// Told when the writer took a group, or nothing is taken any more.
    room: Condvar,
    limits: Limits,
}

impl<A: Queued> Queue<A> {
    pub(crate) fn new(limits: Limits) -> Self {
        let state = State {
            waiting: VecDeque::new(),
            bytes: 0,
            is_writer_asleep: false,
            is_closed: false,
            poison: None,
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), room: Condvar::new(), limits }
    }

    /// Puts an append at the end, or refuses it.
    pub(crate) fn push(&self, waiting: Waiting<A>) -> Result<(), LogError> {
        let mut state = locked(&self.state);
        if let Some(reason) = &state.poison {
            return Err(LogError::Poisoned { reason: Arc::clone(reason) });
        }
        if state.is_closed {
            return Err(LogError::Closed);
        }
        let (appends, bytes) = (state.waiting.len(), state.bytes);
        let new_bytes = waiting.append.size();
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

    /// Waits for appends, at most for `patience`, and moves those of the next group into `group`: whole ones, in
    /// order, without waiting for more.
    pub(crate) fn take_group(&self, group: &mut Vec<Waiting<A>>, patience: Option<Duration>) -> Taken {
        let state = locked(&self.state);
        let is_idle = |state: &mut State<A>| {
            state.is_writer_asleep = state.waiting.is_empty() && !state.is_closed;
            state.is_writer_asleep
        };
        let mut state = match patience {
            None => self.changed.wait_while(state, is_idle).unwrap_or_else(PoisonError::into_inner),
            Some(patience) => {
                let waited = self.changed.wait_timeout_while(state, patience, is_idle);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        state.is_writer_asleep = false;
        let (mut records, mut bytes) = (0, 0);
        while let Some(next) = state.waiting.front() {
            records += next.append.records();
            bytes += next.append.size();
            let is_full = records > self.limits.group_records || bytes > self.limits.group_bytes;
            if is_full && !group.is_empty() {
                break;
            }
            let Some(next) = state.waiting.pop_front() else { break };
            state.bytes -= next.append.size();
            group.push(next);
        }
        let is_over = state.is_closed && group.is_empty();
        drop(state);
        self.room.notify_all();
        match group.is_empty() {
            false => Taken::Group,
            true if is_over => Taken::Over,
            true => Taken::Nothing,
        }
    }

    /// Waits until the writer took something, unless nothing waits or nothing is taken any more.
    pub(crate) fn wait_for_room(&self) {
        let state = locked(&self.state);
        let before = state.waiting.len();
        let is_full = |state: &mut State<A>| {
            before > 0 && state.waiting.len() >= before && !state.is_closed && state.poison.is_none()
        };
        // Whoever waited tries again and finds out what has become of it.
        drop(self.room.wait_while(state, is_full));
    }

    /// Takes nothing more. What waits is still written.
    pub(crate) fn close(&self) {
        locked(&self.state).is_closed = true;
        self.room.notify_all();
        self.changed.notify_all();
    }

    /// Whether nothing more is taken, because it was closed.
    #[cfg(feature = "kafka")]
    pub(crate) fn is_closed(&self) -> bool {
        locked(&self.state).is_closed
    }

    /// Takes nothing more and hands out what waits, to be refused for `reason`.
    pub(crate) fn poison(&self, reason: &Arc<str>) -> VecDeque<Waiting<A>> {
        let mut state = locked(&self.state);
        state.poison.get_or_insert_with(|| Arc::clone(reason));
        state.bytes = 0;
        self.room.notify_all();
        std::mem::take(&mut state.waiting)
    }

    /// Why nothing is taken any more, after a failure.
    pub(crate) fn poisoned(&self) -> Option<LogError> {
        let state = locked(&self.state);
        state.poison.as_ref().map(|reason| LogError::Poisoned { reason: Arc::clone(reason) })
    }
}
