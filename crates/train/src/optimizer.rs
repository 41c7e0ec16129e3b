//! AdamW (Loshchilov and Hutter 2019) over the flat parameter vector, with its schedule.
//!
//! Ours rather than candle-nn's, because a run must continue after a kill with the same moments, which candle-nn
//! keeps to itself, and because gains of norms must not decay.

use crate::model::Layout;

const BETA_1: f32 = 0.9;
const BETA_2: f32 = 0.98;
const EPSILON: f32 = 1e-8;
/// How much of the average stays, each step.
const AVERAGE_KEPT: f32 = 0.999;

/// The moments of every parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    /// Running mean of the gradient.
    pub first: Vec<f32>,
    /// Running mean of its square.
    pub second: Vec<f32>,
}

impl Moments {
    /// Moments before the first step.
    pub fn new(len: usize) -> Self {
        Self { first: vec![0.0; len], second: vec![0.0; len] }
    }
}

/// Learning rate of `step` (from 0) in a run of `steps`: linear warm-up, then a cosine down to a twentieth of the peak.
pub fn learning_rate(peak: f32, step: u64, warmup_steps: u64, steps: u64) -> f32 {
    let progress = step as f64 / steps.max(1) as f64;
    let warmup = ((step + 1) as f32 / warmup_steps.max(1) as f32).min(1.0);
    let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress.clamp(0.0, 1.0)).cos());
    #[expect(clippy::cast_possible_truncation, reason = "a factor between 0 and 1")]
    let factor = (0.05 + 0.95 * cosine) as f32;
    peak * warmup * factor
}

/// One step. Scales the gradient down to `norm_max` first; answers its norm before. `step` counts from 0.
pub fn step(
    layout: &Layout,
    parameters: &mut [f32],
    moments: &mut Moments,
    gradient: &[f32],
    step: u64,
    (rate, decay, norm_max): (f32, f32, f32),
) -> f32 {
    let norm = gradient.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
    #[expect(clippy::cast_possible_truncation, reason = "a norm; f32 is precise enough to scale by")]
    let norm = norm as f32;
    let clip = if norm > norm_max { norm_max / norm } else { 1.0 };
    let count = i32::try_from(step + 1).unwrap_or(i32::MAX);
    let (correction_1, correction_2) = (1.0 - BETA_1.powi(count), 1.0 - BETA_2.powi(count));
    for parameter in &layout.parameters {
        let range = parameter.range.clone();
        let decay = if parameter.is_gain() { 0.0 } else { rate * decay };
        let Some(values) = parameters.get_mut(range.clone()) else { continue };
        let firsts = moments.first.get_mut(range.clone()).unwrap_or_default();
        let seconds = moments.second.get_mut(range.clone()).unwrap_or_default();
        let gradients = gradient.get(range).unwrap_or_default();
        let moments = firsts.iter_mut().zip(seconds.iter_mut());
        for ((value, (first, second)), gradient) in values.iter_mut().zip(moments).zip(gradients) {
            let gradient = gradient * clip;
            *first = BETA_1 * *first + (1.0 - BETA_1) * gradient;
            *second = BETA_2 * *second + (1.0 - BETA_2) * gradient * gradient;
            let update = (*first / correction_1) / ((*second / correction_2).sqrt() + EPSILON);
            *value -= rate * update + decay * *value;
        }
    }
    norm
}

/// Takes the parameters after `step` (from 0) into their exponential moving average (Polyak and Juditsky 1992), which
/// generalises better than where the last steps happened to lead. It follows faster at first, lest where the run
/// began weighs on.
pub fn follow(average: &mut [f32], parameters: &[f32], step: u64) {
    let kept = AVERAGE_KEPT.min((step + 1) as f32 / (step + 10) as f32);
    for (average, value) in average.iter_mut().zip(parameters) {
        *average += (1.0 - kept) * (value - *average);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_depends_on_the_step_alone_and_ends_small() {
        assert!((learning_rate(1.0, 0, 10, 1000) - 0.1).abs() < 1e-3);
        assert!((learning_rate(1.0, 10, 10, 1000) - 1.0).abs() < 1e-2);
        assert!((learning_rate(1.0, 1000, 10, 1000) - 0.05).abs() < 1e-3);
    }

    #[test]
    fn the_average_stays_between_what_it_saw_and_arrives_where_the_parameters_rest() {
        let mut average = vec![0.0];
        for step in 0..20_000 {
            follow(&mut average, &[if step < 10 { 0.0 } else { 1.0 }], step);
            assert!((0.0..=1.0).contains(&average[0]));
        }
        assert!(average[0] > 0.999);
    }
}
