//! How well an agent is after a step: five formulas over plain measurements, and their weighted mean.
//!
//! Health = 0.25 coherence + 0.20 completeness + 0.15 latency + 0.25 memory + 0.15 consistency, each in [0, 1].
//! A part that could not be measured is left out and the weights of the others are scaled up to 1. The formulas
//! stand here, at the bottom, because the agent measures itself with them and the monitor explains them.

use kintsugi_types::{ErrorTier, Score};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::agent::HealthState;
use crate::healing::{HealthScores, ToolOutcome};

/// The five weights. They add up to 1.
pub const WEIGHTS: HealthWeights =
    HealthWeights { coherence: 0.25, completeness: 0.20, latency: 0.15, memory: 0.25, consistency: 0.15 };

/// How many earlier thoughts a thought is compared with.
pub const THOUGHTS_COMPARED: usize = 5;

/// The most characters of a thought that are compared; the rest changes neither cost nor result.
pub const THOUGHT_CHARS_COMPARED: usize = 2_000;

/// Up to this likeness to an earlier thought coherence is full: thoughts of one goal share their words.
pub const SIMILARITY_ORDINARY: f64 = 0.90;

/// From this confidence on coherence is full. It is also the monitor's absolute floor.
pub const CONFIDENCE_FLOOR: f64 = 0.50;

/// Up to this multiple of the average step latency is full: a longer answer takes twice as long and is no fault.
pub const LATENCY_RATIO_ORDINARY: f64 = 2.0;

/// Up to this share of the context memory is full.
pub const CONTEXT_RATIO_ORDINARY: f64 = 0.50;

/// Coherence of an output that cannot be read: neither known to hang together nor known not to.
const MALFORMED_COHERENCE: f64 = 0.5;

/// Completeness of a step whose call was understood and refused: it brought an answer, though not the wanted one.
const REFUSED_COMPLETENESS: f64 = 0.5;

/// What each part counts.
#[derive(Debug, Clone, Copy, PartialEq)]
#[expect(missing_docs, reason = "named as the parts of HealthScores")]
pub struct HealthWeights {
    pub coherence: f64,
    pub completeness: f64,
    pub latency: f64,
    pub memory: f64,
    pub consistency: f64,
}

/// Below which health an agent counts as what.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HealthThresholds {
    /// Below it the agent is degraded: it serves, with a lighter load. 0.85 unless set.
    pub degraded: Score,
    /// Below it the agent is to be mended. 0.40 unless set.
    pub recovering: Score,
    /// Below it the agent needs a person. 0.15 unless set.
    pub failed: Score,
}

impl Default for HealthThresholds {
    fn default() -> Self {
        Self { degraded: Score::new(0.85), recovering: Score::new(0.40), failed: Score::new(0.15) }
    }
}

impl HealthThresholds {
    /// The state that `health` stands for. A threshold itself still belongs to the better state.
    pub fn state(&self, health: Score) -> HealthState {
        if health < self.failed {
            HealthState::Failed
        } else if health < self.recovering {
            HealthState::Recovering
        } else if health < self.degraded {
            HealthState::Degraded
        } else {
            HealthState::Healthy
        }
    }
}

/// What an agent measured of one step. The default is a step of which nothing is known.
#[derive(Debug, Clone, Copy, Default)]
pub struct StepMeasurements<'a> {
    /// The step of the goal, from 1.
    pub step: u32,
    /// The step's rationale, where the output could be read.
    pub thought: Option<&'a str>,
    /// The rationales of the steps before, newest first; the first [`THOUGHTS_COMPARED`] count.
    pub earlier_thoughts: &'a [&'a str],
    /// How the tool call went, where there was one.
    pub tool: Option<&'a ToolOutcome>,
    /// Whether the model's output could not be read as an action.
    pub malformed: bool,
    /// Whether the same call was made before in this goal.
    pub repeated_call: bool,
    /// Inference and tool without queueing, in milliseconds.
    pub step_ms: f64,
    /// Moving average of `step_ms` over the steps before; latency counts only against one that exists.
    pub step_ms_average: Option<f64>,
    /// Share of the context that is in use, in [0, 1].
    pub context_ratio: f64,
    /// Measured confidence of the model in this step's action.
    pub confidence: Option<Score>,
    /// How many statements of the agent disagree with what tools told it; missing where nobody compared.
    pub contradictions: Option<u32>,
}

/// Health, its parts, the likeness to earlier thoughts, and the state that follows.
pub fn health(
    measured: &StepMeasurements<'_>,
    thresholds: &HealthThresholds,
) -> (Score, HealthScores, Option<Score>, HealthState) {
    let similarity = measured.thought.and_then(|thought| similarity_max(thought, measured.earlier_thoughts));
    let scores = HealthScores {
        coherence: coherence(measured, similarity),
        completeness: completeness(measured),
        latency: latency(measured.step_ms, measured.step_ms_average),
        memory: Some(memory(measured.context_ratio)),
        consistency: consistency(measured),
    };
    let health = weighted_mean(&scores);
    (health, scores, similarity, thresholds.state(health))
}

/// The weighted mean of the parts that were measured; 1 where none was, for nothing is known to be wrong.
pub fn weighted_mean(scores: &HealthScores) -> Score {
    let parts = [
        (WEIGHTS.coherence, scores.coherence),
        (WEIGHTS.completeness, scores.completeness),
        (WEIGHTS.latency, scores.latency),
        (WEIGHTS.memory, scores.memory),
        (WEIGHTS.consistency, scores.consistency),
    ];
    let (weighted, weights) = parts
        .into_iter()
        .filter_map(|(weight, score)| score.map(|score| (weight, score.get())))
        .fold((0.0, 0.0), |(sum, weights), (weight, score)| (sum + weight * score, weights + weight));
    if weights > 0.0 { Score::new(weighted / weights) } else { Score::ONE }
}

/// Coherence = novelty × certainty, halved where the same call is made again.
///
/// Novelty is 1 up to a likeness of [`SIMILARITY_ORDINARY`] and falls linearly to 0 for a thought that was
/// thought before. Certainty is `confidence /` [`CONFIDENCE_FLOOR`], at most 1. Not measured where there is no
/// thought; an output that cannot be read has half.
pub fn coherence(measured: &StepMeasurements<'_>, similarity: Option<Score>) -> Option<Score> {
    let certainty =
        measured.confidence.map_or(1.0, |confidence| (confidence.get() / CONFIDENCE_FLOOR).min(1.0));
    if measured.malformed {
        return Some(Score::new(MALFORMED_COHERENCE * certainty));
    }
    measured.thought?;
    let novelty = similarity
        .map_or(1.0, |similarity| ((1.0 - similarity.get()) / (1.0 - SIMILARITY_ORDINARY)).min(1.0));
    let repetition = if measured.repeated_call { 0.5 } else { 1.0 };
    Some(Score::new(novelty * certainty * repetition))
}

/// Completeness: what the step set out to do, as far as it was done.
///
/// 1 where the tool succeeded or none was called, 0.5 where the tool understood the call and refused it
/// ([`ErrorTier::Recoverable`]: a refused refund is an answer), 0 where the tool failed or the output could not
/// be read. Not measured where there is neither a thought nor a call.
pub fn completeness(measured: &StepMeasurements<'_>) -> Option<Score> {
    if measured.malformed {
        return Some(Score::ZERO);
    }
    match measured.tool {
        None => measured.thought.map(|_| Score::ONE),
        Some(tool) if tool.ok => Some(Score::ONE),
        Some(tool) if tool.error_tier == Some(ErrorTier::Recoverable) => {
            Some(Score::new(REFUSED_COMPLETENESS))
        }
        Some(_) => Some(Score::ZERO),
    }
}

/// Latency = [`LATENCY_RATIO_ORDINARY`] × average / this step, at most 1: half at four times the average.
///
/// Both in milliseconds without queueing. Not measured without a positive average.
pub fn latency(step_ms: f64, step_ms_average: Option<f64>) -> Option<Score> {
    let average = step_ms_average.filter(|average| average.is_finite() && *average > 0.0)?;
    Some(Score::new(LATENCY_RATIO_ORDINARY * average / step_ms.max(average)))
}

/// Memory: 1 up to a context that is half full ([`CONTEXT_RATIO_ORDINARY`]), then linearly to 0 at a full one.
pub fn memory(context_ratio: f64) -> Score {
    Score::new((1.0 - context_ratio) / (1.0 - CONTEXT_RATIO_ORDINARY))
}

/// Consistency = 1 / (1 + contradictions).
///
/// A repeated call is a contradiction, for it asks what was answered before. 0 where a tool failed fatally: it is
/// not what the agent holds it to be. Not measured where nobody compared and neither of both happened; a tool
/// that failed for a moment says nothing.
pub fn consistency(measured: &StepMeasurements<'_>) -> Option<Score> {
    if measured.tool.is_some_and(|tool| !tool.ok && tool.error_tier == Some(ErrorTier::Fatal)) {
        return Some(Score::ZERO);
    }
    let repeated = u32::from(measured.repeated_call);
    let contradictions = match measured.contradictions {
        Some(found) => found.saturating_add(repeated),
        None if repeated > 0 => repeated,
        None => return None,
    };
    Some(Score::new(1.0 / (1.0 + f64::from(contradictions))))
}

/// The greatest likeness of `thought` to one of the first [`THOUGHTS_COMPARED`] of `earlier`.
///
/// The greatest, not the last: a loop of two or three thoughts in turn is a loop as well.
pub fn similarity_max(thought: &str, earlier: &[&str]) -> Option<Score> {
    let own = trigrams(thought);
    earlier
        .iter()
        .take(THOUGHTS_COMPARED)
        .map(|other| cosine(&own, &trigrams(other)))
        .max_by(f64::total_cmp)
        .map(Score::new)
}

/// Likeness of two texts: cosine between their counts of character trigrams, in [0, 1].
///
/// Case and white space do not count. Trigrams rather than words, so that a changed number or ending in a long
/// thought weighs little and a short thought is still told from another.
pub fn similarity(left: &str, right: &str) -> Score {
    Score::new(cosine(&trigrams(left), &trigrams(right)))
}

/// A text's trigrams in ascending order, three characters of 21 bits in each. Every step compares six of these: sorted
/// numbers take a fraction of the time of hash tables.
fn trigrams(text: &str) -> Vec<u64> {
    const TRIGRAM_BITS: u64 = (1 << 63) - 1;
    let blank = u64::from(' ');
    let mut window = blank << 21 | blank;
    let mut all = Vec::with_capacity(text.len().min(THOUGHT_CHARS_COMPARED) + 1);
    let mut take = |letter: char| {
        window = (window << 21 | u64::from(letter)) & TRIGRAM_BITS;
        all.push(window);
    };
    let words = text.split_whitespace().flat_map(|word| word.chars().chain([' ']));
    for letter in words.take(THOUGHT_CHARS_COMPARED) {
        if letter.is_ascii() {
            take(letter.to_ascii_lowercase());
        } else {
            letter.to_lowercase().for_each(&mut take);
        }
    }
    all.sort_unstable();
    all
}

/// Cosine between the counts of two texts' trigrams.
fn cosine(left: &[u64], right: &[u64]) -> f64 {
    let counts = |sorted: &[u64]| {
        sorted.chunk_by(PartialEq::eq).map(|run| run.len() as f64 * run.len() as f64).sum::<f64>()
    };
    let mut dot = 0.0;
    let mut others = right.chunk_by(PartialEq::eq).peekable();
    for own in left.chunk_by(PartialEq::eq) {
        while others.next_if(|other| other.first() < own.first()).is_some() {}
        if let Some(other) = others.next_if(|other| other.first() == own.first()) {
            dot += own.len() as f64 * other.len() as f64;
        }
    }
    let norms = (counts(left) * counts(right)).sqrt();
    if norms > 0.0 { dot / norms } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kintsugi_types::ToolName;

    fn tool(error_tier: Option<ErrorTier>) -> ToolOutcome {
        ToolOutcome {
            name: ToolName::new("lookup_order").unwrap(),
            ok: error_tier.is_none(),
            error_tier,
            error: error_tier.map(|_| "no".to_owned()),
            attempt: 1,
        }
    }

    const EARLIER: &[&str] = &["The order exists and was delivered; I check whether a refund is allowed."];

    fn normal(tool: &ToolOutcome) -> StepMeasurements<'_> {
        StepMeasurements {
            step: 2,
            thought: Some("The customer says that order 10482 never came, so I look it up."),
            earlier_thoughts: EARLIER,
            tool: Some(tool),
            step_ms: 130.0,
            step_ms_average: Some(100.0),
            context_ratio: 0.3,
            confidence: Some(Score::new(0.8)),
            ..StepMeasurements::default()
        }
    }

    #[track_caller]
    fn check(
        measured: StepMeasurements<'_>,
        health_range: std::ops::RangeInclusive<f64>,
        state: HealthState,
    ) {
        // Whatever could not be measured, the verdict is the same.
        for average in [measured.step_ms_average, None] {
            for contradictions in [measured.contradictions, measured.contradictions.or(Some(0))] {
                let measured = StepMeasurements { step_ms_average: average, contradictions, ..measured };
                let (score, scores, _, found) = health(&measured, &HealthThresholds::default());
                assert!(health_range.contains(&score.get()), "{score:?} from {scores:?}");
                assert_eq!(found, state, "{score:?} from {scores:?}");
            }
        }
    }

    #[test]
    fn a_step_is_judged_by_what_went_wrong_in_it() {
        use HealthState::{Degraded, Healthy};
        let (ok, refused) = (tool(None), tool(Some(ErrorTier::Recoverable)));
        let (transient, fatal) = (tool(Some(ErrorTier::Transient)), tool(Some(ErrorTier::Fatal)));
        check(normal(&ok), 0.9..=1.0, Healthy);
        check(StepMeasurements { tool: None, ..normal(&ok) }, 0.9..=1.0, Healthy);
        check(StepMeasurements { earlier_thoughts: &[], step: 1, ..normal(&ok) }, 0.9..=1.0, Healthy);
        check(normal(&refused), 0.85..=0.95, Healthy);
        check(normal(&transient), 0.40..=0.84, Degraded);
        check(normal(&fatal), 0.40..=0.84, Degraded);
        check(StepMeasurements { repeated_call: true, ..normal(&ok) }, 0.40..=0.84, Degraded);
        let unread = StepMeasurements { malformed: true, thought: None, tool: None, ..normal(&ok) };
        check(unread, 0.40..=0.84, Degraded);
        let (score, _, _, state) =
            health(&StepMeasurements { context_ratio: 0.97, ..unread }, &HealthThresholds::default());
        assert_ne!(state, HealthState::Failed, "one bad step in a full context, {score:?}, is still mended");
    }

    #[test]
    fn the_slowest_step_alone_never_needs_a_recovery() {
        let ok = tool(None);
        let (score, ..) =
            health(&StepMeasurements { step_ms: 1e9, ..normal(&ok) }, &HealthThresholds::default());
        assert!(score.get() > 0.8);
    }

    #[test]
    fn latency_counts_only_against_an_average_that_exists() {
        assert_eq!(latency(900.0, None), None);
        assert_eq!(latency(900.0, Some(0.0)), None);
        assert_eq!(latency(0.0, Some(100.0)), Some(Score::ONE));
        assert_eq!(latency(200.0, Some(100.0)), Some(Score::ONE));
        assert_eq!(latency(400.0, Some(100.0)), Some(Score::new(0.5)));
    }

    #[test]
    fn memory_falls_from_a_half_full_context_to_a_full_one() {
        let at = |ratio| memory(ratio).get();
        assert!((at(0.5) - 1.0).abs() < 1e-9 && (at(0.75) - 0.5).abs() < 1e-9 && at(1.2).abs() < 1e-9);
    }

    #[test]
    fn likeness_tells_a_repeated_thought_from_a_related_one() {
        let thought = "The customer wants a refund for order 10482, so I look it up first.";
        assert!(similarity(thought, &thought.to_uppercase().replace(' ', "  ")).get() > 0.999);
        let related = "The order was delivered nine days ago, so a refund is allowed and I issue it.";
        assert!(similarity(thought, related).get() < SIMILARITY_ORDINARY);
        assert_eq!(similarity("", thought), Score::ZERO);
        assert_eq!(similarity_max(thought, &[]), None);
        let in_turn = similarity_max(thought, &[related, thought]).unwrap();
        assert!(in_turn.get() > 0.999);
    }

    #[test]
    fn a_thought_that_goes_round_costs_coherence_only() {
        let (ok, thought) = (tool(None), "I look up the order of the customer.");
        let measured =
            StepMeasurements { thought: Some(thought), earlier_thoughts: &[thought], ..normal(&ok) };
        let (score, scores, similarity, state) = health(&measured, &HealthThresholds::default());
        assert!(scores.coherence.unwrap().get() < 1e-6 && similarity.unwrap().get() > 0.999);
        assert_eq!((state, score.get() > 0.6), (HealthState::Degraded, true));
    }

    #[test]
    fn a_threshold_belongs_to_the_better_state() {
        let thresholds = HealthThresholds::default();
        for (health, state) in [
            (0.85, HealthState::Healthy),
            (0.40, HealthState::Degraded),
            (0.15, HealthState::Recovering),
            (0.149, HealthState::Failed),
        ] {
            assert_eq!(thresholds.state(Score::new(health)), state);
        }
    }
}
