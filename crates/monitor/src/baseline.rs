//! What is usual: an exponential moving average that anomalous samples do not move.

use serde::{Deserialize, Serialize};

/// An exponentially weighted mean: `mean += alpha × (sample − mean)`.
///
/// Whoever judges a sample to be an anomaly does not learn it: else a fault that lasts would become the usual.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// The mean so far; the prior before the first sample.
    pub mean: f64,
    /// How many samples it has learned.
    pub samples: u64,
}

impl Baseline {
    /// The weight of a new sample. At 0.1 the last ten samples make up two thirds of the mean.
    pub const ALPHA: f64 = 0.1;

    /// A baseline that has learned nothing and holds `prior` to be usual.
    pub const fn with_prior(prior: f64) -> Self {
        Self { mean: prior, samples: 0 }
    }

    /// Learns one ordinary sample. What is not a number is left out.
    pub fn learn(&mut self, sample: f64) {
        if sample.is_finite() {
            self.mean += Self::ALPHA * (sample - self.mean);
            self.samples += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_baseline_moves_from_its_prior_to_what_it_sees() {
        let mut baseline = Baseline::with_prior(0.7);
        for _ in 0..60 {
            baseline.learn(0.9);
        }
        baseline.learn(f64::NAN);
        assert!((baseline.mean - 0.9).abs() < 0.001, "{baseline:?}");
        assert_eq!(baseline.samples, 60);
    }
}
