//! A node: its own thread with an actix system, its lanes, and what they share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use actix::prelude::*;
use kintsugi_eventlog::{Append, Committed, LogError, NewRecord, Retained};
use kintsugi_events::{Goal, Subject};
use kintsugi_gpu_scheduler::{
    BackendFactory, EngineReport, Residence, SchedulerConfig, SchedulerStats, StartError,
};
use kintsugi_tools::Registry;
use kintsugi_types::{AgentId, Clock, GoalId, Invariants, ModelName, TenantId};
use tracing::{error, info, warn};

use crate::actor_thread::ActorThread;
use crate::config::NodeConfig;
use crate::context::NodeContext;
use crate::lane::{Break, Forward, LaneSupervisor};
use crate::lane_core::LanePlace;
use crate::lanes::OpenLanes;
use crate::partition::{EngineNews, GoalsArrived, ResumeAgent};
use crate::publish::{PublishError, goal_event, goal_key};
use crate::restore::RestoreError;
use crate::retention::{Keep, Needs, RetainError};
use crate::smaller::SmallerParts;
use crate::status::StatusSnapshot;
use crate::store::StoreError;

pub use crate::lane::Part;
pub use crate::lanes::{Lanes, OpenLane};

/// Why a node does not start, or stops.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// It cannot come back to where it was.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// Its cache cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its scheduler cannot be started.
    #[error("start scheduler: {0}")]
    Scheduler(#[from] StartError),
    /// The system gives no thread.
    #[error("start thread: {0}")]
    Thread(#[from] std::io::Error),
    /// The log of a lane cannot be opened.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Its thread ended before it was up.
    #[error("the node's thread ended while it started")]
    Died,
}

/// What a node is made from.
pub struct NodeParts {
    /// Settings.
    pub config: NodeConfig,
    /// The log.
    pub lanes: Lanes,
    /// The tools.
    pub tools: Arc<Registry>,
    /// Settings of the scheduler.
    pub scheduler: SchedulerConfig,
    /// Makes the engine.
    pub backend: BackendFactory,
    /// The smaller model, where there is one.
    pub smaller: Option<SmallerParts>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for NodeParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeParts").field("config", &self.config).finish_non_exhaustive()
    }
}

/// A running node. Dropping it stops it; what it was at is safe in the log.
#[derive(Debug)]
pub struct Node {
    context: Arc<NodeContext>,
    lanes: Arc<OpenLanes>,
    thread: ActorThread,
    /// What of the log is needed, as far as retention has read it.
    needs: Mutex<Needs>,
}

impl Node {
    /// Starts a node and returns when everything is restored and running. One on a shared log has no lanes yet.
    pub fn start(parts: NodeParts) -> Result<Self, NodeError> {
        let tool_threads = parts.config.tool_threads;
        let begin = move || start_inside(parts);
        let (thread, (context, lanes)) = ActorThread::start("kintsugi-node", tool_threads, begin)?;
        Ok(Self { context, lanes, thread, needs: Mutex::default() })
    }

    /// Opens these lanes of a shared log, each on a thread of its own, and keeps them open until they are lost: one
    /// whose log fails is closed and opened anew. The cache of each lies in the node's, under its number.
    pub fn gain_lanes(&self, numbers: &[u32]) {
        self.lanes.gain(numbers);
    }

    /// Closes these lanes, and returns when nothing works on them any more: only then may somebody else have them.
    /// Tools that are at work may end before, within ten seconds, so that their outcomes are known to whoever has the
    /// lane next.
    pub fn lose_lanes(&self, numbers: &[u32]) {
        self.lanes.lose(numbers);
    }

    /// The numbers of the lanes that are open.
    pub fn lanes(&self) -> Vec<u32> {
        self.lanes.numbers()
    }

    /// Whether the node has lanes, and all that are to be open are.
    pub fn has_lanes_open(&self) -> bool {
        self.lanes.are_open()
    }

    /// Appends goals and returns when they are durable: from here on each of them ends exactly once.
    pub fn publish(&self, goals: &[Goal]) -> Result<Committed, PublishError> {
        let mut records = Vec::with_capacity(goals.len());
        for goal in goals {
            let event = goal_event(goal, self.context.clock.as_ref())?;
            let partition = self.lanes.partition_of(&event.envelope.subject.to_string());
            records.push(NewRecord::from_event(&event, partition)?);
        }
        // Any lane takes goals for all.
        let lanes = self.lanes.numbers();
        let lane = lanes.first().and_then(|number| self.lanes.lane(*number)).ok_or(PublishError::NoLane)?;
        let committed = lane.core.log.append_wait(&Append { records, positions: Vec::new() });
        if let Err(failure) = &committed
            && !failure.is_retryable()
            && !matches!(failure, LogError::TooLarge { .. })
        {
            lane.core.log_failed(failure);
        }
        let committed = committed?;
        for supervisor in lanes.into_iter().filter_map(|number| self.lanes.supervisor(number)) {
            supervisor.do_send(Forward(GoalsArrived));
        }
        Ok(committed)
    }

    /// The content that was taken under this id, see [`content_of`](crate::publish::content_of); `agent` is the one
    /// that the goal named. Reads the cache, so it lags behind the log, and knows the goals of this node's lanes only.
    pub fn known_goal(
        &self,
        tenant: &TenantId,
        agent: Option<&AgentId>,
        id: &GoalId,
    ) -> Result<Option<u64>, StoreError> {
        let Ok(key) = goal_key(tenant, agent, id) else { return Ok(None) };
        let lane = self.lanes.lane(self.lanes.partition_of(key.as_str()));
        let Some(lane) = lane else { return Ok(None) };
        Ok(lane.core.store.goal(tenant, agent, id)?.map(|known| known.content))
    }

    /// What is going on.
    pub fn status(&self) -> StatusSnapshot {
        self.context.status.take()
    }

    /// What came of each time that the model was to be asked for a diagnosis, since the node started.
    pub fn diagnosis_asks(&self) -> BTreeMap<&'static str, u64> {
        self.context.status.asks()
    }

    /// What the scheduler and the engine are at; with a smaller model, both schedulers and engines together.
    pub fn scheduler_stats(&self) -> SchedulerStats {
        self.context.scheduler_stats()
    }

    /// What the main model's scheduler and engine are at by themselves.
    pub fn main_stats(&self) -> SchedulerStats {
        self.context.scheduler.stats()
    }

    /// What the smaller model's scheduler and engine are at, by its name, where there is one.
    pub fn smaller_stats(&self) -> Option<(ModelName, SchedulerStats)> {
        self.context.smaller.as_ref().map(|smaller| (smaller.name.clone(), smaller.scheduler.stats()))
    }

    /// Where the keys and values of each agent are that has any.
    pub fn residences(&self) -> Arc<BTreeMap<AgentId, Residence>> {
        self.context.residences()
    }

    /// Counts of broken promises.
    pub fn invariants(&self) -> &Invariants {
        &self.context.invariants
    }

    /// Deletes the oldest of the log as far as `keep` lets it go and nothing still needs it. May take long, and
    /// belongs on a thread that may wait. A shared log's retention is its own: of that nothing is deleted.
    ///
    /// What is left is enough to come back from, with the cache or without, see
    /// [`retention`](crate::retention).
    pub fn retain(&self, keep: &Keep) -> Result<Retained, RetainError> {
        let lane = self.lanes.lane(LanePlace::ONLY.number).filter(|lane| !lane.core.place.is_shared());
        let Some(lane) = lane else { return Ok(Retained::default()) };
        self.needs.lock().unwrap_or_else(PoisonError::into_inner).let_go(&lane, keep)
    }

    /// Brings an agent back that needed a person. Returns whether it lives in this node.
    pub fn resume_agent(&self, agent: AgentId, by: String) -> bool {
        let lane = self.lanes.supervisor(self.lanes.partition_of(agent.as_str()));
        lane.map(|lane| lane.do_send(Forward(ResumeAgent { agent, by }))).is_some()
    }

    /// Makes a part of the node's first lane panic, as a bug would; for tests of its supervision.
    pub fn break_part(&self, part: Part) {
        if let Some(lane) = self.first_lane() {
            lane.do_send(Break(part));
        }
    }

    fn first_lane(&self) -> Option<Addr<LaneSupervisor>> {
        self.lanes.numbers().first().and_then(|number| self.lanes.supervisor(*number))
    }

    /// Stops the node. What is in the log is safe; what was under way goes on at the next start.
    pub fn stop(mut self) {
        self.stop_and_join();
    }

    fn stop_and_join(&mut self) {
        let only = self.lanes.end();
        if let Some(lane) = &only {
            lane.core.stop();
        }
        let (scheduler, smaller) = (self.context.scheduler.clone(), self.context.smaller.clone());
        self.thread.system().arbiter().spawn(async move {
            scheduler.shutdown().await;
            if let Some(smaller) = smaller {
                smaller.scheduler.shutdown().await;
            }
            info!("node stopped");
            System::current().stop();
        });
        self.thread.join();
        // What was queued last holds the lane's cache open until it is told of its commit.
        // Why a log takes no more appends has been told.
        if let Some(Err(failure)) = only.map(|lane| lane.core.log.flush())
            && !matches!(failure, LogError::Poisoned { .. })
        {
            error!(%failure, "flush log");
        }
    }

    /// Whether the node's thread ended by itself.
    pub fn has_ended(&self) -> bool {
        self.thread.has_ended()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if !self.thread.is_joined() {
            self.stop_and_join();
            self.thread.system().stop();
        }
    }
}

fn start_inside(parts: NodeParts) -> Result<(Arc<NodeContext>, Arc<OpenLanes>), NodeError> {
    let NodeParts { config, lanes, tools, scheduler, backend, smaller, clock } = parts;
    let (reports, engine_reports) = tokio::sync::mpsc::unbounded_channel();
    let on_fault = move |of: Subject, report: EngineReport| {
        // Faults are rare and rebuilds limited; a node that is gone hears nothing.
        let _ = reports.send((of, report));
    };
    let main = (&scheduler, backend);
    let context = Arc::new(NodeContext::open(config, tools, clock, main, smaller, on_fault)?);
    let lanes = OpenLanes::start(context.clone(), lanes)?;
    hear_engine(engine_reports, lanes.clone());
    Ok((context, lanes))
}

/// What an engine reports, and what events about that engine are about.
type Reported = (Subject, EngineReport);

/// Hands what the engines report on to the first lane, whose partition makes events of it.
fn hear_engine(mut reports: tokio::sync::mpsc::UnboundedReceiver<Reported>, lanes: Arc<OpenLanes>) {
    actix::spawn(async move {
        while let Some((of, report)) = reports.recv().await {
            let first = lanes.numbers().first().and_then(|number| lanes.supervisor(*number));
            if let Some(lane) = first {
                lane.do_send(Forward(EngineNews { of, report }));
            } else {
                warn!(%of, ?report, "an engine reports, and the node has no lane to tell it in");
            }
        }
    });
}
