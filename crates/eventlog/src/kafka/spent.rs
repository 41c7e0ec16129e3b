//! What the transactions of a lane took, for display.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What the transactions of a lane took since it was opened. Those that were tried again are not in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Transactions {
    /// How many were committed.
    pub count: u64,
    /// The records in them.
    pub records: u64,
    /// The partitions that these went to, over all: what a transaction costs by.
    pub partitions: u64,
    /// Until the library had taken all records, over all.
    pub sending: Duration,
    /// Until the positions were stored, after that.
    pub storing: Duration,
    /// Until the last record was acknowledged, after that.
    pub delivering: Duration,
    /// Until the commit was acknowledged, after that.
    pub committing: Duration,
}

/// Counts up.
#[derive(Debug, Default)]
pub(super) struct Spent {
    count: AtomicU64,
    records: AtomicU64,
    partitions: AtomicU64,
    /// In microseconds: sending, storing, delivering, committing.
    phases_us: [AtomicU64; 4],
}

impl Spent {
    pub(super) fn add(&self, records: usize, partitions: usize, phases: [Duration; 4]) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.records.fetch_add(records as u64, Ordering::Relaxed);
        self.partitions.fetch_add(partitions as u64, Ordering::Relaxed);
        for (sum, phase) in self.phases_us.iter().zip(phases) {
            sum.fetch_add(u64::try_from(phase.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    pub(super) fn take(&self) -> Transactions {
        let [sending, storing, delivering, committing] =
            self.phases_us.each_ref().map(|sum| Duration::from_micros(sum.load(Ordering::Relaxed)));
        Transactions {
            count: self.count.load(Ordering::Relaxed),
            records: self.records.load(Ordering::Relaxed),
            partitions: self.partitions.load(Ordering::Relaxed),
            sending,
            storing,
            delivering,
            committing,
        }
    }
}
