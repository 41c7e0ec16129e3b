//! How long something took, over many times: kept in a fixed number of bytes, whatever the count.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Parts that each doubling of the time is divided into: a percentile is at most a sixteenth too large.
const PARTS: u64 = 16;

/// Microseconds that have a place of their own; above it each doubling has [`PARTS`].
const EXACT: u64 = 2 * PARTS;

/// Places in all: up to days, beyond which all is the same.
const PLACES: usize = 640;

/// Times that were measured, by how long they were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spread {
    counts: Box<[u64; PLACES]>,
    count: u64,
    max: Duration,
}

/// A few figures of many measured times, in milliseconds. A percentile is rounded up by at most a sixteenth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// How many were measured.
    pub count: u64,
    /// Half took no longer; 0 of none.
    pub p50_ms: f64,
    /// Of a hundred, 99 took no longer; 0 of none.
    pub p99_ms: f64,
    /// The longest, exactly.
    pub max_ms: f64,
}

impl Default for Spread {
    fn default() -> Self {
        Self { counts: Box::new([0; PLACES]), count: 0, max: Duration::ZERO }
    }
}

impl Spread {
    /// Counts one.
    pub(crate) fn record(&mut self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        if let Some(count) = self.counts.get_mut(place_of(us).min(PLACES - 1)) {
            *count += 1;
        }
        self.count += 1;
        self.max = self.max.max(time);
    }

    /// What was counted here and in `other`.
    pub(crate) fn with(&self, other: &Self) -> Self {
        let mut both = self.clone();
        for (count, more) in both.counts.iter_mut().zip(other.counts.iter()) {
            *count += more;
        }
        Self { count: self.count + other.count, max: self.max.max(other.max), ..both }
    }

    /// The figures of what was counted so far.
    pub(crate) fn times(&self) -> Times {
        let max_ms = self.max.as_secs_f64() * 1000.0;
        let at = |percent: u64| {
            let wanted = (self.count * percent).div_ceil(100);
            let mut seen = 0;
            let place = self.counts.iter().position(|count| {
                seen += count;
                seen >= wanted
            });
            place.map_or(max_ms, |place| (longest_in(place) as f64 / 1000.0).min(max_ms))
        };
        Times { count: self.count, p50_ms: at(50), p99_ms: at(99), max_ms }
    }
}

/// Where a time of so many microseconds is counted.
fn place_of(us: u64) -> usize {
    let place = if us < EXACT {
        us
    } else {
        // The doubling that it lies in, and the part of that.
        let doubling = u64::from(us.ilog2() - EXACT.ilog2());
        EXACT + doubling * PARTS + ((us >> (doubling + 1)) - PARTS)
    };
    usize::try_from(place).unwrap_or(usize::MAX)
}

/// The longest time that is counted in `place`, in microseconds.
const fn longest_in(place: usize) -> u64 {
    let place = place as u64;
    if place < EXACT {
        return place;
    }
    let (doubling, part) = ((place - EXACT) / PARTS, (place - EXACT) % PARTS);
    ((PARTS + part + 1) << (doubling + 1)) - 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn percentiles_are_those_of_the_times_and_the_longest_is_exact() {
        let mut spread = Spread::default();
        assert_eq!(spread.times(), Times::default());
        for ms in 1..=1000 {
            spread.record(Duration::from_millis(ms));
        }
        let times = spread.times();
        assert_eq!((times.count, times.max_ms), (1000, 1000.0));
        assert!((500.0..=532.0).contains(&times.p50_ms), "{times:?}");
        assert!((990.0..=1000.0).contains(&times.p99_ms), "{times:?}");
        spread.record(Duration::MAX);
        assert!(spread.times().max_ms > 1e15);
    }

    proptest! {
        #[test]
        fn a_time_lies_in_a_place_that_is_at_most_a_sixteenth_longer(us in 0u64..1 << 40) {
            let place = place_of(us);
            let longest = longest_in(place);
            prop_assert!(us <= longest && longest - us <= us / PARTS, "{us} in {place}, up to {longest}");
            prop_assert!(place == 0 || longest_in(place - 1) < us);
        }
    }
}
