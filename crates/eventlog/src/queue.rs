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
    /// How many appends have to wait for the writer to be woken, where it sleeps. Waking it is a system call, which
    /// nobody needs while it is at work.
    wakes_at: Option<usize>,
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

/// For what a writer waits once it has something to write.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Gather {
    /// Until so many appends wait.
    pub(crate) count: usize,
    /// But not longer than this.
    pub(crate) patience: Duration,
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
        let state =
            State { waiting: VecDeque::new(), bytes: 0, wakes_at: None, is_closed: false, poison: None };
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
        let wakes = state.wakes_at.is_some_and(|count| state.waiting.len() >= count);
        if wakes {
            state.wakes_at = None;
        }
        drop(state);
        if wakes {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Waits for appends, at most for `patience`, and moves those of the next group into `group`: whole ones, in
    /// order. As soon as there is one, waits for more as `gather` says.
    pub(crate) fn take_group(
        &self,
        group: &mut Vec<Waiting<A>>,
        patience: Option<Duration>,
        gather: Gather,
    ) -> Taken {
        let mut state = self.sleep(locked(&self.state), 1, patience);
        let count = gather.count.min(self.limits.appends).min(self.limits.group_records);
        let is_full = state.bytes >= self.limits.group_bytes;
        if !state.waiting.is_empty() && state.waiting.len() < count && !is_full {
            state = self.sleep(state, count, Some(gather.patience));
        }
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

    /// Waits until so many appends wait or nothing more is taken, at most for `patience`.
    fn sleep<'a>(
        &'a self,
        state: MutexGuard<'a, State<A>>,
        count: usize,
        patience: Option<Duration>,
    ) -> MutexGuard<'a, State<A>> {
        let is_early = |state: &mut State<A>| {
            let is_early = state.waiting.len() < count && !state.is_closed;
            state.wakes_at = is_early.then_some(count);
            is_early
        };
        let mut state = match patience {
            None => self.changed.wait_while(state, is_early).unwrap_or_else(PoisonError::into_inner),
            Some(patience) => {
                let waited = self.changed.wait_timeout_while(state, patience, is_early);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        state.wakes_at = None;
        state
    }

    /// How many appends wait.
    #[cfg(feature = "kafka")]
    pub(crate) fn waiting(&self) -> usize {
        locked(&self.state).waiting.len()
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;
    use std::time::Instant;

    use super::*;

    /// Long enough that nobody waits for its end where there is something to wake them.
    const LONG: Duration = Duration::from_mins(1);

    struct One;

    impl Queued for One {
        fn records(&self) -> usize {
            1
        }

        fn size(&self) -> usize {
            10
        }
    }

    fn queue(group_records: usize) -> Queue<One> {
        Queue::new(Limits { appends: 100, bytes: 10_000, group_records, group_bytes: 1_000 })
    }

    fn push(queue: &Queue<One>, count: usize) {
        for _ in 0..count {
            let waiting = Waiting { append: One, on_commit: Box::new(drop) };
            queue.push(waiting).expect("room");
        }
    }

    fn taken(queue: &Queue<One>, gather: Gather) -> usize {
        let mut group = Vec::new();
        assert_eq!(queue.take_group(&mut group, Some(LONG), gather), Taken::Group);
        group.len()
    }

    #[test]
    fn a_writer_that_gathers_waits_for_as_many_as_it_expects() {
        let queue = Arc::new(queue(50));
        push(&queue, 1);
        let writer = thread::spawn({
            let queue = Arc::clone(&queue);
            move || taken(&queue, Gather { count: 4, patience: LONG })
        });
        // One by one: the writer must not be content with the first that wakes it.
        for _ in 0..3 {
            push(&queue, 1);
        }
        assert_eq!(writer.join().expect("taken"), 4);
    }

    #[test]
    fn a_writer_that_gathers_takes_what_is_there_when_its_patience_is_over() {
        let queue = queue(50);
        push(&queue, 2);
        let patience = Duration::from_millis(20);
        let begun = Instant::now();
        assert_eq!(taken(&queue, Gather { count: 4, patience }), 2);
        assert!(begun.elapsed() >= patience, "it did not wait");
    }

    #[test]
    fn a_writer_does_not_wait_where_a_group_is_full_or_nobody_is_expected() {
        let begun = Instant::now();
        let queue = queue(3);
        push(&queue, 5);
        assert_eq!(taken(&queue, Gather { count: 100, patience: LONG }), 3);
        assert_eq!(taken(&queue, Gather::default()), 2);
        assert!(begun.elapsed() < LONG, "it waited for others");
    }
}
