//! What every lane has, whatever works on it: its log, the cache beside it, and who hears of what is committed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kintsugi_eventlog::{Append, Committed, EventLog, LogError, Lsn, OnCommit, TopicPartition, partition_of};
use kintsugi_events::{Event, Topic};
use kintsugi_types::Clock;
use tracing::{debug, error, info, warn};

use crate::feed::Feed;
use crate::status::Status;
use crate::store::{Store, StoreError};

/// How long the thread that waits for what others write waits before it looks whether it shall end.
const NEWS_WAIT: Duration = Duration::from_millis(500);

/// How long the actors of a lane that was stopped may take to be gone.
const GONE_MAX: Duration = Duration::from_secs(10);

/// Hears why a lane cannot go on: its log takes no more appends, or what works on it keeps dying. Its state is safe.
/// May be told more than once.
pub type OnLaneFailure = Box<dyn Fn(&str) + Send + Sync>;

/// Which of the log's partitions a lane holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LanePlace {
    /// Its number: that of its partition in every topic.
    pub number: u32,
    /// How many partitions every topic has.
    pub partitions: u32,
}

impl LanePlace {
    /// The one lane of a log with one partition.
    pub const ONLY: Self = Self { number: 0, partitions: 1 };

    /// The partition of everything that has this key.
    pub fn partition_of(&self, key: &str) -> u32 {
        partition_of(key.as_bytes(), self.partitions)
    }

    /// Whether this lane holds everything that has this key.
    pub fn holds(&self, key: &str) -> bool {
        self.partitions <= 1 || self.partition_of(key) == self.number
    }

    /// Whether others may have had the lane before, and may still live.
    pub const fn is_shared(&self) -> bool {
        self.partitions > 1
    }
}

/// A lane's log, the cache beside it, and who hears of what is committed.
pub struct LaneCore {
    /// Which lane it is.
    pub place: LanePlace,
    /// Its log: all truth.
    pub log: Arc<dyn EventLog>,
    /// The cache beside it.
    pub store: Store,
    /// Committed events on their way to those who want them.
    pub feed: Feed,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What is going on, for display.
    status: Arc<Status>,
    on_failure: OnLaneFailure,
    is_stopping: AtomicBool,
    /// Retention waits for snapshots from here on of whoever writes them rarely.
    snapshots_wanted: AtomicU64,
    // Last, so that the cache is closed by the time that this goes.
    _alive: SyncSender<()>,
}

impl std::fmt::Debug for LaneCore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LaneCore").field("place", &self.place).finish_non_exhaustive()
    }
}

impl LaneCore {
    /// Opens the cache in `store_dir`. The log has to be open. Whoever listens learns that nobody holds the lane any
    /// more when the receiver is disconnected.
    pub(crate) fn open(
        place: LanePlace,
        log: Arc<dyn EventLog>,
        store_dir: &Path,
        (clock, status): (Arc<dyn Clock>, Arc<Status>),
        on_failure: OnLaneFailure,
    ) -> Result<(Arc<Self>, Receiver<()>), StoreError> {
        let (alive, ended) = sync_channel(1);
        let lane = Self {
            place,
            log,
            store: Store::open(store_dir)?,
            feed: Feed::default(),
            clock,
            status,
            on_failure,
            is_stopping: AtomicBool::new(false),
            snapshots_wanted: AtomicU64::new(0),
            _alive: alive,
        };
        Ok((Arc::new(lane), ended))
    }

    /// Queues an append of `events`, which are the first of its records. As soon as it is durable it is counted and
    /// fed, whether whoever queued it still lives or not; then `then` is called, on the log's own thread.
    pub(crate) fn append(
        self: &Arc<Self>,
        append: &Append,
        events: Arc<[Event]>,
        then: OnCommit,
    ) -> Result<(), LogError> {
        let lane = self.clone();
        self.log.append(
            append,
            Box::new(move |outcome| {
                if let Ok(committed) = &outcome {
                    lane.take_in(&events, committed);
                }
                then(outcome);
            }),
        )
    }

    /// Appends what a part of the lane has to say by itself. Where the log has no room it waits: this is rare and
    /// small, and a further queue would have to be bounded too.
    pub(crate) fn append_own(self: &Arc<Self>, append: &Append, events: Vec<Event>) {
        let events: Arc<[Event]> = events.into();
        let lane = self.clone();
        let told = move |outcome: Result<Committed, LogError>| {
            if let Err(failure) = outcome {
                lane.log_failed(&failure);
            }
        };
        match self.append(append, events.clone(), Box::new(told)) {
            Ok(()) => {}
            Err(failure) if failure.is_retryable() => self.append_own_wait(append, &events),
            // Without it the lane can go on, and at the next try it would be as large.
            Err(failure @ LogError::TooLarge { .. }) => error!(%failure, "left out of the log"),
            Err(failure) => self.log_failed(&failure),
        }
    }

    /// Appends what a part of the lane has to say by itself and waits until it is durable. `events` are the first of
    /// the append's records.
    pub(crate) fn append_own_wait(&self, append: &Append, events: &Arc<[Event]>) {
        match self.log.append_wait(append) {
            Ok(committed) => self.take_in(events, &committed),
            Err(failure @ LogError::TooLarge { .. }) => error!(%failure, "left out of the log"),
            Err(failure) => self.log_failed(&failure),
        }
    }

    /// Counts and feeds what was committed.
    fn take_in(&self, events: &Arc<[Event]>, committed: &Committed) {
        self.status.count(events);
        self.feed.publish(events, committed);
    }

    /// The log failed for good: whoever opened the lane is told; its state is safe.
    pub(crate) fn log_failed(&self, failure: &LogError) {
        // Whoever runs the lane is told the reason and tells it.
        debug!(lane = self.place.number, %failure, "the log takes no more appends");
        self.failed(&failure.to_string());
    }

    /// The lane cannot go on: whoever opened it is told.
    pub(crate) fn failed(&self, reason: &str) {
        (self.on_failure)(reason);
    }

    /// Asks everybody who snapshots a state of the lane's for one that lies at `lsn` or later.
    pub(crate) fn want_snapshots_past(&self, lsn: Lsn) {
        self.snapshots_wanted.fetch_max(lsn.0, Ordering::Relaxed);
    }

    /// From where on a snapshot of each state is wanted. One that is queued after this was read lies there.
    pub(crate) fn snapshots_wanted(&self) -> Lsn {
        Lsn(self.snapshots_wanted.load(Ordering::Relaxed))
    }

    /// Notes that the lane is being stopped: what dies from now on is not started again.
    pub(crate) fn stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    /// Whether the lane is being stopped.
    pub(crate) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    /// Calls `tell` whenever `topics` have grown, from a thread of its own, until the lane is stopped.
    pub(crate) fn listen(
        self: &Arc<Self>,
        topics: &'static [Topic],
        tell: impl Fn() + Send + 'static,
    ) -> std::io::Result<JoinHandle<()>> {
        let lane = self.clone();
        let name = format!("lane-{}-news", lane.place.number);
        std::thread::Builder::new().name(name).spawn(move || lane.hear(topics, tell))
    }

    fn hear(&self, topics: &[Topic], tell: impl Fn()) {
        let mut seen = self.log.end_lsn();
        let mut end = 0;
        while !self.is_stopping() {
            let ends = topics.iter().map(|topic| TopicPartition::new(*topic, self.place.number));
            let grown = ends.map(|at| self.log.end_offset(at)).sum();
            if grown > end {
                end = grown;
                tell();
            }
            let begun = Instant::now();
            let after = self.log.wait_past(seen, NEWS_WAIT);
            // It waits for nothing where the log takes no more appends, which nobody else may have noticed.
            if after == seen
                && begun.elapsed() < NEWS_WAIT / 2
                && let Err(failure) = self.log.flush()
            {
                self.log_failed(&failure);
                return;
            }
            seen = after;
        }
    }

    /// Closes the log of a lane that was stopped, and returns when nobody works on the lane any more. `news` is the
    /// thread that listens, `ended` the receiver that the lane was opened with.
    pub(crate) fn close(self: Arc<Self>, news: Option<JoinHandle<()>>, ended: &Receiver<()>) {
        if let Some(news) = news {
            // It has nothing to tell.
            let _ = news.join();
        }
        let (number, log) = (self.place.number, self.log.clone());
        drop(self);
        if let Err(failure) = log.close() {
            info!(lane = number, %failure, "the lane's log was closed");
        }
        // Everybody who holds the lane has to let go: only then may its cache be opened again.
        if matches!(ended.recv_timeout(GONE_MAX), Err(RecvTimeoutError::Timeout)) {
            warn!(lane = number, "the lane still has actors");
        }
    }
}
