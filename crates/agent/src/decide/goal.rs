//! The beginning and the end of a goal, and of an agent's work as a whole.

use std::collections::VecDeque;
use std::sync::Arc;

use kintsugi_events::{
    AgentEvent, Goal, GoalEnd, GoalResult, GoalStatus, Payload, RecoveryPhase, ResultAction,
};
use kintsugi_types::TokenUsage;

use super::Decider;

impl Decider<'_> {
    pub(super) fn accept_goal(&mut self, goal: &Arc<Goal>) {
        let Some(id) = goal.id.clone() else { return };
        let is_known = self.state.queue.iter().any(|queued| queued.id.as_ref() == Some(&id))
            || self.state.run.as_ref().is_some_and(|run| run.goal_id == id);
        if is_known {
            return;
        }
        if self.state.sequence == 0 {
            self.journal(AgentEvent::Created {
                kind: self.state.kind.clone(),
                tenant: self.state.tenant.clone(),
            });
        }
        self.journal(AgentEvent::GoalAccepted { goal: goal.clone() });
        if let Some(reason) = self.state.quarantined.clone() {
            self.pass_on(goal, &reason);
        }
    }

    pub(super) fn start_goal(&mut self, seed: u64) {
        if self.state.run.is_some() || self.state.quarantined.is_some() {
            return;
        }
        let Some(id) = self.state.queue.front().and_then(|goal| goal.id.clone()) else { return };
        if self
            .state
            .queue
            .front()
            .is_some_and(|goal| goal.deadline.is_some_and(|end| end <= self.context.now))
        {
            self.journal(AgentEvent::GoalStarted { goal: id, at: self.context.now, seed });
            self.end_goal(
                GoalStatus::Partial,
                None,
                Some("its deadline passed before it was begun".to_owned()),
            );
            return;
        }
        self.journal(AgentEvent::GoalStarted { goal: id, at: self.context.now, seed });
        // One that was handed over goes on with its next step.
        let step = self.state.run.as_ref().map_or(0, |run| run.step);
        self.think(step + 1);
    }

    /// Ends the goal being worked: its recovery is closed, its result goes out.
    pub(super) fn end_goal(&mut self, status: GoalStatus, answer: Option<String>, reason: Option<String>) {
        if self.state.run.as_ref().is_some_and(|run| run.recovery.is_some()) {
            let phase = if status == GoalStatus::Completed {
                RecoveryPhase::Completed
            } else {
                RecoveryPhase::Failed
            };
            self.close_recovery(phase, "the goal ended");
        }
        self.abandon_deferred("the goal had ended");
        let Some(run) = &self.state.run else { return };
        let mut actions: Vec<ResultAction> = run
            .calls
            .iter()
            .map(|done| ResultAction {
                effect: done.effect,
                tool: done.call.tool.clone(),
                args: done.call.args.clone(),
                ok: done.ok,
            })
            .collect();
        actions.extend(run.call.iter().map(|open| ResultAction {
            effect: open.effect,
            tool: open.call.tool.clone(),
            args: open.call.args.clone(),
            ok: false,
        }));
        let goal = run.goal_id.clone();
        let wall = self.context.now.signed_duration_since(run.started_at).num_milliseconds();
        let result = GoalResult {
            goal: goal.clone(),
            agent: self.state.agent.clone(),
            status,
            answer: answer.clone(),
            actions,
            reason: reason.clone(),
            steps: run.step,
            tokens: run.tokens,
            usd: self.usd(&run.tokens),
            wall_ms: u64::try_from(wall).unwrap_or(0),
            seams: run.seams,
        };
        self.emit(Payload::Result(Box::new(result)));
        self.journal(AgentEvent::GoalEnded(GoalEnd { goal, status, answer, reason }));
    }

    /// Hands a goal that waits to another agent, and ends it where that cannot be, for this one works no more.
    fn pass_on(&mut self, goal: &Goal, reason: &str) {
        match self.handover_obstacle(goal) {
            None => self.hand_over_queued(goal, reason),
            Some(_) => self.end_queued_goal(goal, format!("the agent is quarantined: {reason}")),
        }
    }

    /// Ends a goal that was never begun here.
    fn end_queued_goal(&mut self, goal: &Goal, reason: String) {
        let agent = self.state.agent.clone();
        let Some(mut result) = GoalResult::never_begun(goal, agent, reason.clone(), self.context.now) else {
            return;
        };
        result.usd = self.usd(&result.tokens);
        let goal = result.goal.clone();
        self.emit(Payload::Result(Box::new(result)));
        if let Some(event) = self.events.last_mut() {
            event.envelope.goal = Some(goal.clone());
        }
        self.journal(AgentEvent::GoalEnded(GoalEnd {
            goal,
            status: GoalStatus::Failed,
            answer: None,
            reason: Some(reason),
        }));
    }

    pub(super) fn quarantine(&mut self, reason: String, at_start: bool) {
        if self.state.quarantined.is_some() {
            return;
        }
        let mut waiting: VecDeque<Arc<Goal>> = self.state.queue.clone();
        if self.state.run.is_some() {
            self.end_goal(GoalStatus::Failed, None, Some(reason.clone()));
        } else if at_start && let Some(first) = waiting.pop_front() {
            self.end_queued_goal(&first, reason.clone());
        }
        for goal in waiting {
            self.pass_on(&goal, &reason);
        }
        self.journal(AgentEvent::Quarantined { reason });
    }

    pub(super) fn resume(&mut self, by: String) {
        if self.state.quarantined.is_some() {
            self.journal(AgentEvent::Resumed { by });
        }
    }

    /// What tokens cost by the kind's prices.
    pub(super) fn usd(&self, tokens: &TokenUsage) -> f64 {
        self.context.config.prices.usd(tokens)
    }
}
