//! A lane: one part of the log, with the partition and the healing stages that work on it, and whoever starts them
//! again when they die.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use actix::dev::ToEnvelope;
use actix::prelude::*;
use kintsugi_eventlog::TopicPartition;
use kintsugi_events::Topic;
use kintsugi_types::Timestamp;
use tracing::{error, info, warn};

use crate::agent_actor::DeathGuard;
use crate::lane_context::LaneContext;
use crate::partition::{Drain, GoalsArrived, Partition};
use crate::restore::{Restored, restore};
use crate::stage::{Stage, StageActor};
use crate::stages::{DiagnoseStage, MonitorStage, RecoverStage};

/// How often one part of a lane may die within [`DEATHS_WINDOW_S`] before the node gives up.
const DEATHS_MAX: usize = 20;

/// See [`DEATHS_MAX`], in seconds.
const DEATHS_WINDOW_S: i64 = 60;

/// How long tools that are at work may go on when their lane goes to somebody else. What takes longer is as if this
/// process had died.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// How long the thread that waits for outsiders' goals waits before it looks whether it shall end.
const NEWS_WAIT: Duration = Duration::from_millis(500);

/// A part of a lane that is supervised.
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

/// What every part does when it is told to.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(crate) enum Order {
    /// Panic, as a bug would make it.
    Break,
    /// Stop.
    Stop,
}

impl Order {
    /// Does it to the actor of `ctx`.
    pub(crate) fn carry_out<C: ActorContext>(self, ctx: &mut C) {
        match self {
            Self::Break => panic!("broken on purpose"),
            Self::Stop => ctx.stop(),
        }
    }
}

/// A part died.
#[derive(Message)]
#[rtype(result = "()")]
struct PartDied(Part);

/// Make a part panic.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub(crate) struct Break(pub(crate) Part);

/// Stop every part, now.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
struct StopParts;

/// Something for the partition, whichever it is now.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Forward<M: Message<Result = ()> + Send>(pub(crate) M);

/// Supervises the parts of a lane: what dies is started again from the log.
pub(crate) struct LaneSupervisor {
    lane: Arc<LaneContext>,
    restored: Option<Restored>,
    partition: Option<Addr<Partition>>,
    parts: Vec<(Part, Recipient<Order>)>,
    deaths: Vec<Timestamp>,
}

impl LaneSupervisor {
    fn guard(&self, part: Part, ctx: &Context<Self>) -> DeathGuard {
        let supervisor = ctx.address();
        let lane = self.lane.clone();
        DeathGuard::new(move || {
            if !lane.is_stopping() {
                supervisor.do_send(PartDied(part));
            }
        })
    }

    fn start_part(&mut self, part: Part, ctx: &Context<Self>) {
        let guard = self.guard(part, ctx);
        let lane = self.lane.clone();
        let started = match part {
            Part::Partition => {
                let restored = match self.restored.take() {
                    Some(restored) => restored,
                    None => match restore(&lane) {
                        Ok(restored) => restored,
                        Err(failure) => {
                            self.give_up(&failure.to_string());
                            guard.disarm();
                            return;
                        }
                    },
                };
                let partition = Partition::new(lane, restored, guard).start();
                self.partition = Some(partition.clone());
                partition.recipient()
            }
            Part::Monitor => {
                let stage = MonitorStage::new(lane.node.config.monitor);
                start_stage(lane, stage, guard)
            }
            Part::Diagnose => start_stage(lane, DiagnoseStage::default(), guard),
            Part::Recover => {
                let config = &lane.node.config;
                let stage = RecoverStage::new(config.policies.clone(), config.mode, config.seed);
                start_stage(lane, stage, guard)
            }
        };
        self.parts.retain(|(known, _)| *known != part);
        self.parts.push((part, started));
    }

    fn give_up(&self, reason: &str) {
        error!(reason, lane = self.lane.place.number, "the node gives up");
        self.lane.node.give_up(reason.to_owned());
    }
}

fn start_stage<S: Stage>(lane: Arc<LaneContext>, stage: S, guard: DeathGuard) -> Recipient<Order> {
    StageActor::new(lane, stage, guard).start().recipient()
}

impl Actor for LaneSupervisor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        let stages = self.lane.node.config.stages;
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

impl Handler<PartDied> for LaneSupervisor {
    type Result = ();

    fn handle(&mut self, died: PartDied, ctx: &mut Context<Self>) {
        if self.lane.is_stopping() {
            return;
        }
        let now = self.lane.node.clock.now();
        self.deaths.retain(|death| now.signed_duration_since(*death).num_seconds() < DEATHS_WINDOW_S);
        self.deaths.push(now);
        error!(part = ?died.0, deaths = self.deaths.len(), lane = self.lane.place.number, "a part of the node died");
        if self.deaths.len() > DEATHS_MAX {
            self.give_up("parts of the node keep dying");
            return;
        }
        self.start_part(died.0, ctx);
    }
}

impl Handler<Break> for LaneSupervisor {
    type Result = ();

    fn handle(&mut self, wanted: Break, _: &mut Context<Self>) {
        if let Some((_, part)) = self.parts.iter().find(|(part, _)| *part == wanted.0) {
            part.do_send(Order::Break);
        }
    }
}

impl<M> Handler<Forward<M>> for LaneSupervisor
where
    M: Message<Result = ()> + Send + 'static,
    Partition: Handler<M>,
    <Partition as Actor>::Context: ToEnvelope<Partition, M>,
{
    type Result = ();

    fn handle(&mut self, forward: Forward<M>, _: &mut Context<Self>) {
        if let Some(partition) = &self.partition {
            partition.do_send(forward.0);
        }
    }
}

impl Handler<StopParts> for LaneSupervisor {
    type Result = ();

    fn handle(&mut self, _: StopParts, ctx: &mut Context<Self>) {
        for (_, part) in self.parts.drain(..) {
            part.do_send(Order::Stop);
        }
        self.partition = None;
        self.lane.feed.clear();
        self.lane.effects.abandon();
        ctx.stop();
    }
}

/// A lane that is ready to be started, or that runs.
#[derive(Debug)]
pub(crate) struct RunningLane {
    pub(crate) lane: Arc<LaneContext>,
    pub(crate) supervisor: Addr<LaneSupervisor>,
    /// Waits for outsiders' goals, where there are any outsiders.
    news: Option<JoinHandle<()>>,
    ended: Receiver<()>,
}

/// Brings a lane back to where it was. May take long, and belongs on a thread that may wait.
pub(crate) fn prepare(lane: &Arc<LaneContext>) -> Result<Restored, crate::restore::RestoreError> {
    let restored = restore(lane)?;
    lane.effects.lose(&restored.agents);
    Ok(restored)
}

impl RunningLane {
    /// Starts the actors of a lane, on the thread of the actor system. `ended` is that of its context.
    pub(crate) fn start(lane: Arc<LaneContext>, ended: Receiver<()>, restored: Restored) -> Self {
        let supervisor = LaneSupervisor {
            lane: lane.clone(),
            restored: Some(restored),
            partition: None,
            parts: Vec::new(),
            deaths: Vec::new(),
        }
        .start();
        Self { lane, supervisor, news: None, ended }
    }

    /// Tells the partition of goals that others publish, from now on.
    pub(crate) fn listen(&mut self) -> std::io::Result<()> {
        let (lane, supervisor) = (self.lane.clone(), self.supervisor.clone());
        let name = format!("lane-{}-news", lane.place.number);
        self.news =
            Some(std::thread::Builder::new().name(name).spawn(move || hear_goals(&lane, &supervisor))?);
        Ok(())
    }

    /// Stops the lane. With `is_orderly` tools that are at work may end before, and their outcomes are kept. Returns
    /// when nothing works on it any more; its log is closed then.
    pub(crate) fn close(self, is_orderly: bool) {
        let number = self.lane.place.number;
        if is_orderly {
            let (drained, is_drained) = sync_channel(1);
            self.supervisor.do_send(Forward(Drain { drained }));
            if is_drained.recv_timeout(DRAIN_MAX).is_err() {
                warn!(
                    lane = number,
                    "tools are still at work: whoever has the lane next takes them for lost"
                );
            }
        }
        self.lane.stop();
        self.supervisor.do_send(StopParts);
        if let Some(news) = self.news {
            // It has nothing to tell.
            let _ = news.join();
        }
        let (log, status) = (self.lane.log.clone(), self.lane.node.status.clone());
        drop(self.lane);
        if let Err(failure) = log.close() {
            info!(lane = number, %failure, "the lane's log was closed");
        }
        // Everybody who holds the context has to let go: only then may the lane's cache be opened again.
        if matches!(self.ended.recv_timeout(DRAIN_MAX), Err(RecvTimeoutError::Timeout)) {
            warn!(lane = number, "the lane still has actors");
        }
        status.forget_lane(number);
    }
}

/// Tells the partition whenever the goals have grown.
fn hear_goals(lane: &LaneContext, supervisor: &Addr<LaneSupervisor>) {
    let goals = TopicPartition::new(Topic::Goals, lane.place.number);
    let mut seen = lane.log.end_lsn();
    let mut end = 0;
    while !lane.is_stopping() {
        let grown = lane.log.end_offset(goals);
        if grown > end {
            end = grown;
            supervisor.do_send(Forward(GoalsArrived));
        }
        let begun = Instant::now();
        let after = lane.log.wait_past(seen, NEWS_WAIT);
        // It waits for nothing where the log takes no more appends, which nobody else may have noticed.
        if after == seen
            && begun.elapsed() < NEWS_WAIT / 2
            && let Err(failure) = lane.log.flush()
        {
            lane.log_failed(&failure);
            return;
        }
        seen = after;
    }
}
