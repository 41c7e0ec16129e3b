//! The partition: the one actor that owns agents, their queues and their addresses.
//!
//! It hands an agent at most one command at a time, appends what the agent decides, and only when that is durable
//! starts what the agent wants done outside. It never decides for an agent.

mod admission;
mod commit;
mod deliver;
mod effects;
mod engine;
mod faults;
mod gates;
mod goals;
mod recoveries;
mod remembered;
mod slot;
mod supervise;
mod tracker;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use kintsugi_agent::prompt::{decision_grammar, plain_decision_grammar};
use kintsugi_agent::{AgentState, Command, Effect, KindConfig};
use kintsugi_eventlog::{Committed, LogError, Lsn, TopicPartition};
use kintsugi_events::{Envelope, Event, Payload, Subject, Topic};
use kintsugi_types::{AgentId, AgentKind, EventId, Grammar, SystemIds, Timestamp};

use self::admission::LoadIndex;
use self::engine::EngineWatches;
use self::gates::Gates;
use self::slot::Slot;
use self::tracker::Tracker;
use crate::agent_actor::{DeathGuard, Decided};
use crate::effects::EffectOutcome;
use crate::feed::FeedBatch;
use crate::lane::Order;
use crate::lane_context::LaneContext;
use crate::restore::Restored;
use crate::runnable::{RoomForGoal, RunnableShare};
use crate::store::KnownGoal;

pub(crate) use self::engine::EngineNews;
pub(crate) use self::gates::STATE_NAME as GATES_STATE;

/// How often positions and the replay mark are brought up to date where no frame carries them.
const UPKEEP_EVERY: Duration = Duration::from_secs(2);

/// How soon an append that the log had no room for is tried again.
const APPEND_AGAIN_AFTER: Duration = Duration::from_millis(2);

/// How often a partition on its way to somebody else looks whether it is at rest.
const DRAINED_YET_EVERY: Duration = Duration::from_millis(5);

/// An agent decided.
#[derive(Message)]
#[rtype(result = "()")]
struct AgentDecided {
    agent: AgentId,
    generation: u64,
    decided: Decided,
}

/// An agent's actor is gone.
#[derive(Message)]
#[rtype(result = "()")]
struct AgentDied {
    agent: AgentId,
    generation: u64,
}

/// An append of an agent ended.
#[derive(Message)]
#[rtype(result = "()")]
struct AgentCommitted {
    agent: AgentId,
    outcome: Result<Committed, LogError>,
}

/// An effect ended.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct EffectEnded {
    pub(crate) agent: AgentId,
    pub(crate) wish: Effect,
    pub(crate) outcome: EffectOutcome,
}

/// Look again at an agent whose time to wait is over.
#[derive(Message)]
#[rtype(result = "()")]
struct Retry {
    agent: AgentId,
}

/// There are new goals in the log.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(crate) struct GoalsArrived;

/// A person brings an agent back.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct ResumeAgent {
    pub(crate) agent: AgentId,
    pub(crate) by: String,
}

/// Ask the model nothing any more, and say when no tool is at work and what was decided is durable.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Drain {
    pub(crate) drained: std::sync::mpsc::SyncSender<()>,
}

/// The grammars of a kind's answers. Writing one out for each step would cost more than deciding the step.
struct Grammars {
    any_tool: Grammar,
    answer_only: Grammar,
    /// The same for agents on lighter work.
    plain_any_tool: Grammar,
    plain_answer_only: Grammar,
}

impl Grammars {
    const fn of(&self, simple_reply: bool, is_light: bool) -> &Grammar {
        match (simple_reply, is_light) {
            (false, false) => &self.any_tool,
            (true, false) => &self.answer_only,
            (false, true) => &self.plain_any_tool,
            (true, true) => &self.plain_answer_only,
        }
    }
}

/// The partition actor.
pub(crate) struct Partition {
    lane: Arc<LaneContext>,
    source: Arc<str>,
    slots: HashMap<AgentId, Slot>,
    restored: HashMap<AgentId, AgentState>,
    grammars: HashMap<AgentKind, Grammars>,
    generations: u64,
    goals: Tracker,
    recoveries: Tracker,
    /// Goals on their way to an agent, and the content that their ids stand for.
    accepting: HashMap<Vec<u8>, KnownGoal>,
    /// Whether the log holds goals that nobody had room for.
    are_goals_waiting: bool,
    loads: Vec<LoadIndex>,
    ready: VecDeque<AgentId>,
    runnable: RunnableShare,
    /// Whether the lane is on its way to somebody else: the model is asked nothing, and no goal is begun.
    is_draining: bool,
    timers: BTreeSet<(Timestamp, AgentId)>,
    timer: Option<(Timestamp, SpawnHandle)>,
    gates: Gates,
    /// Up to where a snapshot of the gates was wanted when one was last written.
    gates_renewed: Lsn,
    engines: EngineWatches,
    append_again: VecDeque<AgentId>,
    seen: Lsn,
    _guard: DeathGuard,
}

impl Partition {
    /// The partition of `lane` with what was restored of it. `guard` tells whoever supervises it.
    pub(crate) fn new(lane: Arc<LaneContext>, restored: Restored, guard: DeathGuard) -> Self {
        let number = lane.core.place.number;
        let tracker = |consumer, topic| {
            let of = TopicPartition::new(topic, number);
            let next = lane.core.log.position(consumer, of).unwrap_or_else(|| lane.core.log.start_offset(of));
            Tracker::new(consumer, of, next)
        };
        Self {
            source: format!("/kintsugi/partition/{number}").into(),
            slots: HashMap::new(),
            grammars: lane.node.config.kinds.values().map(|config| grammars_of(config)).collect(),
            generations: 0,
            goals: tracker("partition", Topic::Goals),
            recoveries: tracker("dispatcher", Topic::Recoveries),
            accepting: HashMap::new(),
            are_goals_waiting: false,
            loads: lane
                .node
                .config
                .population
                .iter()
                .map(|kind| LoadIndex::new(kind, lane.core.place))
                .collect(),
            ready: VecDeque::new(),
            runnable: RunnableShare::new(lane.node.runnable.clone(), number),
            is_draining: false,
            timers: BTreeSet::new(),
            timer: None,
            gates: Gates::restore(&lane),
            gates_renewed: Lsn::default(),
            engines: EngineWatches::default(),
            append_again: VecDeque::new(),
            seen: restored.end,
            restored: restored.agents.into_iter().map(|state| (state.agent.clone(), state)).collect(),
            lane,
            _guard: guard,
        }
    }

    /// An event of the partition's own about `subject`.
    fn own_event(&self, subject: Subject, payload: Payload) -> Event {
        let envelope =
            Envelope::new(&mut SystemIds, self.source.clone(), subject, self.lane.node.clock.now());
        Event { envelope, payload }
    }

    /// Whether no tool is at work for its agents or will be, and everything that they decided is durable.
    fn is_drained(&self) -> bool {
        !self.lane.effects.is_tool_at_work()
            && self.slots.values().all(|slot| matches!(slot.busy, slot::Busy::Free) && !slot.has_outcome())
    }

    fn publish_status(&self) {
        let mut agents = std::collections::BTreeMap::new();
        for slot in self.slots.values() {
            *agents.entry(slot.load.shown).or_insert(0) += 1;
        }
        self.lane.node.status.count_agents(self.lane.core.place.number, agents);
    }
}

fn grammars_of(config: &KindConfig) -> (AgentKind, Grammars) {
    let grammars = Grammars {
        any_tool: decision_grammar(&config.tools),
        answer_only: decision_grammar(&[]),
        plain_any_tool: plain_decision_grammar(&config.tools),
        plain_answer_only: plain_decision_grammar(&[]),
    };
    (config.kind.clone(), grammars)
}

impl Actor for Partition {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.lane.effects.attach(ctx.address());
        self.lane.core.feed.subscribe(
            "partition",
            &[Topic::Goals, Topic::Recoveries],
            ctx.address().recipient(),
        );
        let waiting: Vec<AgentId> = self.restored.keys().cloned().collect();
        for agent in waiting {
            self.wake(&agent, ctx);
        }
        ctx.run_interval(UPKEEP_EVERY, |partition, ctx| {
            partition.keep_up(ctx);
        });
        ctx.run_interval(Duration::from_millis(250), |partition, _| partition.publish_status());
        self.pump_recoveries(ctx);
        self.pump_goals(ctx);
    }
}

impl Handler<FeedBatch> for Partition {
    type Result = ();

    fn handle(&mut self, _: FeedBatch, ctx: &mut Context<Self>) {
        self.pump_recoveries(ctx);
        self.pump_goals(ctx);
    }
}

impl Handler<GoalsArrived> for Partition {
    type Result = ();

    fn handle(&mut self, _: GoalsArrived, ctx: &mut Context<Self>) {
        self.pump_goals(ctx);
    }
}

impl Handler<Order> for Partition {
    type Result = ();

    fn handle(&mut self, order: Order, ctx: &mut Context<Self>) {
        order.carry_out(ctx);
    }
}

impl Handler<RoomForGoal> for Partition {
    type Result = ();

    fn handle(&mut self, _: RoomForGoal, ctx: &mut Context<Self>) {
        self.admit(ctx);
    }
}

impl Handler<Drain> for Partition {
    type Result = ();

    fn handle(&mut self, drain: Drain, ctx: &mut Context<Self>) {
        self.is_draining = true;
        if self.is_drained() {
            // Whoever asked may have given up waiting.
            let _ = drain.drained.try_send(());
        } else {
            ctx.notify_later(drain, DRAINED_YET_EVERY);
        }
    }
}

impl Handler<ResumeAgent> for Partition {
    type Result = ();

    fn handle(&mut self, resume: ResumeAgent, ctx: &mut Context<Self>) {
        let item = slot::Item::of(Command::Resume { by: resume.by });
        self.enqueue(&resume.agent, item, ctx);
    }
}

/// The id that a goal without one gets: that of the event that brought it.
fn goal_id_from(event: EventId) -> String {
    format!("goal-{}", event.as_uuid().as_simple())
}
