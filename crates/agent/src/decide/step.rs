//! Measuring a step: its metric, its checkpoint, and what happens when it is red.

use chrono::TimeDelta;
use kintsugi_events::health::{StepMeasurements, health};
use kintsugi_events::{
    AgentEvent, Budget, Checkpoint, GoalStatus, HealthScores, HealthState, Metric, ParkReason, Payload,
    RecoveryPhase, StepLatency, ToolOutcome,
};
use kintsugi_types::Score;

use super::Decider;
use crate::state::STATE_VERSION;

/// What the newest step counts in the moving average of a step's time.
const STEP_MS_ALPHA: f64 = 0.1;

/// What was measured of one step.
struct Measured {
    health: Score,
    scores: HealthScores,
    similarity: Option<Score>,
    state: HealthState,
    step_ms: f64,
    context_ratio: f64,
}

impl Decider<'_> {
    /// Measures a step that went through, closes the recovery that it proves, and takes a checkpoint.
    pub(super) fn complete_step(&mut self, tool: Option<(ToolOutcome, bool)>) {
        let (tool, is_repeated) = tool.map_or((None, false), |(outcome, repeated)| (Some(outcome), repeated));
        let Some(measured) = self.measure(tool.as_ref(), false, is_repeated) else { return };
        self.close_measured_recovery(&measured);
        self.emit_metric(&measured, tool, false, is_repeated);
        let Some(step) = self.state.run.as_ref().map(|run| run.step) else { return };
        let average = self
            .state
            .step_ms_average
            .map_or(measured.step_ms, |average| average + STEP_MS_ALPHA * (measured.step_ms - average));
        let state_hash = self.state.hash();
        self.journal(AgentEvent::CheckpointTaken(Checkpoint {
            step,
            health: measured.health,
            health_state: measured.state,
            step_ms_average: average,
            state_version: STATE_VERSION,
            state_hash,
        }));
    }

    /// Measures a step that did not go through: a metric, but no checkpoint.
    pub(super) fn measure_red_step(&mut self, tool: Option<ToolOutcome>, malformed: bool) {
        if let Some(measured) = self.measure(tool.as_ref(), malformed, false) {
            self.emit_metric(&measured, tool, malformed, false);
        }
    }

    /// Measures a step whose prompt did not fit.
    pub(super) fn measure_overflow(&mut self) {
        if let Some(measured) = self.measure(None, false, false) {
            let measured = Measured { context_ratio: 1.0, ..measured };
            self.emit_metric(&measured, None, false, false);
        }
    }

    /// Tells that a budget keeps the next step from being begun. Nothing new was measured.
    pub(super) fn measure_spent(&mut self, spent: Budget) {
        let (health, state) = (self.state.health, self.state.health_state);
        let measured = Measured {
            health,
            scores: HealthScores::default(),
            similarity: None,
            state,
            step_ms: 0.0,
            context_ratio: 0.0,
        };
        if let Some(mut metric) = self.metric(&measured, None, false, false) {
            metric.spent = Some(spent);
            self.emit(Payload::Metric(Box::new(metric)));
        }
    }

    /// Waits for a recovery, or ends the goal where `tries` reached the limit.
    pub(super) fn park_or_give_up(&mut self, reason: ParkReason, error: String, tries: u32) {
        let limits = &self.context.config.limits;
        if tries >= limits.attempts_max {
            let said = format!("{error} ({tries} tries)");
            self.end_goal(GoalStatus::Partial, None, Some(said));
            return;
        }
        let Some(step) = self.state.run.as_ref().map(|run| run.step) else { return };
        let patience = TimeDelta::milliseconds(i64::try_from(limits.park_ms).unwrap_or(i64::MAX));
        let until = self.context.now + patience;
        self.journal(AgentEvent::Parked { step, reason, until, error });
    }

    fn measure(&self, tool: Option<&ToolOutcome>, malformed: bool, repeated_call: bool) -> Option<Measured> {
        let run = self.state.run.as_ref()?;
        let step_ms = run.so_far.think_ms + run.so_far.tool_ms;
        // Only what the last inference really used tells how full the context is.
        let used = run.so_far.tokens.prompt + run.so_far.tokens.completion;
        let context_ratio = used as f64
            / f64::from(run.thinks_in_step.max(1))
            / f64::from(self.context.config.context_tokens_of(run.so_far.model.as_ref()).max(1));
        let mut thoughts = run.thoughts.iter().map(AsRef::as_ref);
        let thought = if malformed { None } else { thoughts.next() };
        let earlier: Vec<&str> = thoughts.collect();
        let (score, scores, similarity, state) = health(
            &StepMeasurements {
                step: run.step,
                thought,
                earlier_thoughts: &earlier,
                tool,
                malformed,
                repeated_call,
                step_ms,
                step_ms_average: self.state.step_ms_average,
                context_ratio,
                confidence: (!malformed).then_some(run.so_far.confidence),
                contradictions: (run.so_far.contradictions > 0).then_some(run.so_far.contradictions),
            },
            &self.context.config.thresholds,
        );
        // Failed is who was given up, and that is not measured.
        let state = state.min(HealthState::Recovering);
        Some(Measured { health: score, scores, similarity, state, step_ms, context_ratio })
    }

    fn emit_metric(
        &mut self,
        measured: &Measured,
        tool: Option<ToolOutcome>,
        malformed: bool,
        repeated_call: bool,
    ) {
        if let Some(metric) = self.metric(measured, tool, malformed, repeated_call) {
            self.emit(Payload::Metric(Box::new(metric)));
        }
    }

    fn metric(
        &self,
        measured: &Measured,
        tool: Option<ToolOutcome>,
        malformed: bool,
        repeated_call: bool,
    ) -> Option<Metric> {
        let run = self.state.run.as_ref()?;
        Some(Metric {
            agent: self.state.agent.clone(),
            kind: Some(self.state.kind.clone()),
            goal: run.goal_id.clone(),
            step: run.step,
            state: measured.state,
            health: measured.health,
            scores: measured.scores,
            confidence: run.so_far.confidence,
            similarity: measured.similarity,
            context_ratio: measured.context_ratio,
            latency_ms: StepLatency {
                queue: run.so_far.queue_ms,
                think: run.so_far.think_ms,
                tool: run.so_far.tool_ms,
                total: measured.step_ms,
            },
            tokens: run.so_far.tokens,
            tool,
            malformed,
            repeated_call,
            contradictions: run.so_far.contradictions,
            spent: None,
            model: run.so_far.model.clone(),
            sequence: self.state.sequence,
        })
    }

    fn close_measured_recovery(&mut self, measured: &Measured) {
        let after = Some((measured.health, measured.state));
        let before = self.state.run.as_ref().and_then(|run| run.recovery.as_ref()?.plan.health_before);
        let is_better =
            measured.state == HealthState::Healthy || before.is_none_or(|health| measured.health > health);
        if is_better {
            self.close_recovery_measured(RecoveryPhase::Completed, "the step went through", after);
        } else {
            self.close_recovery_measured(RecoveryPhase::Failed, "the agent is no better after it", after);
        }
    }
}
