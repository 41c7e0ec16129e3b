//! A node: its own thread with an actix system, everything restored, running, and supervised.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use actix::prelude::*;
use kintsugi_eventlog::{Append, Committed, EventLog, LogError, NewRecord};
use kintsugi_events::Goal;
use kintsugi_gpu_scheduler::{
    BackendFactory, EngineReport, Residence, SchedulerConfig, SchedulerStats, StartError,
};
use kintsugi_tools::Registry;
use kintsugi_types::{AgentId, Clock, GoalId, Invariants, TenantId};
use tracing::{debug, error, info};

use crate::agent_actor::DeathGuard;
use crate::config::NodeConfig;
use crate::context::NodeContext;
use crate::partition::{EngineNews, Partition, ResumeAgent};
use crate::publish::{PublishError, goal_event};
use crate::restore::{RestoreError, Restored, restore};
use crate::stage::{Stage, StageActor};
use crate::stages::{DiagnoseStage, MonitorStage, RecoverStage};
use crate::status::StatusSnapshot;
use crate::store::StoreError;

/// The one partition of the embedded log.
pub const PARTITION: u32 = 0;

/// How often one part of the node may die within [`DEATHS_WINDOW_S`] before the node gives up.
const DEATHS_MAX: usize = 20;

/// See [`DEATHS_MAX`], in seconds.
const DEATHS_WINDOW_S: i64 = 60;

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
    /// Its thread ended before it was up.
    #[error("the node's thread ended while it started")]
    Died,
}

/// What a node is made from.
pub struct NodeParts {
    /// Settings.
    pub config: NodeConfig,
    /// The log.
    pub log: Arc<dyn EventLog>,
    /// The tools.
    pub tools: Arc<Registry>,
    /// Settings of the scheduler.
    pub scheduler: SchedulerConfig,
    /// Makes the engine.
    pub backend: BackendFactory,
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
    root: Addr<Root>,
    system: System,
    thread: Option<JoinHandle<()>>,
}

impl Node {
    /// Starts a node and returns when everything is restored and running.
    pub fn start(parts: NodeParts) -> Result<Self, NodeError> {
        let (told, outcome) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name("kintsugi-node".to_owned()).spawn(move || {
            let tool_threads = parts.config.tool_threads;
            let system = System::with_tokio_rt(move || {
                #[expect(
                    clippy::expect_used,
                    reason = "without a runtime there is no node; the thread's end is seen"
                )]
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .max_blocking_threads(tool_threads)
                    .build()
                    .expect("build runtime")
            });
            system.block_on(async {
                let started = start_inside(parts);
                // Whoever started the node waits for this.
                let _ = told.send(started.map(|(context, root)| (context, root, System::current())));
            });
            if let Err(failure) = system.run() {
                // Only a number; the reason stands in the status.
                debug!(%failure, "node stopped");
            }
        })?;
        let (context, root, system) = outcome.recv().map_err(|_| NodeError::Died)??;
        Ok(Self { context, root, system, thread: Some(thread) })
    }

    /// Appends goals and returns when they are durable: from here on each of them ends exactly once.
    pub fn publish(&self, goals: &[Goal]) -> Result<Committed, PublishError> {
        let mut records = Vec::with_capacity(goals.len());
        for goal in goals {
            let event = goal_event(goal, self.context.clock.as_ref())?;
            records.push(NewRecord::from_event(&event, PARTITION)?);
        }
        let committed = self.context.log.append_wait(&Append { records, positions: Vec::new() })?;
        self.root.do_send(Nudge);
        Ok(committed)
    }

    /// The content that was taken under this id, see [`content_of`](crate::publish::content_of); `agent` is the one
    /// that the goal named. Reads the cache, so it lags behind the log.
    pub fn known_goal(
        &self,
        tenant: &TenantId,
        agent: Option<&AgentId>,
        id: &GoalId,
    ) -> Result<Option<u64>, StoreError> {
        Ok(self.context.store.goal(tenant, agent, id)?.map(|known| known.content))
    }

    /// What is going on.
    pub fn status(&self) -> StatusSnapshot {
        self.context.status.take()
    }

    /// What the scheduler and the engine are at.
    pub fn scheduler_stats(&self) -> SchedulerStats {
        self.context.scheduler.stats()
    }

    /// Where the keys and values of each agent are that has any.
    pub fn residences(&self) -> Arc<BTreeMap<AgentId, Residence>> {
        self.context.scheduler.residences()
    }

    /// Counts of broken promises.
    pub fn invariants(&self) -> &Invariants {
        &self.context.invariants
    }

    /// Brings an agent back that needed a person.
    pub fn resume_agent(&self, agent: AgentId, by: String) {
        self.root.do_send(Forward(ResumeAgent { agent, by }));
    }

    /// Makes a part of the node panic, as a bug would; for tests of its supervision.
    pub fn break_part(&self, part: Part) {
        self.root.do_send(Break(part));
    }

    /// Stops the node. What is in the log is safe; what was under way goes on at the next start.
    pub fn stop(mut self) {
        self.stop_and_join();
    }

    fn stop_and_join(&mut self) {
        self.root.do_send(StopAll);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has nothing more to tell.
            let _ = thread.join();
            // What was queued last holds the node's cache open until it is told of its commit.
            // Why a log takes no more appends has been told.
            if let Err(failure) = self.context.log.flush()
                && !matches!(failure, LogError::Poisoned { .. })
            {
                error!(%failure, "flush log");
            }
        }
    }

    /// Whether the node's thread ended by itself.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.stop_and_join();
            self.system.stop();
        }
    }
}

fn start_inside(parts: NodeParts) -> Result<(Arc<NodeContext>, Addr<Root>), NodeError> {
    let (reports, engine_reports) = tokio::sync::mpsc::unbounded_channel();
    let on_fault = Box::new(move |report| {
        // Faults are rare and rebuilds limited; a node that is gone hears nothing.
        let _ = reports.send(report);
    });
    let context = Arc::new(NodeContext::open(parts, on_fault)?);
    let restored = restore(&context)?;
    context.effects.lose(&restored.agents);
    let root = Root::new(context.clone(), restored).start();
    hear_engine(engine_reports, root.clone());
    Ok((context, root))
}

/// Hands what the engine reports on to the partition, which makes events of it.
fn hear_engine(mut reports: tokio::sync::mpsc::UnboundedReceiver<EngineReport>, root: Addr<Root>) {
    actix::spawn(async move {
        while let Some(report) = reports.recv().await {
            root.do_send(Forward(EngineNews(report)));
        }
    });
}

/// A part of a node that is supervised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The partition.
    Partition,
    /// The monitor.
    Monitor,
    /// The diagnoser.
    Diagnose,
    /// The recoverer.
    Recover,
}

/// A part died.
#[derive(Message)]
#[rtype(result = "()")]
struct PartDied(Part);

/// There are new goals.
#[derive(Message)]
#[rtype(result = "()")]
struct Nudge;

/// Make a part panic.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub(crate) struct Break(pub(crate) Part);

/// Stop everything, in order.
#[derive(Message)]
#[rtype(result = "()")]
struct StopAll;

/// Something for the partition, whichever it is now.
#[derive(Message)]
#[rtype(result = "()")]
struct Forward<M: Message<Result = ()> + Send>(M);

/// Supervises the partition and the stages: what dies is started again from the log.
struct Root {
    node: Arc<NodeContext>,
    restored: Option<Restored>,
    partition: Option<Addr<Partition>>,
    breakers: Vec<(Part, Recipient<Break>)>,
    deaths: Vec<kintsugi_types::Timestamp>,
}

impl Root {
    fn new(node: Arc<NodeContext>, restored: Restored) -> Self {
        Self { node, restored: Some(restored), partition: None, breakers: Vec::new(), deaths: Vec::new() }
    }

    fn guard(&self, part: Part, ctx: &Context<Self>) -> DeathGuard {
        let root = ctx.address();
        let node = self.node.clone();
        DeathGuard::new(move || {
            if !node.is_stopping() {
                root.do_send(PartDied(part));
            }
        })
    }

    fn start_part(&mut self, part: Part, ctx: &mut Context<Self>) {
        let guard = self.guard(part, ctx);
        let node = self.node.clone();
        let breaker = match part {
            Part::Partition => {
                let restored = match self.restored.take() {
                    Some(restored) => restored,
                    None => match restore(&node) {
                        Ok(restored) => restored,
                        Err(failure) => {
                            self.give_up(&failure.to_string());
                            guard.disarm();
                            return;
                        }
                    },
                };
                let partition = Partition::new(node, PARTITION, restored, guard).start();
                self.partition = Some(partition.clone());
                partition.recipient()
            }
            Part::Monitor => {
                let stage = MonitorStage::new(node.config.monitor);
                start_stage(node, stage, guard)
            }
            Part::Diagnose => start_stage(node, DiagnoseStage::default(), guard),
            Part::Recover => {
                let config = &node.config;
                let stage = RecoverStage::new(config.policies.clone(), config.mode, config.seed);
                start_stage(node, stage, guard)
            }
        };
        self.breakers.retain(|(known, _)| *known != part);
        self.breakers.push((part, breaker));
    }

    fn give_up(&self, reason: &str) {
        error!(reason, "the node gives up");
        self.node.give_up(reason.to_owned());
    }
}

fn start_stage<S: Stage>(node: Arc<NodeContext>, stage: S, guard: DeathGuard) -> Recipient<Break> {
    StageActor::new(node, PARTITION, stage, guard).start().recipient()
}

impl Actor for Root {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        let stages = self.node.config.stages;
        let parts = [
            (stages.monitor, Part::Monitor),
            (stages.diagnose, Part::Diagnose),
            (stages.recover, Part::Recover),
            (true, Part::Partition),
        ];
        for (_, part) in parts.into_iter().filter(|(is_wanted, _)| *is_wanted) {
            self.start_part(part, ctx);
        }
    }
}

impl Handler<PartDied> for Root {
    type Result = ();

    fn handle(&mut self, died: PartDied, ctx: &mut Context<Self>) {
        let now = self.node.clock.now();
        self.deaths.retain(|death| now.signed_duration_since(*death).num_seconds() < DEATHS_WINDOW_S);
        self.deaths.push(now);
        error!(part = ?died.0, deaths = self.deaths.len(), "a part of the node died");
        if self.deaths.len() > DEATHS_MAX {
            self.give_up("parts of the node keep dying");
            return;
        }
        self.start_part(died.0, ctx);
    }
}

impl Handler<Nudge> for Root {
    type Result = ();

    fn handle(&mut self, _: Nudge, _: &mut Context<Self>) {
        if let Some(partition) = &self.partition {
            partition.do_send(crate::partition::GoalsArrived);
        }
    }
}

impl Handler<Break> for Root {
    type Result = ();

    fn handle(&mut self, wanted: Break, _: &mut Context<Self>) {
        if let Some((_, breaker)) = self.breakers.iter().find(|(part, _)| *part == wanted.0) {
            breaker.do_send(wanted);
        }
    }
}

impl<M> Handler<Forward<M>> for Root
where
    M: Message<Result = ()> + Send + 'static,
    Partition: Handler<M>,
{
    type Result = ();

    fn handle(&mut self, forward: Forward<M>, _: &mut Context<Self>) {
        if let Some(partition) = &self.partition {
            partition.do_send(forward.0);
        }
    }
}

impl Handler<StopAll> for Root {
    type Result = ();

    fn handle(&mut self, _: StopAll, _: &mut Context<Self>) {
        self.node.is_stopping.store(true, Ordering::Relaxed);
        let scheduler = self.node.scheduler.clone();
        let log = self.node.log.clone();
        actix::spawn(async move {
            scheduler.shutdown().await;
            if let Err(failure) = log.flush() {
                error!(%failure, "flush log");
            }
            info!("node stopped");
            System::current().stop();
        });
    }
}
