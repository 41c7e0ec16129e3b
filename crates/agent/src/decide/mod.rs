//! `decide`: what a command leads to. Pure: it reads the state, the configuration and what the context hands in.

mod act;
mod goal;
mod hand_over;
mod recover;
mod step;
mod think;

use std::sync::Arc;

use kintsugi_events::{AgentEvent, Envelope, Event, Payload, Subject};
use kintsugi_types::{IdSource, Timestamp};

use crate::command::Command;
use crate::config::KindConfig;
use crate::state::AgentState;

/// What a decision may use beside state and command.
pub struct Context<'a> {
    /// The time now.
    pub now: Timestamp,
    /// Fresh ids.
    pub ids: &'a mut dyn IdSource,
    /// The agent's kind.
    pub config: &'a KindConfig,
    /// The `source` attribute of the events.
    pub source: Arc<str>,
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context")
            .field("now", &self.now)
            .field("kind", &self.config.kind)
            .finish_non_exhaustive()
    }
}

/// What a command leads to.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The events, in order. Journal events among them carry the agent's next sequences.
    pub events: Vec<Event>,
    /// The state after them: what [`AgentState::apply`] makes of the journal events. It holds once they are durable.
    pub state: AgentState,
}

/// What `command` leads to.
///
/// A command that does not fit the state (late, repeated, of another goal) leads to no events.
pub fn decide(state: &AgentState, command: Command, context: Context<'_>) -> Decision {
    let mut decider = Decider { state: state.clone(), context, events: Vec::new() };
    match command {
        Command::AcceptGoal { goal } => decider.accept_goal(&goal),
        Command::StartGoal { seed } => decider.start_goal(seed),
        Command::ThinkDone { effect, attempt, outcome } => decider.think_done(effect, attempt, outcome),
        Command::ActionDone { effect, attempt, outcome, tool_ms } => {
            decider.action_done(effect, attempt, outcome, tool_ms);
        }
        Command::CallLost { effect, happened, cause } => decider.call_lost(effect, happened, &cause),
        Command::TimerDue { at } => decider.timer_due(at),
        Command::Recover { plan, planned_at } => decider.recover(plan, planned_at),
        Command::Quarantine { reason, at_start } => decider.quarantine(reason, at_start),
        Command::Resume { by } => decider.resume(by),
    }
    Decision { events: decider.events, state: decider.state }
}

/// A decision in the making: the state runs ahead with the events that were emitted so far.
struct Decider<'a> {
    state: AgentState,
    context: Context<'a>,
    events: Vec<Event>,
}

impl Decider<'_> {
    /// Emits a journal event and lets the state run ahead.
    fn journal(&mut self, event: AgentEvent) {
        let goal = match &event {
            AgentEvent::GoalAccepted { goal } => goal.id.clone(),
            AgentEvent::GoalEnded(end) => Some(end.goal.clone()),
            AgentEvent::GoalStarted { goal, .. } | AgentEvent::GoalReassigned { goal, .. } => {
                Some(goal.clone())
            }
            _ => self.state.run.as_ref().map(|run| run.goal_id.clone()),
        };
        self.state.apply(&event);
        let mut envelope = self.envelope();
        envelope.sequence = Some(self.state.sequence);
        envelope.goal = goal;
        self.events.push(Event { envelope, payload: Payload::Agent(Box::new(event)) });
    }

    /// Emits an event of another topic.
    fn emit(&mut self, payload: Payload) {
        let mut envelope = self.envelope();
        envelope.goal = self.state.run.as_ref().map(|run| run.goal_id.clone());
        self.events.push(Event { envelope, payload });
    }

    fn envelope(&mut self) -> Envelope {
        let mut envelope = Envelope::new(
            self.context.ids,
            self.context.source.clone(),
            Subject::Agent(self.state.agent.clone()),
            self.context.now,
        );
        envelope.tenant = self.state.tenant.clone();
        envelope
    }
}
