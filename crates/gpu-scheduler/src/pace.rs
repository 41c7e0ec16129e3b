//! How fast the engine works through tokens, so that a refusal can say when to come back.

use std::time::Duration;

/// The bounds of what a refused caller is told to wait: below it would only knock again, above it would forget.
const RETRY_AFTER_MIN: Duration = Duration::from_millis(50);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// How much a new measurement counts; about the last ten completions decide.
const WEIGHT: f64 = 0.2;

/// Milliseconds of one slot per token, exponentially averaged over completions.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pace {
    ms_per_token: Option<f64>,
}

impl Pace {
    /// Learns from one completion: its tokens that were computed and the time that it took.
    pub(crate) fn measure(&mut self, tokens_computed: u64, ms: f64) {
        if tokens_computed == 0 || !ms.is_finite() || ms < 0.0 {
            return;
        }
        let sample = ms / tokens_computed as f64;
        self.ms_per_token = Some(match self.ms_per_token {
            Some(before) => before + WEIGHT * (sample - before),
            None => sample,
        });
    }

    /// When `tokens_ahead` will have been worked through by `slots` at once.
    pub(crate) fn retry_after(&self, tokens_ahead: u64, slots: usize) -> Duration {
        let ms = self.ms_per_token.unwrap_or(1.0) * tokens_ahead as f64 / slots.max(1) as f64;
        Duration::try_from_secs_f64(ms / 1000.0)
            .unwrap_or(RETRY_AFTER_MAX)
            .clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_work_ahead_means_a_longer_wait_within_bounds() {
        let mut pace = Pace::default();
        pace.measure(100, 1_000.0);
        pace.measure(0, 5.0);
        pace.measure(10, f64::NAN);
        assert_eq!(pace.retry_after(0, 4), RETRY_AFTER_MIN);
        assert_eq!(pace.retry_after(400, 4), Duration::from_secs(1));
        assert_eq!(pace.retry_after(u64::MAX, 4), RETRY_AFTER_MAX);
    }
}
