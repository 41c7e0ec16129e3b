//! Drawing a token from logits, and how sure the model was of it.

use kintsugi_types::{Sampling, Score};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::kernels::{Level, exp_sum, max_value, softmax_weights};

/// Weights relative to the likeliest token's below which the first tries at `top_p` do not look.
const TOP_P_CUTOFFS: [f32; 2] = [1e-2, 1e-5];

/// Temperatures below it count as 0.
const TEMPERATURE_LEAST: f32 = 1e-4;

/// One drawn token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Draw {
    pub(crate) token: u32,
    /// Its probability among the allowed tokens at temperature 1.
    pub(crate) probability: f64,
    /// Whether more than one token was allowed.
    pub(crate) had_choice: bool,
}

/// Why no token could be drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DrawError {
    #[error("the grammar allows no token of the vocabulary here")]
    NothingAllowed,
    #[error("the model's logits are not numbers")]
    NotANumber,
}

/// Draws one request's tokens. Its draws depend on the request's seed and their own count alone.
#[derive(Debug)]
pub(crate) struct Sampler {
    temperature: f32,
    top_p: f32,
    rng: ChaCha8Rng,
}

impl Sampler {
    /// A sampler at its first draw, or what is wrong with the settings.
    pub(crate) fn new(sampling: &Sampling) -> Result<Self, String> {
        let Sampling { temperature, top_p, seed } = *sampling;
        if !(temperature.is_finite() && temperature >= 0.0) {
            return Err(format!("temperature is {temperature}, it must be a number not below 0"));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Err(format!("top_p is {top_p}, it must be above 0 and at most 1"));
        }
        // A smaller one cannot be divided by, and leaves the likeliest token alone anyway.
        let temperature = if temperature < TEMPERATURE_LEAST { 0.0 } else { temperature };
        Ok(Self { temperature, top_p, rng: ChaCha8Rng::seed_from_u64(seed) })
    }

    /// Draws from `logits` among the tokens whose bit in `allowed` is set. Overwrites the logits of the others.
    pub(crate) fn draw(
        &mut self,
        level: Level,
        logits: &mut [f32],
        allowed: &[u32],
    ) -> Result<Draw, DrawError> {
        let count = forbid_others(logits, allowed);
        if count == 0 {
            return Err(DrawError::NothingAllowed);
        }
        let max = max_value(level, logits);
        let sum = exp_sum(level, logits, max);
        if !(max.is_finite() && sum.is_finite()) {
            return Err(DrawError::NotANumber);
        }
        let likeliest = || logits.iter().position(|logit| *logit >= max);
        let index = if count == 1 || self.temperature == 0.0 {
            likeliest()
        } else {
            self.pick(level, logits, max).or_else(likeliest)
        };
        let chosen = index.and_then(|index| Some((u32::try_from(index).ok()?, *logits.get(index)?)));
        let (token, logit) = chosen.ok_or(DrawError::NotANumber)?;
        let probability =
            if count == 1 { 1.0 } else { (f64::from(logit - max).exp() / f64::from(sum)).min(1.0) };
        Ok(Draw { token, probability, had_choice: count > 1 })
    }

    /// An index drawn by weight, after temperature and `top_p` (Holtzman et al. 2020).
    fn pick(&mut self, level: Level, logits: &[f32], max: f32) -> Option<usize> {
        let chance = (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        // Impossible tokens have a weight of exactly 0, so a running sum never stops at one.
        let mut weights = vec![0f32; logits.len()];
        let total = softmax_weights(level, logits, max, 1.0 / self.temperature, &mut weights);
        if self.top_p >= 1.0 {
            return walk(weights.iter().copied().enumerate(), chance * total);
        }
        let wanted = f64::from(self.top_p) * total;
        for cutoff in TOP_P_CUTOFFS.into_iter().chain([f32::MIN_POSITIVE]) {
            let mut likely: Vec<(usize, f32)> =
                weights.iter().copied().enumerate().filter(|(_, weight)| *weight >= cutoff).collect();
            let mass: f64 = likely.iter().map(|(_, weight)| f64::from(*weight)).sum();
            if mass < wanted && cutoff > f32::MIN_POSITIVE {
                continue;
            }
            likely.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            let mut kept = 0.0;
            let mut keep = 0;
            for (_, weight) in &likely {
                kept += f64::from(*weight);
                keep += 1;
                if kept >= wanted {
                    break;
                }
            }
            return walk(likely.into_iter().take(keep), chance * kept);
        }
        None
    }
}

/// The index at which the running sum of weights passes `target`.
fn walk(weights: impl Iterator<Item = (usize, f32)>, target: f64) -> Option<usize> {
    let mut sum = 0.0;
    let mut last = None;
    for (index, weight) in weights {
        if weight > 0.0 {
            sum += f64::from(weight);
            last = Some(index);
            if sum > target {
                break;
            }
        }
    }
    last
}

/// Sets the logits of all tokens whose bit is clear to minus infinity and counts the others.
fn forbid_others(logits: &mut [f32], allowed: &[u32]) -> usize {
    let mut count = 0;
    let words = allowed.iter().copied().chain(std::iter::repeat(0));
    for (group, word) in logits.chunks_mut(32).zip(words) {
        if word == 0 {
            group.fill(f32::NEG_INFINITY);
            continue;
        }
        if word == u32::MAX {
            count += group.len();
            continue;
        }
        for (bit, logit) in group.iter_mut().enumerate() {
            if word >> bit & 1 == 1 {
                count += 1;
            } else {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
    count
}

/// How sure the model was over one answer: the probabilities of the tokens that it had a choice about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Confidence {
    log_sum: f64,
    count: u32,
    min: f64,
}

impl Confidence {
    /// No choice made yet.
    pub(crate) fn new() -> Self {
        Self { log_sum: 0.0, count: 0, min: 1.0 }
    }

    /// Takes one draw into account.
    pub(crate) fn note(&mut self, draw: &Draw) {
        if draw.had_choice {
            self.log_sum += draw.probability.max(f64::MIN_POSITIVE).ln();
            self.count += 1;
            self.min = self.min.min(draw.probability);
        }
    }

    /// The geometric mean; 1 where there was no choice.
    pub(crate) fn mean(&self) -> Score {
        if self.count == 0 { Score::ONE } else { Score::new((self.log_sum / f64::from(self.count)).exp()) }
    }

    /// The smallest; 1 where there was no choice.
    pub(crate) fn min(&self) -> Score {
        Score::new(self.min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(temperature: f32, top_p: f32, seed: u64) -> Sampler {
        Sampler::new(&Sampling { temperature, top_p, seed }).unwrap()
    }

    fn draw(sampler: &mut Sampler, logits: &[f32], allowed: &[u32]) -> Result<Draw, DrawError> {
        sampler.draw(Level::detect(), &mut logits.to_vec(), allowed)
    }

    #[test]
    fn a_draw_repeats_for_its_seed_and_differs_for_another() {
        let logits: Vec<f32> = (0..100u8).map(|i| f32::from(i % 7)).collect();
        let run = |seed| {
            let mut sampler = sampler(1.0, 0.9, seed);
            (0..50).map(|_| draw(&mut sampler, &logits, &[u32::MAX; 4]).unwrap().token).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn draws_follow_the_distribution_under_mask_and_temperature() {
        let logits = [0.0, 1.0, 2.0, 3.0, 9.0];
        for temperature in [0.5, 1.0, 2.0f32] {
            let mut sampler = sampler(temperature, 1.0, 5);
            let mut counts = [0u32; 5];
            for _ in 0..20_000 {
                counts[draw(&mut sampler, &logits, &[0b01111]).unwrap().token as usize] += 1;
            }
            let weights: Vec<f32> = logits[..4].iter().map(|logit| (logit / temperature).exp()).collect();
            let total: f32 = weights.iter().sum();
            for (count, weight) in counts.iter().zip(&weights) {
                let expected = weight / total;
                let got = *count as f32 / 20_000.0;
                assert!((got - expected).abs() < 0.015, "{temperature}: {got} {expected}");
            }
            assert_eq!(counts[4], 0);
        }
    }

    #[test]
    fn top_p_keeps_the_smallest_sufficient_set() {
        // Probabilities 0.5, 0.25, 0.125, ...: 0.7 needs the first two.
        let logits: Vec<f32> = (0..20u8).map(|i| -f32::from(i) * std::f32::consts::LN_2).collect();
        let mut sampler = sampler(1.0, 0.7, 3);
        let tokens: Vec<u32> =
            (0..500).map(|_| draw(&mut sampler, &logits, &[u32::MAX]).unwrap().token).collect();
        assert!(tokens.contains(&0) && tokens.contains(&1));
        assert!(tokens.iter().all(|token| *token < 2));
    }

    #[test]
    fn zero_temperature_takes_the_likeliest_allowed_token_and_reports_its_probability_at_one() {
        let drawn = draw(&mut sampler(0.0, 1.0, 0), &[1.0, 2.0, 5.0], &[0b011]).unwrap();
        assert_eq!(drawn.token, 1);
        assert!(drawn.had_choice);
        assert!((drawn.probability - 1.0 / (1.0 + (-1.0f64).exp())).abs() < 1e-6);
        let forced = draw(&mut sampler(1.0, 1.0, 0), &[1.0, 2.0, 5.0], &[0b001]).unwrap();
        assert_eq!(forced, Draw { token: 0, probability: 1.0, had_choice: false });
    }

    #[test]
    fn no_token_or_no_number_is_an_error() {
        assert_eq!(draw(&mut sampler(1.0, 1.0, 0), &[1.0; 40], &[0, 0]), Err(DrawError::NothingAllowed));
        assert_eq!(draw(&mut sampler(1.0, 1.0, 0), &[f32::NAN; 4], &[15]), Err(DrawError::NotANumber));
        assert_eq!(draw(&mut sampler(1.0, 1.0, 0), &[f32::INFINITY, 0.0], &[3]), Err(DrawError::NotANumber));
        assert!(Sampler::new(&Sampling { temperature: -1.0, top_p: 1.0, seed: 0 }).is_err());
        assert!(Sampler::new(&Sampling { temperature: 1.0, top_p: 0.0, seed: 0 }).is_err());
    }

    #[test]
    fn confidence_is_the_geometric_mean_over_choices_alone() {
        let mut confidence = Confidence::new();
        assert_eq!((confidence.mean(), confidence.min()), (Score::ONE, Score::ONE));
        for (probability, had_choice) in [(0.5, true), (1.0, false), (0.125, true)] {
            confidence.note(&Draw { token: 0, probability, had_choice });
        }
        assert!((confidence.mean().get() - 0.25).abs() < 1e-12);
        assert!((confidence.min().get() - 0.125).abs() < 1e-12);
    }
}
