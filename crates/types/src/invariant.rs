//! The promises of the system by name: checked in tests, counted in production.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! invariants {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// One promise of the system.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Invariant {
            $($(#[$doc])* $name,)*
        }

        impl Invariant {
            /// Every invariant there is.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its stable name, for logs and metrics.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

invariants! {
    /// An acknowledged goal ends exactly once.
    GoalEndsOnce = "goal_ends_once",
    /// A tool's side effect happens at most once for an effect id.
    EffectAtMostOnce = "effect_at_most_once",
    /// An agent's sequence has no gap and no duplicate.
    SequenceWithoutGap = "sequence_without_gap",
    /// The state folded from the log equals the live state at every checkpoint.
    CheckpointHashMatches = "checkpoint_hash_matches",
    /// Device memory in use never exceeds the budget.
    BudgetNotExceeded = "budget_not_exceeded",
    /// The ledger equals what the engine holds.
    LedgerMatchesEngine = "ledger_matches_engine",
    /// Every anomaly ends in a terminal recovery event or a dead letter.
    AnomalyEnds = "anomaly_ends",
    /// The partition hands an agent at most one command at a time.
    OneCommandAtATime = "one_command_at_a_time",
}

/// Counts of broken invariants. One per node, handed down through contexts.
#[derive(Debug, Default)]
pub struct Invariants {
    violations: [AtomicU64; Invariant::ALL.len()],
}

impl Invariants {
    /// No violation yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts a violation of `invariant` unless `holds`; returns `holds`.
    ///
    /// The caller logs the details, for only it knows them.
    pub fn check(&self, invariant: Invariant, holds: bool) -> bool {
        if !holds && let Some(count) = self.violations.get(invariant as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        holds
    }

    /// How often `invariant` was broken.
    pub fn violations(&self, invariant: Invariant) -> u64 {
        self.violations.get(invariant as usize).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// How often any invariant was broken.
    pub fn total(&self) -> u64 {
        Invariant::ALL.iter().map(|invariant| self.violations(*invariant)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_broken_invariant_is_counted() {
        let invariants = Invariants::new();
        assert!(invariants.check(Invariant::GoalEndsOnce, true));
        assert!(!invariants.check(Invariant::AnomalyEnds, false));
        assert_eq!(invariants.violations(Invariant::AnomalyEnds), 1);
        assert_eq!(invariants.total(), 1);
    }
}
