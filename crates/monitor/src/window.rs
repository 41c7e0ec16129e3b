//! What the monitor remembers of one agent.

use kintsugi_events::{Metric, ToolOutcome};
use kintsugi_types::{ErrorTier, GoalId};
use serde::{Deserialize, Serialize};

use crate::baseline::Baseline;
use crate::series::{Gauge, LevelDeviation, Series};
use crate::settings::Ratios;

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
    /// Tries in a row of one and the same call that failed or were refused, over steps.
    pub failing_action: u32,
    /// Tokens of the goal's steps before this one.
    tokens_before: u64,
    /// Tokens of the step, and which it is.
    tokens_of_step: (u32, u64),
    /// What it was lately and what it usually is.
    pub gauges: Gauges,
}

/// All gauges of an agent, or of a kind of agents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gauges {
    /// Confidence of steps.
    pub confidence: Series,
    /// Coherence of steps.
    pub coherence: Series,
    /// Time of steps.
    pub latency: Series,
    /// Tokens of goals.
    pub tokens: Series,
    /// Tool calls that were answered.
    pub tool_success: Series,
}

impl Default for Gauges {
    fn default() -> Self {
        Self {
            confidence: Series::new(Gauge::Confidence),
            coherence: Series::new(Gauge::Coherence),
            latency: Series::new(Gauge::Latency),
            tokens: Series::new(Gauge::Tokens),
            tool_success: Series::new(Gauge::ToolSuccess),
        }
    }
}

impl Gauges {
    /// The series of `gauge`.
    pub const fn of(&self, gauge: Gauge) -> &Series {
        match gauge {
            Gauge::Confidence => &self.confidence,
            Gauge::Coherence => &self.coherence,
            Gauge::Latency => &self.latency,
            Gauge::Tokens => &self.tokens,
            Gauge::ToolSuccess => &self.tool_success,
        }
    }

    const fn of_mut(&mut self, gauge: Gauge) -> &mut Series {
        match gauge {
            Gauge::Confidence => &mut self.confidence,
            Gauge::Coherence => &mut self.coherence,
            Gauge::Latency => &mut self.latency,
            Gauge::Tokens => &mut self.tokens,
            Gauge::ToolSuccess => &mut self.tool_success,
        }
    }

    /// Takes in samples and tells which levels deviate. `kind` holds the gauges of the agent's kind, which are brought
    /// up to date after it.
    pub(crate) fn enter(
        &mut self,
        samples: &[(Gauge, f64)],
        mut kind: Option<&mut Self>,
        ratios: &Ratios,
    ) -> Vec<(Gauge, LevelDeviation)> {
        let mut found = Vec::new();
        for (gauge, sample) in samples.iter().copied() {
            let usual = kind.as_deref().and_then(|kind| kind.of(gauge).known_usual());
            let deviation = self.of_mut(gauge).enter(gauge, sample, usual, ratios);
            if let Some(kind) = kind.as_deref_mut() {
                kind.of_mut(gauge).enter(gauge, sample, None, ratios);
            }
            // Where all of a kind are slow the machine is, and no agent.
            let is_shared = gauge == Gauge::Latency && is_kind_slow(kind.as_deref());
            found.extend(deviation.filter(|_| !is_shared).map(|deviation| (gauge, deviation)));
        }
        found
    }
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
            failing_action: 0,
            tokens_before: 0,
            tokens_of_step: (0, 0),
            gauges: Gauges::default(),
        }
    }
}

impl AgentWindow {
    /// Takes in `metric`: a new goal ends the old one's streaks, then each streak grows or ends.
    /// Returns the samples of the gauges that the metric is.
    pub(crate) fn enter(&mut self, metric: &Metric, similarity_max: f64) -> Vec<(Gauge, f64)> {
        let mut samples = Vec::new();
        if self.goal.as_ref() != Some(&metric.goal) {
            if self.goal.is_some() {
                samples.push((Gauge::Tokens, (self.tokens_before + self.tokens_of_step.1) as f64));
            }
            *self = Self {
                goal: Some(metric.goal.clone()),
                confidence: self.confidence,
                gauges: std::mem::take(&mut self.gauges),
                ..Self::default()
            };
        }
        self.count_tokens(metric);
        samples.extend(samples_of(metric));
        self.count_streaks(metric, similarity_max);
        samples
    }

    fn count_tokens(&mut self, metric: &Metric) {
        let (step, tokens) = self.tokens_of_step;
        if step != metric.step {
            self.tokens_before += tokens;
        }
        // A step that is measured again has its earlier tries in its count.
        self.tokens_of_step = (metric.step, metric.tokens.prompt + metric.tokens.completion);
    }

    fn count_streaks(&mut self, metric: &Metric, similarity_max: f64) {
        self.malformed = if metric.malformed { self.malformed.saturating_add(1) } else { 0 };
        let call = metric.tool.as_ref().map(CallResult::of);
        self.failures = match call {
            Some(CallResult::Failed { .. }) => self.failures.saturating_add(1),
            _ => 0,
        };
        let is_same_action =
            metric.repeated_call || metric.tool.as_ref().is_some_and(|tool| tool.attempt > 1);
        self.failing_action = match call {
            Some(CallResult::Answered) => 0,
            Some(_) if is_same_action => self.failing_action.saturating_add(1),
            Some(_) => 1,
            None => self.failing_action,
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

/// Whether steps are slow among all agents of a kind.
pub(crate) fn is_kind_slow(kind: Option<&Gauges>) -> bool {
    kind.is_some_and(|kind| kind.latency.is_mostly_above_usual())
}

/// What a metric says of the gauges. A step that is not over says nothing but how its call went.
fn samples_of(metric: &Metric) -> Vec<(Gauge, f64)> {
    let mut samples = Vec::new();
    let call = metric.tool.as_ref().map(CallResult::of);
    if let Some(call) = call {
        // A refusal is an answer: the tool works.
        let is_answered = !matches!(call, CallResult::Failed { .. });
        samples.push((Gauge::ToolSuccess, f64::from(u8::from(is_answered))));
    }
    if metric.malformed || metric.spent.is_some() || matches!(call, Some(CallResult::Failed { .. })) {
        return samples;
    }
    if metric.tokens.completion > 0 {
        samples.push((Gauge::Confidence, metric.confidence.get()));
    }
    samples.extend(metric.scores.coherence.map(|coherence| (Gauge::Coherence, coherence.get())));
    if metric.latency_ms.total > 0.0 {
        samples.push((Gauge::Latency, metric.latency_ms.total));
    }
    samples
}
