//! Exponential back-off with jitter.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How often and how long apart something is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RetryPolicy {
    /// How many tries there are in all, the first one included.
    pub attempts_max: u32,
    /// The delay before the second try, in milliseconds.
    pub first_delay_ms: u64,
    /// By what the delay grows from one try to the next.
    pub factor: f64,
    /// The longest delay, in milliseconds.
    pub delay_max_ms: u64,
    /// The share of a delay that is drawn at random, in [0, 1]: 0.5 gives between half and all of it.
    pub jitter: f64,
}

impl RetryPolicy {
    /// The delay before try number `attempt` (2 is the first retry), or `None` when no try is left.
    ///
    /// `chance` in [0, 1) chooses within the jitter; equal inputs give equal delays.
    pub fn delay_before(&self, attempt: u32, chance: f64) -> Option<Duration> {
        if attempt > self.attempts_max {
            return None;
        }
        let doublings = attempt.saturating_sub(2).min(64);
        let grown = self.first_delay_ms as f64 * self.factor.max(1.0).powi(doublings.cast_signed());
        let capped = grown.min(self.delay_max_ms as f64);
        let jittered = capped * (1.0 - self.jitter.clamp(0.0, 1.0) * chance.clamp(0.0, 1.0));
        Some(Duration::from_secs_f64(jittered / 1000.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_cap_and_then_end() {
        let policy =
            RetryPolicy { attempts_max: 5, first_delay_ms: 100, factor: 2.0, delay_max_ms: 300, jitter: 0.5 };
        let delays: Vec<_> = (2..=6).map(|n| policy.delay_before(n, 0.0).map(|d| d.as_millis())).collect();
        assert_eq!(delays, [Some(100), Some(200), Some(300), Some(300), None]);
        assert_eq!(policy.delay_before(2, 0.999).map(|d| d.as_millis()), Some(50));
    }
}
