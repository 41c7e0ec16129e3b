//! A circuit breaker: keeps callers from a tool that fails, and lets one through now and then to see whether it works.
//!
//! Closed: all calls pass. Open: none does until the next probe is due. Half-open: one probe is under way. A probe
//! that succeeds closes the breaker; one that fails opens it again, for twice as long, up to a bound. (M. Nygard,
//! *Release It!*, 2007.)

use std::time::Duration;

use kintsugi_types::Timestamp;
use serde::{Deserialize, Serialize};

use crate::policy::TIME_MS_MAX;

/// Where a breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum BreakerState {
    /// All calls pass.
    Closed {
        /// Failures in a row.
        streak: u32,
    },
    /// No call passes.
    Open {
        /// When the next probe may pass.
        until: Timestamp,
        /// The pause that ends then, in milliseconds.
        pause_ms: u64,
    },
    /// One probe is under way.
    HalfOpen {
        /// When the probe counts as lost, for example in a crash, and another may pass.
        until: Timestamp,
        /// The pause that came before the probe, in milliseconds.
        pause_ms: u64,
    },
}

/// Whether a call may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admit {
    /// It may.
    Yes,
    /// It may, and what comes of it decides.
    Probe,
    /// It may not.
    No {
        /// When to ask again.
        retry_at: Timestamp,
    },
}

/// What the outcome of a call changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// The probe succeeded: the tool is mended.
    Closed,
    /// The probe failed.
    Reopened {
        /// When the next one may pass.
        until: Timestamp,
    },
}

/// A tool's circuit breaker. It opens only when it is told to: a recovery decides, the breaker carries it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breaker {
    /// Where it stands.
    pub state: BreakerState,
    /// The longest pause between two probes, in milliseconds.
    pub open_ms: u64,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { state: BreakerState::Closed { streak: 0 }, open_ms: 0 }
    }
}

impl Breaker {
    /// Asks for a call to pass. [`Admit::Probe`] is given to one caller at a time, who owes a [`Self::record`].
    pub fn admit(&mut self, now: Timestamp) -> Admit {
        match self.state {
            BreakerState::Closed { .. } => Admit::Yes,
            BreakerState::Open { until, .. } | BreakerState::HalfOpen { until, .. } if now < until => {
                Admit::No { retry_at: until }
            }
            BreakerState::Open { pause_ms, .. } | BreakerState::HalfOpen { pause_ms, .. } => {
                self.state = BreakerState::HalfOpen { until: after(now, pause_ms), pause_ms };
                Admit::Probe
            }
        }
    }

    /// Takes in how a call ended. Calls that passed before the breaker opened end late and change nothing: only a
    /// probe tells how the tool is now.
    pub fn record(&mut self, ok: bool, now: Timestamp) -> Option<Transition> {
        match self.state {
            BreakerState::Closed { streak } => {
                let streak = if ok { 0 } else { streak.saturating_add(1) };
                self.state = BreakerState::Closed { streak };
                None
            }
            BreakerState::Open { .. } => None,
            BreakerState::HalfOpen { .. } if ok => {
                self.state = BreakerState::Closed { streak: 0 };
                Some(Transition::Closed)
            }
            BreakerState::HalfOpen { pause_ms, .. } => {
                let pause_ms = pause_ms.saturating_mul(2).min(self.open_ms).max(pause_ms);
                let until = after(now, pause_ms);
                self.state = BreakerState::Open { until, pause_ms };
                Some(Transition::Reopened { until })
            }
        }
    }

    /// Opens a closed breaker: the first probe passes after `half_open_ms`, later ones at most `open_ms` apart. One
    /// that is open already stays as it is.
    pub fn open(&mut self, now: Timestamp, open_ms: u64, half_open_ms: u64) {
        if self.is_closed() {
            self.open_ms = open_ms.max(half_open_ms);
            self.state = BreakerState::Open { until: after(now, half_open_ms), pause_ms: half_open_ms };
        }
    }

    /// Whether all calls pass.
    pub const fn is_closed(&self) -> bool {
        matches!(self.state, BreakerState::Closed { .. })
    }
}

/// `now` plus at most [`TIME_MS_MAX`], so that no time overflows.
pub(crate) fn after(now: Timestamp, time_ms: u64) -> Timestamp {
    now + Duration::from_millis(time_ms.min(TIME_MS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(time_ms: i64) -> Timestamp {
        Timestamp::from_timestamp_millis(1_000_000 + time_ms).unwrap()
    }

    fn no(time_ms: i64) -> Admit {
        Admit::No { retry_at: at(time_ms) }
    }

    #[test]
    fn a_closed_breaker_counts_failures_and_lets_all_pass() {
        let mut breaker = Breaker::default();
        for _ in 0..5 {
            assert_eq!((breaker.admit(at(0)), breaker.record(false, at(0))), (Admit::Yes, None));
        }
        assert_eq!(breaker.state, BreakerState::Closed { streak: 5 });
        breaker.record(true, at(0));
        assert_eq!(breaker.state, BreakerState::Closed { streak: 0 });
    }

    #[test]
    fn an_open_breaker_probes_ever_more_rarely_until_the_tool_works() {
        let mut breaker = Breaker::default();
        breaker.open(at(0), 1_000, 300);
        assert_eq!(breaker.admit(at(299)), no(300));
        assert_eq!(breaker.record(true, at(299)), None, "a call from before the opening tells nothing");
        assert_eq!((breaker.admit(at(300)), breaker.admit(at(301))), (Admit::Probe, no(600)));
        assert_eq!(breaker.record(false, at(310)), Some(Transition::Reopened { until: at(910) }));
        assert_eq!((breaker.admit(at(900)), breaker.admit(at(910))), (no(910), Admit::Probe));
        assert_eq!(breaker.record(false, at(920)), Some(Transition::Reopened { until: at(1_920) }));
        assert_eq!(breaker.admit(at(1_920)), Admit::Probe);
        assert_eq!(breaker.record(true, at(1_930)), Some(Transition::Closed));
        assert_eq!(breaker.admit(at(1_930)), Admit::Yes);
    }

    #[test]
    fn a_probe_that_is_never_heard_of_again_blocks_nobody_for_good() {
        let mut breaker = Breaker::default();
        breaker.open(at(0), 1_000, 300);
        assert_eq!((breaker.admit(at(300)), breaker.admit(at(599))), (Admit::Probe, no(600)));
        assert_eq!(breaker.admit(at(600)), Admit::Probe);
    }

    #[test]
    fn opening_twice_is_opening_once_and_a_snapshot_keeps_it() {
        let mut breaker = Breaker::default();
        breaker.open(at(0), 1_000, 300);
        let opened = breaker;
        breaker.open(at(200), 9_000, 900);
        assert_eq!(breaker, opened);
        assert_eq!(
            serde_json::from_str::<Breaker>(&serde_json::to_string(&opened).unwrap()).unwrap(),
            opened
        );
    }
}
