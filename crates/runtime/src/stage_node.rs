//! A healing stage as a process of its own, beside nodes that leave it alone: its thread, and its lanes of a shared log.
//!
//! It has no agents, no model and no tools: of each partition that is its own it opens a lane under the stage's name,
//! and runs the stage there as a node would.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use actix::prelude::*;
use kintsugi_types::Clock;
use tracing::{error, info};

use crate::actor_thread::ActorThread;
use crate::agent_actor::DeathGuard;
use crate::keeper::{Keepers, LaneOwner};
use crate::lane::{Deaths, Order};
use crate::lane_core::{LaneCore, LanePlace, OnLaneFailure};
use crate::lanes::OpenLane;
use crate::node::NodeError;
use crate::restore::restore_stage;
use crate::stage::InputsGrown;
use crate::stages::{RunningStage, StageKind};
use crate::status::{Status, StatusSnapshot};

/// What a stage that runs by itself is made from.
pub struct StageNodeParts {
    /// The stage.
    pub stage: StageKind,
    /// How many partitions every topic has.
    pub partitions: u32,
    /// Opens the stage's lane of one.
    pub open: OpenLane,
    /// Where the caches of its lanes lie.
    pub store_dir: PathBuf,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for StageNodeParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StageNodeParts").field("stage", &self.stage).finish_non_exhaustive()
    }
}

/// A stage that runs by itself. Dropping it stops it; what it was at is safe in the log.
#[derive(Debug)]
pub struct StageNode {
    lanes: Arc<StageLanes>,
    thread: ActorThread,
}

impl StageNode {
    /// Starts it. It has no lanes yet.
    pub fn start(parts: StageNodeParts) -> Result<Self, NodeError> {
        // Nothing here blocks but the stage itself.
        let (thread, lanes) = ActorThread::start("kintsugi-stage", 1, move || {
            Ok(Arc::new(StageLanes {
                parts,
                status: Arc::default(),
                system: System::current(),
                running: Mutex::default(),
                keepers: Keepers::default(),
            }))
        })?;
        Ok(Self { lanes, thread })
    }

    /// Opens these lanes, each on a thread of its own, and keeps them open until they are lost: one whose log fails is
    /// closed and opened anew.
    pub fn gain_lanes(&self, numbers: &[u32]) {
        self.lanes.keepers.gain(&self.lanes, numbers);
    }

    /// Closes these lanes, and returns when nothing works on them any more: only then may somebody else have them.
    pub fn lose_lanes(&self, numbers: &[u32]) {
        self.lanes.keepers.lose(numbers);
    }

    /// The numbers of the lanes that are open.
    pub fn lanes(&self) -> Vec<u32> {
        self.lanes.running().keys().copied().collect()
    }

    /// The numbers of the lanes that are to be open.
    pub fn lanes_wanted(&self) -> Vec<u32> {
        self.lanes.keepers.numbers()
    }

    /// What the stage has written, and why it cannot go on where that is so.
    pub fn status(&self) -> StatusSnapshot {
        self.lanes.status.take()
    }

    /// Whether its thread ended by itself.
    pub fn has_ended(&self) -> bool {
        self.thread.has_ended()
    }

    /// Stops it. What it has taken in and found is safe in the log.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for StageNode {
    fn drop(&mut self) {
        self.lanes.keepers.lose(&self.lanes.keepers.numbers());
        self.thread.system().stop();
        self.thread.join();
    }
}

/// The lanes that run now.
struct StageLanes {
    parts: StageNodeParts,
    status: Arc<Status>,
    /// The actor system that everything lives in.
    system: System,
    running: Mutex<BTreeMap<u32, RunningLane>>,
    keepers: Keepers,
}

impl std::fmt::Debug for StageLanes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StageLanes").field("parts", &self.parts).finish_non_exhaustive()
    }
}

impl StageLanes {
    fn running(&self) -> MutexGuard<'_, BTreeMap<u32, RunningLane>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LaneOwner for StageLanes {
    fn open(&self, number: u32, on_failure: OnLaneFailure) -> Result<(), NodeError> {
        let StageNodeParts { stage, partitions, open, store_dir, clock } = &self.parts;
        let place = LanePlace { number, partitions: *partitions };
        let log = open(number)?;
        info!(lane = number, "restoring lane");
        let store_dir = store_dir.join(format!("lane-{number}"));
        let shown = (clock.clone(), self.status.clone());
        let (lane, ended) = LaneCore::open(place, log, &store_dir, shown, on_failure)?;
        restore_stage(&lane, stage.name())?;
        let supervisor = StageSupervisor {
            lane: lane.clone(),
            stage: stage.clone(),
            running: None,
            deaths: Deaths::default(),
        };
        let (told, started) = sync_channel(1);
        // Where the system has ended nobody sends anything.
        self.system.arbiter().spawn_fn(move || {
            // Whoever opens the lane waits for this.
            let _ = told.send(supervisor.start());
        });
        let supervisor = started.recv().map_err(|_| NodeError::Died)?;
        let hears = supervisor.clone();
        let news = lane.listen(stage.name().inputs(), move || hears.do_send(InputsGrown));
        let (news, failure) = match news {
            Ok(news) => (Some(news), None),
            Err(failure) => (None, Some(failure)),
        };
        let running = RunningLane { lane, supervisor, news, ended };
        if let Some(failure) = failure {
            running.close();
            return Err(failure.into());
        }
        info!(lane = number, "lane opened");
        self.running().insert(number, running);
        Ok(())
    }

    fn close(&self, number: u32, _is_orderly: bool) {
        let running = self.running().remove(&number);
        if let Some(running) = running {
            running.close();
            info!(lane = number, "lane closed");
        }
    }
}

/// A lane that runs.
struct RunningLane {
    lane: Arc<LaneCore>,
    supervisor: Addr<StageSupervisor>,
    /// Waits for what nodes and other stages write.
    news: Option<JoinHandle<()>>,
    ended: Receiver<()>,
}

impl RunningLane {
    /// Stops the lane. What the stage has found is made durable before, where the log takes it.
    fn close(self) {
        self.lane.stop();
        self.supervisor.do_send(Order::Stop);
        self.lane.close(self.news, &self.ended);
    }
}

/// Supervises the stage of a lane: when it dies it is started again from the log.
struct StageSupervisor {
    lane: Arc<LaneCore>,
    stage: StageKind,
    running: Option<RunningStage>,
    deaths: Deaths,
}

/// The stage died.
#[derive(Message)]
#[rtype(result = "()")]
struct StageDied;

impl StageSupervisor {
    fn start_stage(&mut self, ctx: &Context<Self>) {
        let (lane, supervisor) = (self.lane.clone(), ctx.address());
        let guard = DeathGuard::new(move || {
            if !lane.is_stopping() {
                supervisor.do_send(StageDied);
            }
        });
        self.running = Some(self.stage.start(self.lane.clone(), guard));
    }
}

impl Actor for StageSupervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.start_stage(ctx);
    }
}

impl Handler<StageDied> for StageSupervisor {
    type Result = ();

    fn handle(&mut self, _: StageDied, ctx: &mut Context<Self>) {
        if self.lane.is_stopping() {
            return;
        }
        let are_too_many = self.deaths.note(self.lane.clock.now());
        error!(deaths = self.deaths.count(), lane = self.lane.place.number, "the stage died");
        if are_too_many {
            // Only this lane: who has it next may get on no better, and the others are worked on.
            self.lane.failed("the stage keeps dying");
            return;
        }
        self.start_stage(ctx);
    }
}

impl Handler<InputsGrown> for StageSupervisor {
    type Result = ();

    fn handle(&mut self, grown: InputsGrown, _: &mut Context<Self>) {
        if let Some(running) = &self.running {
            running.news.do_send(grown);
        }
    }
}

impl Handler<Order> for StageSupervisor {
    type Result = ();

    fn handle(&mut self, order: Order, ctx: &mut Context<Self>) {
        if let Some(running) = self.running.take() {
            running.orders.do_send(order);
        }
        self.lane.feed.clear();
        ctx.stop();
    }
}
