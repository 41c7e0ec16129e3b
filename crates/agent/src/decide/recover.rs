//! Taking up a recovery, and telling how it went.

use chrono::TimeDelta;
use kintsugi_events::{
    AgentEvent, GoalStatus, HealthState, Payload, Recovery, RecoveryAction, RecoveryPhase,
};
use kintsugi_types::{Score, Timestamp};

use super::Decider;
use crate::state::Phase;

impl Decider<'_> {
    /// Takes up a planned recovery if the agent still waits where the plan saw it, and tells that it is abandoned
    /// if not. A plan that comes twice is taken once.
    pub(super) fn recover(&mut self, plan: Box<Recovery>, planned_at: Timestamp) {
        if self.state.recoveries.contains(&plan.recovery) || plan.phase != RecoveryPhase::Planned {
            return;
        }
        if let Some(reason) = self.reason_to_abandon(&plan) {
            self.tell(&plan, planned_at, RecoveryPhase::Abandoned, reason, None);
            self.journal(AgentEvent::RecoveryEnded {
                recovery: plan.recovery,
                phase: RecoveryPhase::Abandoned,
            });
            return;
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
        self.close_recovery_as_failed("another recovery was planned");
        self.tell(&plan, planned_at, RecoveryPhase::Started, "taken up", None);
        let delay_ms = plan.parameters.get("delay_ms").and_then(serde_json::Value::as_u64).unwrap_or(0);
        let delay = TimeDelta::milliseconds(i64::try_from(delay_ms).unwrap_or(i64::MAX));
        let resume_at = self.context.now + delay;
        let action = plan.action;
        let error = self.state.run.as_ref().and_then(|run| run.last_error.clone());
        self.journal(AgentEvent::RecoveryStarted { plan, planned_at, resume_at });
        if action == RecoveryAction::NotifyHuman {
            let reason = error.unwrap_or_else(|| "nothing automatic helps".to_owned());
            self.close_recovery(RecoveryPhase::Completed, "a person was told");
            self.end_goal(GoalStatus::Partial, None, Some(format!("needs a person: {reason}")));
        } else if delay_ms == 0 {
            self.timer_due(resume_at);
        }
    }

    /// Why a plan does not fit any more.
    fn reason_to_abandon(&self, plan: &Recovery) -> Option<&'static str> {
        let Some(run) = &self.state.run else { return Some("the goal had ended") };
        if plan.goal.as_ref().is_some_and(|goal| *goal != run.goal_id) {
            return Some("the goal had ended");
        }
        if plan.action == RecoveryAction::Monitor {
            return None;
        }
        if plan.step != run.step || !matches!(run.phase, Phase::Parked { .. }) {
            return Some("the agent had moved on");
        }
        None
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
        self.tell(&open.plan, open.planned_at, phase, outcome, after);
        self.journal(AgentEvent::RecoveryEnded { recovery: open.plan.recovery, phase });
    }

    /// Emits the next phase of a recovery.
    fn tell(
        &mut self,
        plan: &Recovery,
        planned_at: Timestamp,
        phase: RecoveryPhase,
        outcome: &str,
        after: Option<(Score, HealthState)>,
    ) {
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
