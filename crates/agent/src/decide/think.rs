//! Asking the model, and what its answer leads to.

use std::sync::Arc;

use kintsugi_events::{AgentEvent, Budget, GoalStatus, ParkReason, ThoughtRecord};
use kintsugi_types::{Completion, EffectId, ErrorTier, FinishReason, ModelName, ToolName};

use super::Decider;
use crate::command::ThinkOutcome;
use crate::prompt::{Action, DecisionError, read_decision};
use crate::state::Phase;

/// How often an inference that failed transiently is tried again at once.
const THINK_RETRIES_AT_ONCE: u32 = 2;

/// After so many inferences that the smaller model could not answer it is asked no more in a goal.
const SMALLER_FAILURES_MAX: u32 = 3;

impl Decider<'_> {
    /// Asks the model for the action of `step`, unless a budget is spent.
    pub(super) fn think(&mut self, step: u32) {
        if let Some((budget, limit)) = self.spent_budget(step) {
            self.measure_spent(budget);
            self.end_goal(GoalStatus::Partial, None, Some(limit));
            return;
        }
        let Some(run) = &self.state.run else { return };
        let sampling_seed = mix(run.seed, step, run.thinks_in_step);
        let model = self.smaller_to_ask();
        let effect = EffectId::new(self.context.ids);
        self.journal(AgentEvent::ThinkRequested { effect, step, attempt: 1, sampling_seed, model });
    }

    /// The smaller model, where the agent is on lighter work and there is one that can answer it.
    fn smaller_to_ask(&self) -> Option<ModelName> {
        let run = self.state.run.as_ref()?;
        let is_asked = run.is_light && run.smaller_failures < SMALLER_FAILURES_MAX;
        self.context.config.smaller.as_ref().filter(|_| is_asked).map(|smaller| smaller.name.clone())
    }

    /// Asks the main model what the smaller one could not answer, whatever kept it from that. Returns whether it was
    /// the smaller one that was asked.
    fn ask_main_instead(&mut self, effect: EffectId, attempt: u32, error: &str) -> bool {
        let Some(run) = self.state.run.as_ref().filter(|run| run.model.is_some()) else { return false };
        let step = run.step;
        let Phase::Thinking { sampling_seed, .. } = run.phase else { return false };
        self.journal(AgentEvent::ThinkFailed { effect, attempt, error: error.to_owned() });
        let attempt = attempt + 1;
        self.journal(AgentEvent::ThinkRequested { effect, step, attempt, sampling_seed, model: None });
        true
    }

    pub(super) fn think_done(&mut self, effect: EffectId, attempt: u32, outcome: ThinkOutcome) {
        let is_awaited = self.state.run.as_ref().is_some_and(|run| {
            matches!(run.phase, Phase::Thinking { effect: e, attempt: a, .. } if e == effect && a == attempt)
        });
        if !is_awaited {
            return;
        }
        if let ThinkOutcome::TooLong { error } | ThinkOutcome::Failed { error, .. } = &outcome
            && self.ask_main_instead(effect, attempt, error)
        {
            return;
        }
        match outcome {
            ThinkOutcome::Answered { completion, queue_ms, contradictions, model } => {
                self.answered(effect, completion, (queue_ms, contradictions), model);
            }
            ThinkOutcome::TooLong { error } => self.overflowed(effect, attempt, error),
            ThinkOutcome::Failed { tier, error } => self.think_failed(effect, attempt, tier, &error),
        }
    }

    fn answered(
        &mut self,
        effect: EffectId,
        completion: Completion,
        (queue_ms, contradictions): (f64, u32),
        model: Option<ModelName>,
    ) {
        let Some(step) = self.state.run.as_ref().map(|run| run.step) else { return };
        let read = if contradictions > 0 {
            // Whatever it says, it says of another conversation.
            let reason = format!("answers a prompt of which {contradictions} messages are not the agent's");
            Err(DecisionError::Malformed { reason })
        } else if completion.finish == FinishReason::Length {
            Err(DecisionError::Malformed { reason: "was cut at the token limit".to_owned() })
        } else {
            read_decision(&completion.text, &self.context.config.tools)
        };
        let (thought, action, malformed) = match read {
            Ok(decision) => (Some(decision.thought), Some(decision.action), None),
            Err(error) => (None, None, Some(format!("the model's output {error}"))),
        };
        self.journal(AgentEvent::ThoughtRecorded(ThoughtRecord {
            effect,
            step,
            text: Arc::from(completion.text),
            thought,
            confidence: completion.confidence,
            tokens: completion.usage,
            queue_ms,
            think_ms: completion.think_ms,
            contradictions,
            malformed: malformed.clone(),
            model,
        }));
        match action {
            Some(Action::Finish { answer }) => {
                self.complete_step(None);
                self.end_goal(GoalStatus::Completed, Some(answer), None);
            }
            Some(Action::Call(call)) => self.request_action(call),
            None => {
                let error = malformed.unwrap_or_default();
                self.close_recovery_as_failed("the output could not be read again");
                self.measure_red_step(None, true);
                self.park_or_give_up(
                    if contradictions > 0 { ParkReason::StateDrift } else { ParkReason::MalformedOutput },
                    error,
                    self.state.run.as_ref().map_or(0, |run| run.malformed_in_row),
                );
            }
        }
    }

    /// The context does not fit the model. Where there is something to prune, help is waited for.
    fn overflowed(&mut self, effect: EffectId, attempt: u32, error: String) {
        let Some(run) = &self.state.run else { return };
        let (has_turns, tries) = (!run.turns.is_empty(), run.thinks_in_step);
        self.journal(AgentEvent::ThinkFailed { effect, attempt, error: error.clone() });
        if has_turns {
            self.close_recovery_as_failed("the context still does not fit");
            self.measure_overflow();
            self.park_or_give_up(ParkReason::ContextOverflow, error, tries);
        } else {
            let reason = format!("the inference cannot be done: {error}");
            self.end_goal(GoalStatus::Partial, None, Some(reason));
        }
    }

    fn think_failed(&mut self, effect: EffectId, attempt: u32, tier: ErrorTier, error: &str) {
        let Some(run) = &self.state.run else { return };
        let step = run.step;
        let Phase::Thinking { sampling_seed, .. } = run.phase else { return };
        self.journal(AgentEvent::ThinkFailed { effect, attempt, error: error.to_owned() });
        if tier == ErrorTier::Transient && attempt <= THINK_RETRIES_AT_ONCE {
            let attempt = attempt + 1;
            self.journal(AgentEvent::ThinkRequested { effect, step, attempt, sampling_seed, model: None });
        } else if tier == ErrorTier::Transient {
            let tries = self.state.run.as_ref().map_or(0, |run| run.thinks_in_step);
            self.park_or_give_up(ParkReason::ThinkFailed, format!("the inference failed: {error}"), tries);
        } else {
            self.end_goal(GoalStatus::Partial, None, Some(format!("the inference cannot be done: {error}")));
        }
    }

    /// The budget that is spent, in words, if beginning `step` would pass one.
    fn spent_budget(&self, step: u32) -> Option<(Budget, String)> {
        let run = self.state.run.as_ref()?;
        let limits = &self.context.config.limits;
        let wanted = &run.goal.budget;
        let steps_max = wanted.steps.unwrap_or(limits.steps_max);
        if step > steps_max {
            return Some((Budget::Steps, format!("the budget of {steps_max} steps is spent")));
        }
        let tokens_max = wanted.tokens.unwrap_or(limits.tokens_max);
        if run.tokens.prompt + run.tokens.completion >= tokens_max {
            return Some((Budget::Tokens, format!("the budget of {tokens_max} tokens is spent")));
        }
        let seconds_max = wanted.seconds.unwrap_or(limits.seconds_max);
        let elapsed = self.context.now.signed_duration_since(run.started_at);
        if elapsed.num_milliseconds() as f64 > seconds_max * 1000.0 {
            return Some((Budget::Seconds, format!("the budget of {seconds_max} seconds is spent")));
        }
        let usd_max = wanted.usd.unwrap_or(limits.usd_max);
        if self.usd(&run.tokens) >= usd_max {
            return Some((Budget::Usd, format!("the budget of {usd_max} US dollars is spent")));
        }
        if run.goal.deadline.is_some_and(|deadline| deadline <= self.context.now) {
            return Some((Budget::Deadline, "the goal's deadline has passed".to_owned()));
        }
        None
    }

    /// Whether the kind has a tool of that name.
    pub(super) fn safety_of(&self, tool: &ToolName) -> Option<kintsugi_types::ToolSafety> {
        self.context.config.tool(tool).map(|spec| spec.safety)
    }
}

/// A seed for one draw of a run: `SplitMix64` over the run's seed, the step and how often it was drawn.
fn mix(seed: u64, step: u32, draw: u32) -> u64 {
    let mut mixed = seed ^ (u64::from(step) << 32 | u64::from(draw)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}
