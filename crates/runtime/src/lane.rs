//! A lane: one part of the log, with the partition and the healing stages that work on it, and whoever starts them
//! again when they die.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use actix::dev::ToEnvelope;
use actix::prelude::*;
use kintsugi_events::Topic;
use kintsugi_types::Timestamp;
use tracing::{error, warn};

use crate::agent_actor::DeathGuard;
use crate::asking::Asker;
use crate::lane_context::LaneContext;
use crate::partition::{Drain, GoalsArrived, Partition};
use crate::restore::{Restored, restore};
use crate::stages::StageKind;

/// How often one part of a lane may die within [`DEATHS_WINDOW_S`] before the lane gives up.
const DEATHS_MAX: usize = 20;

/// See [`DEATHS_MAX`], in seconds.
const DEATHS_WINDOW_S: i64 = 60;

/// How long tools that are at work may go on when their lane goes to somebody else. What takes longer is as if this
/// process had died.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// The deaths of a lane's parts that still count.
#[derive(Debug, Default)]
pub(crate) struct Deaths(Vec<Timestamp>);

impl Deaths {
    /// Notes one, and says whether it is one too many.
    pub(crate) fn note(&mut self, now: Timestamp) -> bool {
        self.0.retain(|death| now.signed_duration_since(*death).num_seconds() < DEATHS_WINDOW_S);
        self.0.push(now);
        self.0.len() > DEATHS_MAX
    }

    /// How many there are.
    pub(crate) const fn count(&self) -> usize {
        self.0.len()
    }
}

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
    deaths: Deaths,
}

impl LaneSupervisor {
    fn guard(&self, part: Part, ctx: &Context<Self>) -> DeathGuard {
        let supervisor = ctx.address();
        let lane = self.lane.clone();
        DeathGuard::new(move || {
            if !lane.core.is_stopping() {
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
                let stage = StageKind::Monitor(lane.node.config.monitor);
                stage.start(lane.core.clone(), guard).orders
            }
            Part::Diagnose => {
                let asker = lane.node.config.ask.map(|settings| Asker::new(&lane, settings)).transpose();
                let asker = asker.unwrap_or_else(|failure| {
                    error!(%failure, "the model cannot be asked for diagnoses");
                    None
                });
                StageKind::Diagnose(asker).start(lane.core.clone(), guard).orders
            }
            Part::Recover => {
                let config = &lane.node.config;
                let (policies, mode, seed) = (config.policies.clone(), config.mode, config.seed);
                StageKind::Recover { policies, mode, seed }.start(lane.core.clone(), guard).orders
            }
        };
        self.parts.retain(|(known, _)| *known != part);
        self.parts.push((part, started));
    }

    fn give_up(&self, reason: &str) {
        error!(reason, lane = self.lane.core.place.number, "the lane gives up");
        self.lane.core.failed(reason);
    }
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
        if self.lane.core.is_stopping() {
            return;
        }
        let are_too_many = self.deaths.note(self.lane.core.clock.now());
        error!(part = ?died.0, deaths = self.deaths.count(), lane = self.lane.core.place.number, "a part of the node died");
        if are_too_many {
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
        self.lane.core.feed.clear();
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
            deaths: Deaths::default(),
        }
        .start();
        Self { lane, supervisor, news: None, ended }
    }

    /// Tells the partition of goals that others publish, from now on.
    pub(crate) fn listen(&mut self) -> std::io::Result<()> {
        let supervisor = self.supervisor.clone();
        let tell = move || supervisor.do_send(Forward(GoalsArrived));
        self.news = Some(self.lane.core.listen(&[Topic::Goals], tell)?);
        Ok(())
    }

    /// Stops the lane. With `is_orderly` tools that are at work may end before, and their outcomes are kept. Returns
    /// when nothing works on it any more; its log is closed then.
    pub(crate) fn close(self, is_orderly: bool) {
        let number = self.lane.core.place.number;
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
        self.lane.core.stop();
        self.supervisor.do_send(StopParts);
        let Self { lane, supervisor: _, news, ended } = self;
        let (core, status) = (lane.core.clone(), lane.node.status.clone());
        drop(lane);
        core.close(news, &ended);
        status.forget_lane(number);
    }
}
