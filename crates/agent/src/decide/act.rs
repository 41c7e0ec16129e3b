//! Calling a tool, and what comes back.

use std::sync::Arc;

use kintsugi_events::{
    ActionCall, AgentEvent, GoalStatus, ObservationRecord, ParkReason, ToolOutcome as ToolMetric,
};
use kintsugi_types::{EffectId, ErrorTier, ToolSafety};

use super::Decider;
use crate::apply::is_shown_to_model;
use crate::command::ActionOutcome;
use crate::effect::OpenCall;
use crate::state::Phase;

impl Decider<'_> {
    /// Asks for a tool call, or returns what an identical write returned before.
    pub(super) fn request_action(&mut self, call: ActionCall) {
        let Some(safety) = self.safety_of(&call.tool) else { return };
        let effect = self.effect_of(&call, safety);
        let Some(run) = &self.state.run else { return };
        let step = run.step;
        let earlier = run.calls.iter().find(|done| done.ok && done.write && done.call == call);
        if let Some(earlier) = earlier {
            let observation = ObservationRecord {
                effect: earlier.effect,
                step,
                tool: call.tool.clone(),
                ok: true,
                output: earlier.output.clone(),
                error_tier: None,
                attempt: 1,
                tool_ms: 0.0,
                unmended: false,
                replayed: true,
            };
            self.journal(AgentEvent::ObservationRecorded(observation));
            self.complete_step(Some((
                ToolMetric { name: call.tool, ok: true, error_tier: None, error: None, attempt: 1 },
                true,
            )));
            self.next_step(step + 1);
            return;
        }
        self.journal(AgentEvent::ActionRequested { effect, step, call, safety });
    }

    /// The effect of a call. A keyed write that may have acted though it failed is asked for under the id that it had,
    /// by whichever agent: the service then does it once, however often it is asked.
    fn effect_of(&mut self, call: &ActionCall, safety: ToolSafety) -> EffectId {
        let earlier = (safety == ToolSafety::Keyed)
            .then_some(self.state.run.as_ref())
            .flatten()
            .and_then(|run| run.calls.iter().rev().find(|done| done.is_unsure && done.call == *call));
        earlier.map_or_else(|| EffectId::new(self.context.ids), |done| done.effect)
    }

    pub(super) fn action_done(
        &mut self,
        effect: EffectId,
        attempt: u32,
        outcome: ActionOutcome,
        tool_ms: f64,
    ) {
        let Some(open) = self.awaited_call(effect, attempt) else { return };
        let Some(step) = self.state.run.as_ref().map(|run| run.step) else { return };
        let (ok, output, error_tier) = match outcome {
            ActionOutcome::Answered { output } => (true, self.cut(output), None),
            ActionOutcome::Failed { tier, error } => {
                let output = if tier == ErrorTier::Recoverable {
                    serde_json::json!({ "error": error }).to_string()
                } else {
                    error
                };
                (false, self.cut(output.into()), Some(tier))
            }
        };
        let is_repeated = self
            .state
            .run
            .as_ref()
            .is_some_and(|run| run.calls.iter().any(|done| !done.is_forgotten && done.call == open.call));
        let metric = ToolMetric {
            name: open.call.tool.clone(),
            ok,
            error_tier,
            error: (!ok).then(|| output.to_string()),
            attempt,
        };
        let observation = ObservationRecord {
            effect,
            step,
            tool: open.call.tool,
            ok,
            output,
            error_tier,
            attempt,
            tool_ms,
            // An agent that nobody mends does not wait for it.
            unmended: !ok && self.context.config.limits.park_ms == 0,
            replayed: false,
        };
        let is_shown = is_shown_to_model(&observation);
        let error = (!ok).then(|| observation.output.to_string());
        self.journal(AgentEvent::ObservationRecorded(observation));
        if is_shown {
            self.complete_step(Some((metric, is_repeated)));
            self.next_step(step + 1);
        } else {
            let error = error.unwrap_or_default();
            self.close_recovery_as_failed(&error);
            self.measure_red_step(Some(metric), false);
            self.park_or_give_up(ParkReason::ToolFailed, error, attempt);
        }
    }

    /// An unkeyed call came to no known end: it is never made again.
    pub(super) fn call_lost(&mut self, effect: EffectId, happened: Option<bool>, cause: &str) {
        let Some(open) = self.state.run.as_ref().and_then(|run| run.call.clone()) else { return };
        let is_acting = self.state.run.as_ref().is_some_and(|run| run.phase == Phase::Acting);
        if !is_acting || open.effect != effect || open.safety.is_restartable() {
            return;
        }
        let attempt = open.attempt;
        match happened {
            Some(true) => self.action_done(
                effect,
                attempt,
                ActionOutcome::Answered { output: Arc::from(r#"{"done":true}"#) },
                0.0,
            ),
            Some(false) => self.journal(AgentEvent::ActionRetried { effect, attempt: attempt + 1 }),
            None => {
                let tool = open.call.tool;
                let cause = self.cut(cause.into());
                self.journal(AgentEvent::OutcomeUnknown { effect, tool: tool.clone() });
                self.end_goal(
                    GoalStatus::Partial,
                    None,
                    Some(format!(
                        "nobody can tell whether {tool} acted (effect {effect}: {cause}); check it by hand"
                    )),
                );
            }
        }
    }

    pub(super) fn timer_due(&mut self, at: kintsugi_types::Timestamp) {
        let Some(run) = &self.state.run else { return };
        // Nothing was asked since the last checkpoint: the step is over.
        let step = if run.thinks_in_step == 0 { run.step + 1 } else { run.step };
        let is_due = match run.phase {
            Phase::Parked { until, .. } | Phase::Waiting { until } => until == at,
            _ => false,
        };
        if !is_due {
            return;
        }
        match run.call.clone() {
            Some(open) => {
                self.journal(AgentEvent::ActionRetried { effect: open.effect, attempt: open.attempt + 1 });
            }
            None => self.think(step),
        }
    }

    fn awaited_call(&self, effect: EffectId, attempt: u32) -> Option<OpenCall> {
        let run = self.state.run.as_ref()?;
        let is_acting = run.phase == Phase::Acting;
        run.call.clone().filter(|open| is_acting && open.effect == effect && open.attempt == attempt)
    }

    /// Cuts what a tool said to what goes into the context, and says so.
    fn cut(&self, output: Arc<str>) -> Arc<str> {
        let bytes_max = self.context.config.limits.observation_bytes_max;
        if output.len() <= bytes_max {
            return output;
        }
        let end = (0..=bytes_max).rev().find(|end| output.is_char_boundary(*end)).unwrap_or(0);
        let kept = output.get(..end).unwrap_or_default();
        format!("{kept} [cut: {} of {} bytes shown]", kept.len(), output.len()).into()
    }
}
