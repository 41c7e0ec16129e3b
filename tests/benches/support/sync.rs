//! The reference of what has to become durable: a bare write with its sync.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// Writes whose sync is timed.
const SYNCS: usize = 200;

/// Median time of a write of 512 bytes with `fdatasync`.
pub(crate) fn sync_time(folder: &Path) -> Result<Duration> {
    let mut file = File::create(folder.join("reference"))?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let begun = Instant::now();
        file.write_all(&[7; 512])?;
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    times.sort();
    times.get(SYNCS / 2).copied().context("no sync was timed")
}
