//! What all lanes of a node share: nothing is global, it is handed down.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix::System;
use kintsugi_agent::KindConfig;
use kintsugi_chaos::Lasting;
use kintsugi_events::{Mode, Subject};
use kintsugi_gpu_scheduler::{
    BackendFactory, EngineReport, GpuScheduler, SchedulerConfig, SchedulerContext, SchedulerHandle,
};
use kintsugi_tools::Registry;
use kintsugi_types::{AgentId, AgentKind, Clock, Invariants, SystemIds};

use crate::config::{NodeConfig, Population};
use crate::node::NodeError;
use crate::runnable::RunnableBudget;
use crate::smaller::{Smaller, SmallerParts};
use crate::status::Status;

/// What all lanes of a node share.
pub struct NodeContext {
    /// Settings.
    pub config: NodeConfig,
    /// The model.
    pub scheduler: SchedulerHandle,
    /// The smaller model, where there is one.
    pub smaller: Option<Smaller>,
    /// The tools.
    pub tools: Arc<Registry>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Counts of broken promises.
    pub invariants: Arc<Invariants>,
    /// What is going on, for display.
    pub status: Arc<Status>,
    /// Goals in progress, over all lanes.
    pub(crate) runnable: Arc<RunnableBudget>,
    /// Faults on purpose that still go on. Like those that they stand for, they do not outlive the process.
    lasting_faults: Mutex<Lasting>,
    /// The actor system that everything lives in.
    pub(crate) system: System,
}

impl std::fmt::Debug for NodeContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeContext").field("config", &self.config).finish_non_exhaustive()
    }
}

impl NodeContext {
    /// Starts the schedulers. Has to be called inside an actix system. `on_fault` hears of each engine's faults, on that
    /// engine's thread.
    pub fn open(
        mut config: NodeConfig,
        tools: Arc<Registry>,
        clock: Arc<dyn Clock>,
        (scheduler, backend): (&SchedulerConfig, BackendFactory),
        smaller: Option<SmallerParts>,
        on_fault: impl Fn(Subject, EngineReport) + Clone + Send + 'static,
    ) -> Result<Self, NodeError> {
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
        let start = |of: Subject, config: &SchedulerConfig, backend| {
            let on_fault = on_fault.clone();
            let context = SchedulerContext {
                clock: clock.clone(),
                ids: Box::new(SystemIds),
                invariants: invariants.clone(),
                on_fault: Box::new(move |report| on_fault(of.clone(), report)),
            };
            GpuScheduler::start(config, backend, context)
        };
        let scheduler = start(Subject::Engine, scheduler, backend)?;
        let smaller = match smaller {
            None => None,
            Some(SmallerParts { name, scheduler, backend }) => {
                let scheduler = start(Subject::Model(name.clone()), &scheduler, backend)?;
                Some(Smaller { name, scheduler })
            }
        };
        Ok(Self {
            runnable: Arc::new(RunnableBudget::new(config.runnable_max)),
            config,
            scheduler,
            smaller,
            tools,
            clock,
            invariants,
            status: Arc::default(),
            lasting_faults: Mutex::default(),
            system: System::current(),
        })
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
