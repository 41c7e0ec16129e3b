//! Which fault strikes where.

use std::time::Duration;

use kintsugi_events::{FaultEdge, FaultKind};

/// The longest that a slow tool or model keeps an agent waiting, beyond the shortest.
const DELAY_MS_SPREAD: f64 = 700.0;

/// The most calls of its tool that one outage keeps from being made.
const OUTAGE_TRIES_MAX: f64 = 3.0;

/// The shortest that a slow tool or model keeps an agent waiting.
const DELAY_MS_MIN: f64 = 300.0;

/// What a draw is for. Equal places draw equal faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The goal's number in its run.
    pub goal: u64,
    /// The step, from 1.
    pub step: u32,
    /// The try of the step's call or inference, from 1.
    pub attempt: u32,
}

/// Faults that strike with a probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FaultPlan {
    probability: f64,
    seed: u64,
}

/// What the draws of one place are kept apart by.
#[derive(Debug, Clone, Copy)]
enum Draw {
    Strikes = 1,
    Kind = 2,
    Delay = 3,
    StrikesAgain = 4,
    KindAgain = 5,
    Among = 6,
    Tries = 7,
}

impl FaultPlan {
    /// A plan that strikes a step with `probability`, in [0, 1]: values outside are taken for the nearest within.
    pub fn new(probability: f64, seed: u64) -> Self {
        Self { probability: probability.clamp(0.0, 1.0), seed }
    }

    /// The fault that strikes `place` at `edge`, if one does.
    ///
    /// A step is struck once at most, by a fault of any edge. Another try of its call or inference draws anew, among
    /// the faults of its own edge.
    pub fn strike(&self, place: Place, edge: FaultEdge) -> Option<FaultKind> {
        if place.attempt <= 1 {
            let is_struck = self.chance(place, Draw::Strikes) < self.probability;
            let kind = pick(FaultKind::ALL.iter().copied(), self.chance(place, Draw::Kind))?;
            return (is_struck && kind.edge() == edge).then_some(kind);
        }
        let is_struck = self.chance(place, Draw::StrikesAgain) < self.probability;
        let of_edge = FaultKind::ALL.iter().copied().filter(|kind| kind.edge() == edge);
        if is_struck { pick(of_edge, self.chance(place, Draw::KindAgain)) } else { None }
    }

    /// How long a slow tool or model keeps an agent waiting at `place`.
    pub fn delay(&self, place: Place) -> Duration {
        Duration::from_secs_f64((DELAY_MS_MIN + DELAY_MS_SPREAD * self.chance(place, Draw::Delay)) / 1000.0)
    }

    /// How many calls in a row an outage that begins at `place` keeps from being made, itself included: 1 to 3.
    pub fn outage_tries(&self, place: Place) -> u32 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a small number is one of it"
        )]
        let more = (self.chance(place, Draw::Tries) * OUTAGE_TRIES_MAX) as u32;
        more + 1
    }

    /// Which of `count` things a fault at `place` strikes, from 0; 0 where there is none.
    pub fn among(&self, place: Place, count: usize) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a count is one of it"
        )]
        let drawn = (self.chance(place, Draw::Among) * count as f64) as usize;
        drawn.min(count.saturating_sub(1))
    }

    /// A number in [0, 1) for one draw of a place (`SplitMix64`, Steele, Lea, Flood 2014, over each part in turn).
    fn chance(&self, place: Place, draw: Draw) -> f64 {
        let parts = [place.goal, u64::from(place.step), u64::from(place.attempt), draw as u64];
        let mixed = parts.into_iter().fold(self.seed, |state, part| mix(state ^ part));
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn mix(state: u64) -> u64 {
    let mut mixed = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// One of `kinds` by their weights, by a number in [0, 1).
fn pick(mut kinds: impl Iterator<Item = FaultKind> + Clone, chance: f64) -> Option<FaultKind> {
    let total: u32 = kinds.clone().map(FaultKind::weight).sum();
    let mut left = chance * f64::from(total);
    kinds.find(|kind| {
        left -= f64::from(kind.weight());
        left < 0.0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> impl Iterator<Item = Place> {
        (0..2_000).flat_map(|goal| (1..=5).map(move |step| Place { goal, step, attempt: 1 }))
    }

    #[test]
    fn a_step_is_struck_once_with_the_probability_and_by_every_kind() {
        let plan = FaultPlan::new(0.2, 7);
        let mut struck = std::collections::BTreeMap::new();
        for place in places() {
            let at_tool = plan.strike(place, FaultEdge::Tool);
            let at_model = plan.strike(place, FaultEdge::Model);
            assert!(at_tool.is_none() || at_model.is_none(), "{place:?} was struck twice");
            for kind in at_tool.into_iter().chain(at_model) {
                *struck.entry(kind).or_insert(0) += 1;
            }
        }
        let total: i32 = struck.values().sum();
        assert!((1_850..2_150).contains(&total), "{total} of 10000 steps");
        assert_eq!(struck.len(), FaultKind::ALL.len(), "{struck:?}");
    }

    #[test]
    fn equal_seeds_strike_alike_and_others_do_not() {
        let of = |seed| {
            let plan = FaultPlan::new(0.5, seed);
            places().take(500).map(|place| plan.strike(place, FaultEdge::Tool)).collect::<Vec<_>>()
        };
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }

    #[test]
    fn each_of_several_things_is_struck_at_some_place() {
        let plan = FaultPlan::new(1.0, 5);
        let struck: std::collections::BTreeSet<usize> = places().map(|place| plan.among(place, 7)).collect();
        assert_eq!(struck, (0..7).collect());
        assert_eq!(plan.among(Place { goal: 1, step: 1, attempt: 1 }, 0), 0);
    }

    #[test]
    fn outages_last_for_one_to_three_tries() {
        let plan = FaultPlan::new(1.0, 11);
        let lasted: std::collections::BTreeSet<u32> =
            places().map(|place| plan.outage_tries(place)).collect();
        assert_eq!(lasted, (1..=3).collect());
    }

    #[test]
    fn another_try_is_struck_by_faults_of_its_own_edge() {
        let plan = FaultPlan::new(1.0, 3);
        for goal in 0..200 {
            let place = Place { goal, step: 2, attempt: 2 };
            let kind = plan.strike(place, FaultEdge::Model).unwrap();
            assert_eq!(kind.edge(), FaultEdge::Model);
        }
    }
}
