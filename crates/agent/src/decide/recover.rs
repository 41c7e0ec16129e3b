//! Taking up a recovery, and telling how it went.

use chrono::TimeDelta;
use kintsugi_events::{
    AgentEvent, FaultType, GoalStatus, HealthState, Payload, Recovery, RecoveryAction, RecoveryPhase,
};
use kintsugi_types::{Score, Timestamp};

use super::Decider;
use crate::state::Phase;

/// So much better an agent has to be for a recovery to be needless.
const HEALTH_BETTER_BY: f64 = 0.05;

/// What became of a plan that came, or came to its turn, after its deadline.
const OVERDUE: &str = "its deadline had passed";

/// Whether a plan fits an agent.
enum Fit {
    /// It waits for it.
    Now,
    /// It is in the middle of a step.
    AtStepEnd,
    /// It does not, and why.
    Never(&'static str),
}

/// Whether what the plan mends is still there when the step is over. A call that failed is not: it was made again.
fn outlasts_its_step(plan: &Recovery) -> bool {
    let is_of_the_state = matches!(
        plan.action,
        RecoveryAction::ResetState
            | RecoveryAction::CacheRollback
            | RecoveryAction::PruneContext
            | RecoveryAction::ForceReplan
            | RecoveryAction::ModelDownshift
            | RecoveryAction::AgentRedistribute
            | RecoveryAction::DegradeGracefully
            | RecoveryAction::NotifyHuman
    );
    is_of_the_state && plan.fault_type != FaultType::ToolFailure
}

impl Decider<'_> {
    /// Takes up a planned recovery if the agent still waits where the plan saw it, and tells that it is abandoned
    /// if not. A plan that comes twice is taken once.
    pub(super) fn recover(&mut self, plan: Box<Recovery>, planned_at: Timestamp) {
        if self.state.recoveries.contains(&plan.recovery) || plan.phase != RecoveryPhase::Planned {
            return;
        }
        if plan.is_overdue(self.context.now) {
            self.abandon(&plan, planned_at, OVERDUE);
            return;
        }
        match self.fit(&plan) {
            Fit::Now => {}
            Fit::AtStepEnd => {
                self.abandon_deferred("another recovery was planned");
                self.journal(AgentEvent::RecoveryDeferred { plan, planned_at });
                return;
            }
            Fit::Never(reason) => {
                self.abandon(&plan, planned_at, reason);
                return;
            }
        }
        if plan.action == RecoveryAction::Monitor {
            let unchanged = Some((self.state.health, self.state.health_state));
            self.tell(&plan, planned_at, RecoveryPhase::Completed, "watched", unchanged);
            self.journal(AgentEvent::RecoveryEnded {
                recovery: plan.recovery,
                phase: RecoveryPhase::Completed,
            });
            return;
        }
        self.abandon_deferred("another recovery was planned");
        self.take_up(plan, planned_at);
    }

    /// Begins `step`, after the recovery that waited for the end of the one before.
    pub(super) fn next_step(&mut self, step: u32) {
        let Some(waiting) = self.state.run.as_ref().and_then(|run| run.deferred.clone()) else {
            self.think(step);
            return;
        };
        if waiting.plan.is_overdue(self.context.now) {
            self.abandon_deferred(OVERDUE);
            self.think(step);
        } else if self.is_better_by_itself(&waiting.plan) {
            self.abandon_deferred("the agent had got better by itself");
            self.think(step);
        } else {
            self.take_up(waiting.plan, waiting.planned_at);
        }
    }

    /// Whether the agent is well again, and better than when `plan` was made.
    fn is_better_by_itself(&self, plan: &Recovery) -> bool {
        let before = plan.health_before.unwrap_or(Score::ONE);
        self.state.health_state == HealthState::Healthy
            && self.state.health.get() > before.get() + HEALTH_BETTER_BY
    }

    fn take_up(&mut self, plan: Box<Recovery>, planned_at: Timestamp) {
        self.close_recovery_as_failed("another recovery was planned");
        self.tell(&plan, planned_at, RecoveryPhase::Started, "taken up", None);
        let delay_ms = plan.parameters.get("delay_ms").and_then(serde_json::Value::as_u64).unwrap_or(0);
        let delay = TimeDelta::milliseconds(i64::try_from(delay_ms).unwrap_or(i64::MAX));
        let resume_at = self.context.now + delay;
        let (action, gives_up) = (plan.action, plan.gives_agent_up());
        let error = self.state.run.as_ref().and_then(|run| run.last_error.clone());
        self.journal(AgentEvent::RecoveryStarted { plan, planned_at, resume_at });
        if action == RecoveryAction::NotifyHuman {
            let reason = error.unwrap_or_else(|| "nothing automatic helps".to_owned());
            self.close_recovery(RecoveryPhase::Completed, "a person was told");
            self.end_goal(GoalStatus::Partial, None, Some(format!("needs a person: {reason}")));
            if gives_up {
                self.quarantine(format!("every remedy was tried: {reason}"), false);
            }
        } else if action == RecoveryAction::AgentRedistribute {
            self.redistribute(resume_at);
        } else if delay_ms == 0 {
            self.timer_due(resume_at);
        }
    }

    /// Hands the goal over; where that cannot be, the recovery failed and the agent tries by itself.
    fn redistribute(&mut self, resume_at: Timestamp) {
        let Some(goal) = self.state.run.as_ref().map(|run| run.goal.clone()) else { return };
        if let Some(obstacle) = self.handover_obstacle(&goal) {
            self.close_recovery(RecoveryPhase::Failed, obstacle);
            self.timer_due(resume_at);
        } else {
            self.close_recovery(RecoveryPhase::Completed, "the goal was handed to another agent");
            self.hand_over_run("redistributed by a recovery");
        }
    }

    /// Whether and when a plan fits.
    fn fit(&self, plan: &Recovery) -> Fit {
        let Some(run) = &self.state.run else { return Fit::Never("the goal had ended") };
        if plan.goal.as_ref().is_some_and(|goal| *goal != run.goal_id) {
            return Fit::Never("the goal had ended");
        }
        if plan.action == RecoveryAction::Monitor {
            return Fit::Now;
        }
        match run.phase {
            Phase::Parked { .. } if plan.step == run.step => Fit::Now,
            Phase::Thinking { .. } | Phase::Acting if plan.step <= run.step && outlasts_its_step(plan) => {
                Fit::AtStepEnd
            }
            _ => Fit::Never("the agent had moved on"),
        }
    }

    /// Drops the recovery that waits for the end of the step, if any.
    pub(super) fn abandon_deferred(&mut self, reason: &str) {
        if let Some(waiting) = self.state.run.as_ref().and_then(|run| run.deferred.clone()) {
            self.abandon(&waiting.plan, waiting.planned_at, reason);
        }
    }

    fn abandon(&mut self, plan: &Recovery, planned_at: Timestamp, reason: &str) {
        self.tell(plan, planned_at, RecoveryPhase::Abandoned, reason, None);
        let phase = RecoveryPhase::Abandoned;
        self.journal(AgentEvent::RecoveryEnded { recovery: plan.recovery, phase });
    }

    pub(super) fn close_recovery_as_failed(&mut self, outcome: &str) {
        self.close_recovery(RecoveryPhase::Failed, outcome);
    }

    /// Ends the open recovery, if any, without a new measurement.
    pub(super) fn close_recovery(&mut self, phase: RecoveryPhase, outcome: &str) {
        self.close_recovery_measured(phase, outcome, None);
    }

    /// Ends the open recovery, if any, with the health measured after it.
    pub(super) fn close_recovery_measured(
        &mut self,
        phase: RecoveryPhase,
        outcome: &str,
        after: Option<(Score, HealthState)>,
    ) {
        let Some(open) = self.state.run.as_ref().and_then(|run| run.recovery.clone()) else { return };
        let phase = if open.plan.is_overdue(self.context.now) { RecoveryPhase::Failed } else { phase };
        self.tell(&open.plan, open.planned_at, phase, outcome, after);
        self.journal(AgentEvent::RecoveryEnded { recovery: open.plan.recovery, phase });
    }

    /// Emits the next phase of a recovery. At its deadline whoever planned it says that it failed: a second end told
    /// here would contradict that.
    fn tell(
        &mut self,
        plan: &Recovery,
        planned_at: Timestamp,
        phase: RecoveryPhase,
        outcome: &str,
        after: Option<(Score, HealthState)>,
    ) {
        if phase.is_terminal() && plan.is_overdue(self.context.now) {
            return;
        }
        let elapsed = self.context.now.signed_duration_since(planned_at).num_milliseconds();
        let state_before = self
            .state
            .run
            .as_ref()
            .and_then(|run| run.recovery.as_ref())
            .map_or(self.state.health_state, |open| open.state_before);
        self.emit(Payload::Recovery(Box::new(Recovery {
            phase,
            health_before: plan.health_before.or(Some(self.state.health)),
            health_after: after.map(|(health, _)| health),
            state_before: Some(state_before),
            state_after: after.map(|(_, state)| state),
            duration_ms: Some(u64::try_from(elapsed).unwrap_or(0)),
            outcome: Some(outcome.to_owned()),
            ..plan.clone()
        })));
    }
}
