//! What the monitor remembers of one agent.

use kintsugi_events::{Metric, ToolOutcome};
use kintsugi_types::{ErrorTier, GoalId};
use serde::{Deserialize, Serialize};

use crate::baseline::Baseline;

/// What a model's confidence usually is, until an agent has shown its own.
const CONFIDENCE_PRIOR: f64 = 0.7;

/// How a tool call went, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallResult {
    /// It answered.
    Answered,
    /// It understood the call and refused it: the model's to deal with.
    Refused,
    /// It failed, for a moment or for good.
    Failed {
        /// Whether no repetition will help.
        fatal: bool,
    },
}

impl CallResult {
    /// A failure of unknown tier counts as transient: trying again costs little and may help.
    pub(crate) fn of(tool: &ToolOutcome) -> Self {
        match (tool.ok, tool.error_tier) {
            (true, _) => Self::Answered,
            (false, Some(ErrorTier::Recoverable)) => Self::Refused,
            (false, tier) => Self::Failed { fatal: tier == Some(ErrorTier::Fatal) },
        }
    }
}

/// Streaks of one agent within the goal that it works, and its baselines over all goals.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentWindow {
    /// The goal that the streaks belong to.
    pub goal: Option<GoalId>,
    /// The last step whose confidence was judged: a retried call measures the same thought again.
    pub confidence_step: u32,
    /// What this agent's confidence usually is.
    pub confidence: Baseline,
    /// Tries of the tool call that failed in a row.
    pub failures: u32,
    /// Calls that were refused in a row.
    pub refusals: u32,
    /// Outputs that could not be read in a row.
    pub malformed: u32,
    /// Calls in a row that were made before in this goal; one less than the same call was made.
    pub repeated_calls: u32,
    /// Thoughts in a row that resemble an earlier one; one less than there are thoughts alike.
    pub similar_thoughts: u32,
}

impl Default for AgentWindow {
    fn default() -> Self {
        Self {
            goal: None,
            confidence_step: 0,
            confidence: Baseline::with_prior(CONFIDENCE_PRIOR),
            failures: 0,
            refusals: 0,
            malformed: 0,
            repeated_calls: 0,
            similar_thoughts: 0,
        }
    }
}

impl AgentWindow {
    /// Takes in `metric`: a new goal ends the old one's streaks, then each streak grows or ends.
    pub(crate) fn enter(&mut self, metric: &Metric, similarity_max: f64) {
        if self.goal.as_ref() != Some(&metric.goal) {
            *self = Self { goal: Some(metric.goal.clone()), confidence: self.confidence, ..Self::default() };
        }
        self.malformed = if metric.malformed { self.malformed.saturating_add(1) } else { 0 };
        let call = metric.tool.as_ref().map(CallResult::of);
        self.failures = match call {
            Some(CallResult::Failed { .. }) => self.failures.saturating_add(1),
            _ => 0,
        };
        if metric.malformed || matches!(call, Some(CallResult::Failed { .. })) {
            // The step is not over: the streaks of whole steps wait for its end.
            return;
        }
        self.refusals = if call == Some(CallResult::Refused) { self.refusals.saturating_add(1) } else { 0 };
        self.repeated_calls = if metric.repeated_call { self.repeated_calls.saturating_add(1) } else { 0 };
        let is_similar = metric.similarity.is_some_and(|similarity| similarity.get() > similarity_max);
        self.similar_thoughts = if is_similar { self.similar_thoughts.saturating_add(1) } else { 0 };
    }

    /// Judges the confidence of a step once. Below both the floor and the agent's own baseline it is low, and what
    /// is low is not learned. Returns the baseline that it fell below.
    pub(crate) fn judge_confidence(&mut self, metric: &Metric, floor: f64) -> Option<f64> {
        let is_thought = !metric.malformed && metric.tokens.completion > 0;
        if !is_thought || self.confidence_step == metric.step {
            return None;
        }
        self.confidence_step = metric.step;
        let (value, usual) = (metric.confidence.get(), self.confidence.mean);
        if value < floor && value < usual {
            return Some(usual);
        }
        self.confidence.learn(value);
        None
    }
}
