//! The actor around one active agent. It decides, and it holds the state; everything else is its partition's.

use std::sync::Arc;

use actix::prelude::*;
use kintsugi_agent::prompt::system_message;
use kintsugi_agent::{
    AgentState, Command, Context as DecideContext, Effect, KindConfig, STATE_VERSION, decide,
};
use kintsugi_agent::{OpenCall, Phase};
use kintsugi_events::{Event, Goal, HealthState, Snapshot};
use kintsugi_types::{AgentId, Message as ChatMessage, SystemIds, Timestamp};
use serde_json::value::RawValue;

use crate::lane_context::LaneContext;

/// Journal events between two snapshots of an agent that does not come to rest.
pub const SNAPSHOT_EVERY: u64 = 64;

/// Hands one command to the agent; without one it only tells what it waits for.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Deliver {
    /// The command.
    pub command: Option<Command>,
}

/// Tells the agent that what it decided is durable.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Applied;

/// What the agent wants done outside, with all that is needed for it.
#[derive(Debug)]
pub enum EffectStart {
    /// Ask the model.
    Think {
        /// The wish.
        wish: Effect,
        /// The prompt.
        messages: Vec<ChatMessage>,
        /// The goal.
        goal: Arc<Goal>,
        /// The step, from 1.
        step: u32,
        /// Which inference of the step it is, from 1.
        try_number: u32,
        /// Whether only an answer without tools is wanted.
        simple_reply: bool,
        /// Whether the agent is on lighter work: the main model is asked for less.
        is_light: bool,
    },
    /// Call a tool.
    Call {
        /// The wish.
        call: OpenCall,
        /// The goal, whose inputs are bound to tool parameters.
        goal: Arc<Goal>,
        /// The step, from 1.
        step: u32,
    },
    /// Wake the agent.
    Timer {
        /// When.
        at: Timestamp,
    },
}

impl EffectStart {
    /// The wish as the state holds it.
    pub fn wish(&self) -> Effect {
        match self {
            Self::Think { wish, .. } => wish.clone(),
            Self::Call { call, .. } => Effect::Call(call.clone()),
            Self::Timer { at } => Effect::Timer { at: *at },
        }
    }
}

/// What the agent waits for after a command.
#[derive(Debug)]
pub enum Wanted {
    /// The same as before.
    Unchanged,
    /// Nothing.
    Nothing,
    /// This.
    Start(Box<EffectStart>),
}

/// An agent's load and state after a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Goals that wait.
    pub queued: usize,
    /// Whether a goal is being worked.
    pub is_running: bool,
    /// Whether it waits for neither help nor a time.
    pub is_runnable: bool,
    /// Whether it takes no goals.
    pub is_quarantined: bool,
    /// How well it is.
    pub health: HealthState,
    /// What is shown.
    pub shown: &'static str,
}

impl Load {
    /// The load of a state.
    pub fn of(state: &AgentState) -> Self {
        let phase = state.run.as_ref().map(|run| run.phase);
        Self {
            queued: state.queue.len(),
            is_running: phase.is_some(),
            is_runnable: matches!(phase, Some(Phase::Thinking { .. } | Phase::Acting | Phase::Ready)),
            is_quarantined: state.quarantined.is_some(),
            health: state.health_state,
            shown: state.shown_state(),
        }
    }

    /// Whether the agent has anything to do.
    pub const fn is_any(&self) -> bool {
        self.is_running || self.queued > 0
    }

    /// Whether a partition is told of the agent when it starts.
    pub const fn is_told_of(&self) -> bool {
        self.is_any() || self.is_quarantined
    }
}

/// What a command led to.
#[derive(Debug)]
pub struct Decided {
    /// What is to be appended.
    pub events: Vec<Event>,
    /// The state after it, packed, where a snapshot is due.
    pub snapshot: Option<Snapshot>,
    /// The load after it.
    pub load: Load,
    /// What the agent waits for after it.
    pub wanted: Wanted,
    /// The sequence after it.
    pub sequence: u64,
}

/// Tells the partition when the actor is gone, however it went.
pub struct DeathGuard {
    on_death: Option<Box<dyn FnOnce() + Send>>,
}

impl std::fmt::Debug for DeathGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DeathGuard")
    }
}

impl DeathGuard {
    /// Calls `on_death` when it is dropped.
    pub fn new(on_death: impl FnOnce() + Send + 'static) -> Self {
        Self { on_death: Some(Box::new(on_death)) }
    }

    /// Tells nobody: what it guards was never begun.
    pub fn disarm(mut self) {
        self.on_death = None;
    }
}

impl Drop for DeathGuard {
    fn drop(&mut self) {
        if let Some(on_death) = self.on_death.take() {
            on_death();
        }
    }
}

/// Where an agent sends what it decided.
pub type DecidedSink = Box<dyn Fn(Decided) + Send>;

/// The actor of one active agent.
pub struct AgentActor {
    lane: Arc<LaneContext>,
    config: Arc<KindConfig>,
    source: Arc<str>,
    system: ChatMessage,
    state: AgentState,
    next: Option<AgentState>,
    snapshot_sequence: u64,
    decided: DecidedSink,
    _guard: DeathGuard,
}

impl std::fmt::Debug for AgentActor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentActor").field("agent", &self.state.agent).finish_non_exhaustive()
    }
}

impl AgentActor {
    /// An actor for an agent whose state was restored. `snapshot_sequence` is that of its newest snapshot.
    pub fn new(
        lane: Arc<LaneContext>,
        config: Arc<KindConfig>,
        source: Arc<str>,
        state: AgentState,
        snapshot_sequence: u64,
        decided: DecidedSink,
        guard: DeathGuard,
    ) -> Self {
        let system = system_message(&config.instructions, &config.tools);
        Self { lane, config, source, system, state, next: None, snapshot_sequence, decided, _guard: guard }
    }

    fn agent(&self) -> &AgentId {
        &self.state.agent
    }

    fn effect_start(&self, state: &AgentState) -> Wanted {
        let Some(goal) = state.run.as_ref().map(|run| run.goal.clone()) else { return Wanted::Nothing };
        match state.open_effect() {
            None => Wanted::Nothing,
            Some(Effect::Timer { at }) => Wanted::Start(Box::new(EffectStart::Timer { at })),
            Some(Effect::Call(call)) => {
                let step = state.run.as_ref().map_or(0, |run| run.step);
                Wanted::Start(Box::new(EffectStart::Call { call, goal, step }))
            }
            Some(wish @ Effect::Think { .. }) => Wanted::Start(Box::new(EffectStart::Think {
                wish,
                messages: state.messages(self.system.clone()),
                step: state.run.as_ref().map_or(0, |run| run.step),
                try_number: state.run.as_ref().map_or(0, |run| run.thinks_in_step),
                simple_reply: state.run.as_ref().is_some_and(|run| run.simple_reply),
                is_light: state.run.as_ref().is_some_and(|run| run.is_light),
                goal,
            })),
        }
    }

    /// A snapshot is due when the agent comes to rest, and every [`SNAPSHOT_EVERY`] events.
    fn due_snapshot(&self, next: &AgentState) -> Option<Snapshot> {
        let is_due = next.sequence > self.snapshot_sequence
            && (!next.has_load() || next.sequence - self.snapshot_sequence >= SNAPSHOT_EVERY);
        if !is_due {
            return None;
        }
        let json = serde_json::to_string(next).ok().and_then(|json| RawValue::from_string(json).ok())?;
        Some(Snapshot {
            of: next.agent.to_string(),
            version: STATE_VERSION,
            sequence: next.sequence,
            state: json,
        })
    }
}

impl Actor for AgentActor {
    type Context = Context<Self>;
}

impl Handler<Deliver> for AgentActor {
    type Result = ();

    fn handle(&mut self, deliver: Deliver, _: &mut Context<Self>) {
        let Some(command) = deliver.command else {
            (self.decided)(Decided {
                events: Vec::new(),
                snapshot: None,
                load: Load::of(&self.state),
                wanted: self.effect_start(&self.state),
                sequence: self.state.sequence,
            });
            return;
        };
        if let Some(probe) = &self.lane.node.config.before_decide {
            (probe.0)(self.agent(), &command);
        }
        let context = DecideContext {
            now: self.lane.node.clock.now(),
            ids: &mut SystemIds,
            config: &self.config,
            source: self.source.clone(),
        };
        let decision = decide(&self.state, command, context);
        let wanted = if decision.state.open_effect() == self.state.open_effect() {
            Wanted::Unchanged
        } else {
            self.effect_start(&decision.state)
        };
        let snapshot = self.due_snapshot(&decision.state);
        if let Some(taken) = &snapshot {
            self.snapshot_sequence = taken.sequence;
        }
        let load = Load::of(&decision.state);
        let sequence = decision.state.sequence;
        let is_changed = !decision.events.is_empty();
        if is_changed {
            self.next = Some(decision.state);
        }
        (self.decided)(Decided { events: decision.events, snapshot, load, wanted, sequence });
    }
}

impl Handler<Applied> for AgentActor {
    type Result = ();

    fn handle(&mut self, _: Applied, _: &mut Context<Self>) {
        if let Some(next) = self.next.take() {
            self.state = next;
        }
    }
}
