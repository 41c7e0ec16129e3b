//! The bytes on the device by purpose and by request: what the scheduler believes, to be held against what the
//! engine says.

use std::collections::BTreeMap;

use kintsugi_inference::{MemoryUse, RequestId};
use kintsugi_types::{ByteCount, Invariant};

/// Where ledger, engine and budget disagree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Discrepancy {
    /// The engine holds more than it was granted.
    #[error("the engine holds {held} of a budget of {budget}")]
    OverBudget {
        /// Weights, pool and scratch together.
        held: ByteCount,
        /// What was granted.
        budget: ByteCount,
    },
    /// More keys and values are in use than the pool has.
    #[error("keys and values of {used} are in use in a pool of {pool}")]
    OverPool {
        /// What requests hold.
        used: ByteCount,
        /// The pool's size.
        pool: ByteCount,
    },
    /// The engine's keys and values in use are not the sum of what its requests were given.
    #[error("requests were given {ledger} of keys and values, the engine says {engine}")]
    KeysAndValues {
        /// The sum over the requests in the batch.
        ledger: ByteCount,
        /// What the engine says.
        engine: ByteCount,
    },
    /// The engine's batch is not the ledger's.
    #[error("the ledger has {ledger} requests in the batch, the engine {engine}")]
    Requests {
        /// How many the ledger has.
        ledger: usize,
        /// How many the engine has.
        engine: usize,
    },
}

impl Discrepancy {
    /// The promise that it breaks.
    pub const fn invariant(&self) -> Invariant {
        match self {
            Self::OverBudget { .. } | Self::OverPool { .. } => Invariant::BudgetNotExceeded,
            Self::KeysAndValues { .. } | Self::Requests { .. } => Invariant::LedgerMatchesEngine,
        }
    }
}

/// Who holds which bytes. Pure: it is told of each change and never asks the engine itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    budget: ByteCount,
    held: MemoryUse,
    reserved: BTreeMap<RequestId, ByteCount>,
    total_peak: ByteCount,
    kv_used_peak: ByteCount,
}

impl Ledger {
    /// An empty ledger under `budget`.
    pub fn new(budget: ByteCount) -> Self {
        Self {
            budget,
            held: MemoryUse::default(),
            reserved: BTreeMap::new(),
            total_peak: ByteCount(0),
            kv_used_peak: ByteCount(0),
        }
    }

    /// Sets `bytes` of keys and values aside for `id`; replaces what it had.
    pub fn reserve(&mut self, id: RequestId, bytes: ByteCount) {
        let before = self.reserved.insert(id, bytes).unwrap_or_default();
        self.held.kv_used = ByteCount(self.held.kv_used.0.saturating_sub(before.0).saturating_add(bytes.0));
        self.kv_used_peak = self.kv_used_peak.max(self.held.kv_used);
    }

    /// Gives back what `id` had. An id without bytes is ignored.
    pub fn release(&mut self, id: RequestId) {
        if let Some(bytes) = self.reserved.remove(&id) {
            self.held.kv_used = ByteCount(self.held.kv_used.0.saturating_sub(bytes.0));
        }
    }

    /// Nothing is held: the engine is gone. Peaks stay.
    pub fn clear(&mut self) {
        self.held = MemoryUse::default();
        self.reserved.clear();
    }

    /// Takes over weights, pool and scratch as the engine measures them and compares the rest: the keys and values
    /// and the number of requests have to be what this ledger says.
    pub fn audit(&mut self, engine: &MemoryUse, active: usize) -> Vec<Discrepancy> {
        self.held = MemoryUse { kv_used: self.held.kv_used, ..*engine };
        self.total_peak = self.total_peak.max(engine.total());
        let mut found = Vec::new();
        if engine.total() > self.budget {
            found.push(Discrepancy::OverBudget { held: engine.total(), budget: self.budget });
        }
        if engine.kv_used > engine.kv_pool {
            found.push(Discrepancy::OverPool { used: engine.kv_used, pool: engine.kv_pool });
        }
        if engine.kv_used != self.held.kv_used {
            found.push(Discrepancy::KeysAndValues { ledger: self.held.kv_used, engine: engine.kv_used });
        }
        if active != self.reserved.len() {
            found.push(Discrepancy::Requests { ledger: self.reserved.len(), engine: active });
        }
        found
    }

    /// How many requests hold bytes, which is how many are in the batch.
    pub fn requests(&self) -> usize {
        self.reserved.len()
    }

    /// What is held now, by purpose.
    pub const fn held(&self) -> &MemoryUse {
        &self.held
    }

    /// The most that was held in all.
    pub const fn total_peak(&self) -> ByteCount {
        self.total_peak
    }

    /// The most keys and values that were in use.
    pub const fn kv_used_peak(&self) -> ByteCount {
        self.kv_used_peak
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn engine(kv_used: u64) -> MemoryUse {
        MemoryUse {
            weights: ByteCount(500),
            kv_pool: ByteCount(400),
            kv_used: ByteCount(kv_used),
            scratch: ByteCount(100),
        }
    }

    #[test]
    fn each_disagreement_is_found_by_name() {
        let mut ledger = Ledger::new(ByteCount(999));
        assert_eq!(
            ledger.audit(&engine(7), 1),
            [
                Discrepancy::OverBudget { held: ByteCount(1000), budget: ByteCount(999) },
                Discrepancy::KeysAndValues { ledger: ByteCount(0), engine: ByteCount(7) },
                Discrepancy::Requests { ledger: 0, engine: 1 },
            ]
        );
        ledger.reserve(RequestId(1), ByteCount(401));
        assert!(
            ledger
                .audit(&engine(401), 1)
                .contains(&Discrepancy::OverPool { used: ByteCount(401), pool: ByteCount(400) })
        );
        ledger.clear();
        assert_eq!(
            (ledger.requests(), ledger.held().total(), ledger.total_peak().0),
            (0, ByteCount(0), 1000)
        );
    }

    proptest! {
        #[test]
        fn bytes_in_use_are_the_sum_over_the_requests(
            operations in prop::collection::vec((0u64..8, prop::option::of(0u64..1000)), 0..200)
        ) {
            let mut ledger = Ledger::new(ByteCount(u64::MAX));
            let mut model = std::collections::HashMap::new();
            for (id, bytes) in operations {
                if let Some(bytes) = bytes {
                    ledger.reserve(RequestId(id), ByteCount(bytes));
                    model.insert(id, bytes);
                } else {
                    ledger.release(RequestId(id));
                    model.remove(&id);
                }
                let sum: u64 = model.values().sum();
                prop_assert_eq!(ledger.held().kv_used, ByteCount(sum));
                prop_assert_eq!(ledger.requests(), model.len());
                prop_assert!(ledger.kv_used_peak() >= ByteCount(sum));
            }
        }
    }
}
