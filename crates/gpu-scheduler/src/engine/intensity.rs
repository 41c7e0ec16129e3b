//! How often an engine may be rebuilt before it counts as down. Pure: it is told the time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::config::RebuildPolicy;

/// What to do about an engine that is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plan {
    /// Try to build one after `delay`.
    Attempt { delay: Duration },
    /// Too many attempts within the window.
    GiveUp,
}

/// So many answers show that an engine works: what broke those before it is forgotten.
const ANSWERS_PROVING: u32 = 32;

/// The attempts within the window, since an engine last proved itself.
#[derive(Debug)]
pub(super) struct Intensity {
    policy: RebuildPolicy,
    attempts: VecDeque<Instant>,
    /// Answers of the engine that was built last.
    answers: u32,
}

impl Intensity {
    /// No attempt yet.
    pub(super) fn new(policy: RebuildPolicy) -> Self {
        Self { policy, attempts: VecDeque::new(), answers: 0 }
    }

    /// What the policy says at `now`.
    pub(super) fn plan(&mut self, now: Instant) -> Plan {
        let made = self.made_by(now);
        if made >= self.policy.attempts_max {
            return Plan::GiveUp;
        }
        // There is one engine on the machine, so nothing has to be spread by chance.
        let backoff = kintsugi_types::RetryPolicy { attempts_max: u32::MAX, ..self.policy.backoff };
        let delay =
            if made == 0 { Duration::ZERO } else { backoff.delay_before(made + 1, 0.0).unwrap_or_default() };
        Plan::Attempt { delay }
    }

    /// Counts an attempt made at `now`; returns which one within the window it is.
    pub(super) fn record(&mut self, now: Instant) -> u32 {
        let made = self.made_by(now);
        self.attempts.push_back(now);
        self.answers = 0;
        made + 1
    }

    /// Counts an answer of the engine.
    pub(super) fn answered(&mut self) {
        self.answers = self.answers.saturating_add(1);
        if self.answers == ANSWERS_PROVING {
            self.attempts.clear();
        }
    }

    /// How long one waits between attempts once the engine is down.
    pub(super) const fn pause(&self) -> Duration {
        self.policy.window
    }

    fn made_by(&mut self, now: Instant) -> u32 {
        let window = self.policy.window;
        self.attempts.retain(|made| now.saturating_duration_since(*made) < window);
        u32::try_from(self.attempts.len()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use kintsugi_types::RetryPolicy;

    use super::*;

    #[test]
    fn attempts_back_off_end_at_the_limit_and_are_forgotten_after_the_window() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut intensity = Intensity::new(RebuildPolicy {
            attempts_max: 3,
            window: Duration::from_mins(1),
            backoff: RetryPolicy {
                attempts_max: 1,
                first_delay_ms: 100,
                factor: 2.0,
                delay_max_ms: 1_000,
                jitter: 0.5,
            },
        });
        let mut delays = Vec::new();
        for second in 0..3 {
            if let Plan::Attempt { delay } = intensity.plan(at(second)) {
                delays.push(delay.as_millis());
            }
            assert_eq!(u64::from(intensity.record(at(second))), second + 1);
        }
        assert_eq!(delays, [0, 100, 200]);
        assert_eq!(intensity.plan(at(59)), Plan::GiveUp);
        assert_eq!(intensity.plan(at(60)), Plan::Attempt { delay: Duration::from_millis(200) });
        assert_eq!(intensity.plan(at(200)), Plan::Attempt { delay: Duration::ZERO });
    }

    #[test]
    fn an_engine_that_works_between_its_faults_is_no_crash_loop() {
        let now = Instant::now();
        let mut intensity = Intensity::new(RebuildPolicy { attempts_max: 1, ..RebuildPolicy::default() });
        intensity.record(now);
        assert_eq!(intensity.plan(now), Plan::GiveUp);
        for _ in 0..ANSWERS_PROVING {
            intensity.answered();
        }
        assert_eq!(intensity.plan(now), Plan::Attempt { delay: Duration::ZERO });
    }
}
