//! The cascade: what is tried where no policy applies, the gentlest first.
//!
//! It is entered at the rung that the agent's health names and climbs when the measured health is no better. Before an
//! agent is given up, each rung below the entry is tried once as well, from the gentlest on.

use kintsugi_events::RecoveryAction;
use kintsugi_types::Score;
use serde::{Deserialize, Serialize};

/// One remedy of the cascade.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rung {
    /// Its number, from 1.
    pub number: u8,
    /// Up to this health the cascade is entered here, or higher.
    pub health_max: f64,
    /// What is done.
    pub action: RecoveryAction,
}

/// The rungs, gentlest first.
pub const RUNGS: [Rung; 5] = [
    Rung { number: 1, health_max: 0.85, action: RecoveryAction::CacheRollback },
    Rung { number: 2, health_max: 0.70, action: RecoveryAction::PruneContext },
    Rung { number: 3, health_max: 0.55, action: RecoveryAction::ModelDownshift },
    Rung { number: 4, health_max: 0.40, action: RecoveryAction::AgentRedistribute },
    Rung { number: 5, health_max: 0.25, action: RecoveryAction::DegradeGracefully },
];

/// How far the cascade has come within one goal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Climb {
    /// The rungs that were tried, a bit each.
    tried: u8,
}

impl Climb {
    /// The next rung for an agent of this health: at first the one with the smallest threshold that is not below it,
    /// then one higher each time, then those that were skipped. `None` when each was tried.
    pub fn next(self, health: Score) -> Option<&'static Rung> {
        let is_left = |rung: &&Rung| self.tried & bit(rung.number) == 0;
        if self.tried == 0 {
            let entry = RUNGS.iter().rev().find(|rung| rung.health_max >= health.get());
            return entry.or_else(|| RUNGS.first());
        }
        let is_above = |rung: &&Rung| bit(rung.number) > self.tried;
        let higher = RUNGS.iter().filter(is_above).find(is_left);
        higher.or_else(|| RUNGS.iter().find(is_left))
    }

    /// Notes that a rung is tried.
    pub const fn try_rung(&mut self, number: u8) {
        self.tried |= bit(number);
    }

    /// Takes back that a rung was tried: it was never carried out.
    pub const fn leave_rung(&mut self, number: u8) {
        self.tried &= !bit(number);
    }
}

const fn bit(number: u8) -> u8 {
    1_u8.wrapping_shl(number as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entered_at(health: f64) -> u8 {
        Climb::default().next(Score::new(health)).unwrap().number
    }

    #[test]
    fn the_entry_is_the_smallest_threshold_that_is_not_below_the_health() {
        let entries: Vec<u8> = [1.0, 0.86, 0.85, 0.71, 0.70, 0.56, 0.55, 0.41, 0.40, 0.26, 0.25, 0.0]
            .into_iter()
            .map(entered_at)
            .collect();
        assert_eq!(entries, [1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]);
    }

    #[test]
    fn it_climbs_then_tries_what_was_skipped_then_ends() {
        let mut climb = Climb::default();
        let mut order = Vec::new();
        while let Some(rung) = climb.next(Score::new(0.5)) {
            order.push(rung.number);
            climb.try_rung(rung.number);
        }
        assert_eq!(order, [3, 4, 5, 1, 2]);
        climb.leave_rung(4);
        assert_eq!(climb.next(Score::new(0.5)).unwrap().number, 4);
    }

    #[test]
    fn a_rung_that_was_not_carried_out_is_not_climbed_over() {
        let mut climb = Climb::default();
        for _ in 0..9 {
            let rung = climb.next(Score::new(0.9)).unwrap().number;
            assert_eq!(rung, 1);
            climb.try_rung(rung);
            climb.leave_rung(rung);
        }
        climb.try_rung(1);
        climb.try_rung(2);
        climb.leave_rung(2);
        assert_eq!(climb.next(Score::new(0.9)).unwrap().number, 2);
    }
}
