//! When leases end by themselves, in order, so that one timer serves them all: an actor looks at each of its timers
//! whenever it does anything.

use std::collections::{BTreeSet, HashMap};

use kintsugi_types::LeaseId;
use tokio::time::Instant;

/// The ends of all leases that age. Monotonic time, for the wall clock may be set.
#[derive(Debug, Default)]
pub(crate) struct Expiries {
    of: HashMap<LeaseId, Instant>,
    order: BTreeSet<(Instant, LeaseId)>,
}

impl Expiries {
    /// Lets the lease end at `at`, whatever was set before.
    pub(crate) fn set(&mut self, id: LeaseId, at: Instant) {
        self.remove(id);
        self.of.insert(id, at);
        self.order.insert((at, id));
    }

    /// The lease does not age any more.
    pub(crate) fn remove(&mut self, id: LeaseId) {
        if let Some(at) = self.of.remove(&id) {
            self.order.remove(&(at, id));
        }
    }

    /// No lease ages any more.
    pub(crate) fn clear(&mut self) {
        self.of.clear();
        self.order.clear();
    }

    /// When the first one ends.
    pub(crate) fn first(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes out the first one that has ended by `now`.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<LeaseId> {
        let (at, id) = *self.order.first()?;
        if at > now {
            return None;
        }
        self.remove(id);
        Some(id)
    }
}
