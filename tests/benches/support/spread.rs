//! How times spread.

use std::time::Duration;

use anyhow::{Context as _, Result};

/// Three places in the order of the times that were measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    /// Half of them are at most this.
    pub(crate) p50: Duration,
    /// All but one in a hundred are at most this.
    pub(crate) p99: Duration,
    /// The longest.
    pub(crate) max: Duration,
}

impl Spread {
    /// The spread of `times`, by nearest rank. Fails where there are none.
    pub(crate) fn of(mut times: Vec<Duration>) -> Result<Self> {
        times.sort_unstable();
        let at = |percent: usize| {
            let rank = (times.len() * percent).div_ceil(100);
            times.get(rank.saturating_sub(1)).copied().context("nothing was timed")
        };
        Ok(Self { p50: at(50)?, p99: at(99)?, max: at(100)? })
    }
}
