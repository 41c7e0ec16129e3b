//! What the actors of a node share: nothing is global, it is handed down.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix::System;
use kintsugi_agent::KindConfig;
use kintsugi_chaos::Lasting;
use kintsugi_eventlog::{Append, Committed, EventLog, LogError, OnCommit};
use kintsugi_events::{Event, Mode};
use kintsugi_gpu_scheduler::{EngineReport, GpuScheduler, SchedulerContext, SchedulerHandle};
use kintsugi_tools::Registry;
use kintsugi_types::{AgentId, AgentKind, Clock, Invariants, SystemIds};
use tracing::{debug, error};

use crate::config::{NodeConfig, Population};
use crate::effects::RunningEffects;
use crate::feed::Feed;
use crate::node::{NodeError, NodeParts};
use crate::status::Status;
use crate::store::Store;

/// What every actor of a node shares.
pub struct NodeContext {
    /// Settings.
    pub config: NodeConfig,
    /// The one log: all truth.
    pub log: Arc<dyn EventLog>,
    /// The cache of dormant agents.
    pub store: Store,
    /// The model.
    pub scheduler: SchedulerHandle,
    /// The tools.
    pub tools: Arc<Registry>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Counts of broken promises.
    pub invariants: Arc<Invariants>,
    /// What is going on, for display.
    pub status: Arc<Status>,
    /// Committed events on their way to those who want them.
    pub feed: Feed,
    /// What runs outside for the agents.
    pub(crate) effects: RunningEffects,
    /// Faults on purpose that still go on. Like those that they stand for, they do not outlive the process.
    lasting_faults: Mutex<Lasting>,
    pub(crate) is_stopping: AtomicBool,
    /// The actor system that everything lives in.
    pub(crate) system: System,
}

impl std::fmt::Debug for NodeContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeContext").field("config", &self.config).finish_non_exhaustive()
    }
}

impl NodeContext {
    /// Starts the scheduler and opens the cache. Has to be called inside an actix system, and the log has to be open.
    /// `on_fault` hears of the engine's faults, on the engine's thread.
    pub fn open(parts: NodeParts, on_fault: Box<dyn Fn(EngineReport) + Send>) -> Result<Self, NodeError> {
        let NodeParts { mut config, log, tools, scheduler, backend, clock } = parts;
        if matches!(config.mode, Mode::Observe | Mode::Recommend) {
            // Nobody comes to mend an agent: it does not wait for that.
            for kind in config.kinds.values_mut() {
                Arc::make_mut(kind).limits.park_ms = 0;
            }
        }
        for Population { kind, count } in &config.population {
            if let Some(kind) = config.kinds.get_mut(kind) {
                Arc::make_mut(kind).population = *count;
            }
        }
        let invariants = Arc::new(Invariants::new());
        let context = SchedulerContext {
            clock: clock.clone(),
            ids: Box::new(SystemIds),
            invariants: invariants.clone(),
            on_fault,
        };
        let scheduler = GpuScheduler::start(&scheduler, backend, context)?;
        let store = Store::open(&config.store_dir)?;
        Ok(Self {
            config,
            log,
            store,
            scheduler,
            tools,
            clock,
            invariants,
            status: Arc::default(),
            feed: Feed::default(),
            effects: RunningEffects::default(),
            lasting_faults: Mutex::default(),
            is_stopping: AtomicBool::new(false),
            system: System::current(),
        })
    }

    /// Queues an append of `events`, which are the first of its records. As soon as it is durable it is counted and
    /// fed, whether whoever queued it still lives or not; then `then` is called, on the log's own thread.
    pub(crate) fn append(
        self: &Arc<Self>,
        append: &Append,
        events: Arc<[Event]>,
        then: OnCommit,
    ) -> Result<(), LogError> {
        let node = self.clone();
        self.log.append(
            append,
            Box::new(move |outcome| {
                if let Ok(committed) = &outcome {
                    node.take_in(&events, committed);
                }
                then(outcome);
            }),
        )
    }

    /// Appends what a part of the node has to say by itself. Where the log has no room it waits: this is rare and
    /// small, and a further queue would have to be bounded too.
    pub(crate) fn append_own(self: &Arc<Self>, append: &Append, events: Vec<Event>) {
        let events: Arc<[Event]> = events.into();
        let node = self.clone();
        let told = move |outcome: Result<Committed, LogError>| {
            if let Err(failure) = outcome {
                node.log_failed(&failure);
            }
        };
        match self.append(append, events.clone(), Box::new(told)) {
            Ok(()) => {}
            Err(failure) if failure.is_retryable() => self.append_own_wait(append, &events),
            // Without it the node can go on, and at the next try it would be as large.
            Err(failure @ LogError::TooLarge { .. }) => error!(%failure, "left out of the log"),
            Err(failure) => self.log_failed(&failure),
        }
    }

    /// Appends what a part of the node has to say by itself and waits until it is durable. `events` are the first of
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

    /// The log failed for good: the node says so and stops, its state is safe.
    pub(crate) fn log_failed(&self, failure: &LogError) {
        // Whoever runs the node is told the reason and tells it.
        debug!(%failure, "the log takes no more appends");
        self.give_up(failure.to_string());
    }

    /// Whether the node is being stopped.
    pub(crate) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    /// Stops the node because it cannot go on.
    pub(crate) fn give_up(&self, reason: String) {
        self.status.log_failed(reason);
        self.system.stop_with_code(1);
    }

    /// Faults on purpose that still go on.
    pub(crate) fn lasting_faults(&self) -> MutexGuard<'_, Lasting> {
        self.lasting_faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The configuration of a kind.
    pub fn kind(&self, kind: &AgentKind) -> Option<&Arc<KindConfig>> {
        self.config.kinds.get(kind)
    }

    /// The kind of an agent by its name.
    pub fn kind_of(&self, agent: &AgentId) -> Option<&AgentKind> {
        self.config.population.iter().find(|population| population.contains(agent)).map(|p| &p.kind)
    }
}
