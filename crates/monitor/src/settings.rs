//! What counts as a deviation.

use kintsugi_events::health::{CONFIDENCE_FLOOR, HealthThresholds};
use serde::{Deserialize, Serialize};

/// How far the level of a gauge may stand from what is usual, as a share of it. Every one may be set; what is missing
/// keeps its default.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ratios {
    /// Confidence is low below this. 0.8 unless set.
    pub confidence_min: f64,
    /// Coherence is low below this. 0.7 unless set.
    pub coherence_min: f64,
    /// Tool success is low below this. 0.9 unless set.
    pub tool_success_min: f64,
    /// Steps are slow above this. 1.5 unless set.
    pub latency_max: f64,
    /// Goals take many tokens above this. 1.3 unless set.
    pub tokens_max: f64,
    /// A single step is slow above this. 2 unless set: what is usual is the slowest of twenty, and an answer may be
    /// long for once.
    pub step_max: f64,
    /// A single call is slow above this. 8 unless set.
    pub call_max: f64,
}

impl Default for Ratios {
    fn default() -> Self {
        Self {
            confidence_min: 0.8,
            coherence_min: 0.7,
            tool_success_min: 0.9,
            latency_max: 1.5,
            tokens_max: 1.3,
            step_max: 2.0,
            call_max: 8.0,
        }
    }
}

/// The monitor's thresholds. Every one may be set; what is missing keeps its default.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MonitorSettings {
    /// So many failures of one tool in a row, over all agents behind it, are a fault of the tool. 3 unless set:
    /// two agents that meet one bad moment are no outage.
    pub tool_streak: u32,
    /// So many refusals of an agent's calls in a row within one goal are an anomaly. 2 unless set: one refusal is an
    /// answer that the model deals with.
    pub refusal_streak: u32,
    /// The same call so often in a row is a loop. 3 unless set.
    pub same_call_streak: u32,
    /// So many failures of one and the same call in a row are a loop. 5 unless set.
    pub failing_action_streak: u32,
    /// So many thoughts in a row that resemble each other are a loop. 5 unless set.
    pub similar_thought_streak: u32,
    /// Above this likeness, in [0, 1], thoughts resemble each other. 0.95 unless set.
    pub similarity_max: f64,
    /// Confidence is low only below this floor, in [0, 1], however high the baseline stands. 0.5 unless set.
    pub confidence_floor: f64,
    /// Above this share the context is under pressure. 0.9 unless set: one more turn of a tenth overflows it.
    pub context_ratio_max: f64,
    /// Nothing is slow below this, in milliseconds, however fast it usually is. 400 unless set.
    pub slow_ms_min: f64,
    /// How far from the usual is too far.
    pub ratios: Ratios,
    /// Below which health an agent counts as what; below `recovering` health is an anomaly. Set with the node, for
    /// agents judge themselves by it too.
    #[serde(skip)]
    pub health: HealthThresholds,
}

impl Default for MonitorSettings {
    fn default() -> Self {
        Self {
            tool_streak: 3,
            refusal_streak: 2,
            same_call_streak: 3,
            failing_action_streak: 5,
            similar_thought_streak: 5,
            similarity_max: 0.95,
            confidence_floor: CONFIDENCE_FLOOR,
            context_ratio_max: 0.9,
            slow_ms_min: 400.0,
            ratios: Ratios::default(),
            health: HealthThresholds::default(),
        }
    }
}
