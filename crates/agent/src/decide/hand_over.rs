//! Handing a goal to another agent of the kind: it goes back to the topic with what was done, and ends there.

use std::sync::Arc;

use kintsugi_events::{AgentEvent, Goal, HandedCall, Handover, Payload};
use kintsugi_types::TokenUsage;

use super::Decider;
use crate::state::Run;

/// How often a goal may change hands.
const HANDOVERS_MAX: u32 = 2;

impl Decider<'_> {
    /// Why `goal` cannot go to another agent, where it cannot.
    pub(super) fn handover_obstacle(&self, goal: &Goal) -> Option<&'static str> {
        if goal.agent.is_some() {
            Some("the goal asks for this very agent")
        } else if self.context.config.population < 2 {
            Some("there is no other agent of its kind")
        } else if goal.epoch() >= HANDOVERS_MAX {
            Some("the goal changed hands often enough")
        } else {
            None
        }
    }

    /// Hands over the goal being worked, with all that was done and spent for it.
    pub(super) fn hand_over_run(&mut self, reason: &str) {
        let Some(run) = self.state.run.clone() else { return };
        let handover = Handover {
            started_at: Some(run.started_at),
            steps: run.step,
            tokens: run.tokens,
            seams: run.seams,
            calls: handed_calls(&run),
            ..self.fresh_handover(&run.goal, reason)
        };
        self.hand_over(&run.goal, handover);
    }

    /// Hands over a goal that waits.
    pub(super) fn hand_over_queued(&mut self, goal: &Goal, reason: &str) {
        let handover = match goal.handover.as_deref() {
            // What an agent before this one did travels on.
            Some(earlier) => Handover {
                epoch: earlier.epoch + 1,
                from: self.state.agent.clone(),
                reason: reason.to_owned(),
                ..earlier.clone()
            },
            None => self.fresh_handover(goal, reason),
        };
        self.hand_over(goal, handover);
    }

    fn fresh_handover(&self, goal: &Goal, reason: &str) -> Handover {
        Handover {
            epoch: goal.epoch() + 1,
            from: self.state.agent.clone(),
            reason: reason.to_owned(),
            started_at: None,
            steps: 0,
            tokens: TokenUsage::default(),
            seams: 0,
            calls: Vec::new(),
        }
    }

    /// The record on the goals topic and the journal's event are one commit: the goal is never nowhere.
    fn hand_over(&mut self, goal: &Goal, handover: Handover) {
        let Some(id) = goal.id.clone() else { return };
        let (epoch, reason) = (handover.epoch, handover.reason.clone());
        let goal = Goal { handover: Some(Box::new(handover)), ..goal.clone() };
        self.emit(Payload::Goal(Box::new(goal)));
        if let Some(event) = self.events.last_mut() {
            event.envelope.goal = Some(id.clone());
        }
        self.journal(AgentEvent::GoalReassigned { goal: id, epoch, reason });
    }
}

fn handed_calls(run: &Run) -> Vec<HandedCall> {
    let ended = run.calls.iter().map(|done| HandedCall {
        effect: done.effect,
        tool: done.call.tool.clone(),
        args: done.call.args.clone(),
        ok: done.ok,
        write: done.write,
        output: done.output.clone(),
        unsure: done.is_unsure,
    });
    let given_up = run.call.iter().map(|open| HandedCall {
        effect: open.effect,
        tool: open.call.tool.clone(),
        args: open.call.args.clone(),
        ok: false,
        write: open.safety.is_write(),
        output: Arc::from(run.last_error.as_deref().unwrap_or("given up")),
        unsure: open.safety.is_write(),
    });
    ended.chain(given_up).collect()
}
