//! What the actors of one lane share.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use kintsugi_eventlog::{Append, Committed, EventLog, LogError, OnCommit, partition_of};
use kintsugi_events::Event;
use kintsugi_types::AgentId;
use tracing::{debug, error};

use crate::context::NodeContext;
use crate::effects::RunningEffects;
use crate::feed::Feed;
use crate::node::NodeError;
use crate::store::Store;

/// Hears that the log of a lane takes no more appends. May be told more than once.
pub type OnLogFailure = Box<dyn Fn(&LogError) + Send + Sync>;

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
}

/// What the actors of one lane share: its log, the cache beside it, and what runs for its agents.
pub struct LaneContext {
    /// What all lanes share.
    pub node: Arc<NodeContext>,
    /// Which lane it is.
    pub place: LanePlace,
    /// Its log: all truth.
    pub log: Arc<dyn EventLog>,
    /// The cache of dormant agents.
    pub store: Store,
    /// Committed events on their way to those who want them.
    pub feed: Feed,
    /// What runs outside for the agents.
    pub(crate) effects: RunningEffects,
    on_log_failure: OnLogFailure,
    is_stopping: AtomicBool,
    // Last, so that the cache is closed by the time that this goes.
    _alive: SyncSender<()>,
}

impl std::fmt::Debug for LaneContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LaneContext").field("place", &self.place).finish_non_exhaustive()
    }
}

impl LaneContext {
    /// Opens the cache in `store_dir`. The log has to be open. Whoever listens learns that nobody holds the context
    /// any more when the receiver is disconnected.
    pub fn open(
        node: Arc<NodeContext>,
        place: LanePlace,
        log: Arc<dyn EventLog>,
        store_dir: &Path,
        on_log_failure: OnLogFailure,
    ) -> Result<(Arc<Self>, Receiver<()>), NodeError> {
        let (alive, ended) = sync_channel(1);
        let lane = Self {
            node,
            place,
            log,
            store: Store::open(store_dir)?,
            feed: Feed::default(),
            effects: RunningEffects::default(),
            on_log_failure,
            is_stopping: AtomicBool::new(false),
            _alive: alive,
        };
        Ok((Arc::new(lane), ended))
    }

    /// Whether the agent lives in this lane.
    pub(crate) fn holds(&self, agent: &AgentId) -> bool {
        self.place.holds(agent.as_str())
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
        self.node.status.count(events);
        self.feed.publish(events, committed);
    }

    /// The log failed for good: whoever opened the lane is told; its state is safe.
    pub(crate) fn log_failed(&self, failure: &LogError) {
        // Whoever runs the node is told the reason and tells it.
        debug!(lane = self.place.number, %failure, "the log takes no more appends");
        (self.on_log_failure)(failure);
    }

    /// Notes that the lane is being stopped: what dies from now on is not started again.
    pub(crate) fn stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    /// Whether others may have had the lane before, and may still live.
    pub(crate) fn is_shared(&self) -> bool {
        self.place.partitions > 1
    }

    /// Whether the lane is being stopped.
    pub(crate) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }
}
