//! The bytes on the device by purpose and by request: what the scheduler believes, to be held against what the
//! engine says.

use std::collections::BTreeMap;

use kintsugi_inference::{ContextId, KvHeld, MemoryUse, RequestId};
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
    /// The engine's private keys and values are not the sum of what its holders were given.
    #[error("holders were given {ledger} of keys and values for themselves, the engine says {engine}")]
    KeysAndValues {
        /// The sum over requests and conversations.
        ledger: ByteCount,
        /// What the engine says: all in use less what is shared.
        engine: ByteCount,
    },
    /// More shared keys and values are in use than all holders together refer to: some have no holder.
    #[error("shared keys and values of {engine} are in use, their holders refer to {ledger}")]
    SharedWithoutHolder {
        /// The sum over requests and conversations, each page counted once for each holder.
        ledger: ByteCount,
        /// What the engine says, each page counted once.
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
            Self::KeysAndValues { .. } | Self::SharedWithoutHolder { .. } | Self::Requests { .. } => {
                Invariant::LedgerMatchesEngine
            }
        }
    }
}

/// Who holds which bytes. Pure: it is told of each change and never asks the engine itself.
///
/// A private page is counted with its one holder, a shared page with each of its holders. How many different pages
/// these are the engine alone knows; so the ledger takes over what is shared and proves the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    budget: ByteCount,
    held: MemoryUse,
    requests: BTreeMap<RequestId, KvHeld>,
    contexts: BTreeMap<ContextId, KvHeld>,
    /// The sum over all of them.
    sum: KvHeld,
    total_peak: ByteCount,
    kv_used_peak: ByteCount,
    kv_host_peak: ByteCount,
}

impl Ledger {
    /// An empty ledger under `budget`.
    pub fn new(budget: ByteCount) -> Self {
        Self {
            budget,
            held: MemoryUse::default(),
            requests: BTreeMap::new(),
            contexts: BTreeMap::new(),
            sum: KvHeld::default(),
            total_peak: ByteCount(0),
            kv_used_peak: ByteCount(0),
            kv_host_peak: ByteCount(0),
        }
    }

    /// The request `id` of conversation `context` was given `kv`; what the conversation held is part of that.
    pub fn admit(&mut self, id: RequestId, context: ContextId, kv: KvHeld) {
        self.drop_context(context);
        let before = self.requests.insert(id, kv);
        self.exchange(before, Some(kv));
    }

    /// The request `id` gave back what it had. An id without bytes is ignored.
    pub fn release(&mut self, id: RequestId) {
        let before = self.requests.remove(&id);
        self.exchange(before, None);
    }

    /// The conversation `context` holds `kv` from now on, instead of what it held.
    pub fn keep(&mut self, context: ContextId, kv: KvHeld) {
        if kv == KvHeld::default() {
            return self.drop_context(context);
        }
        let before = self.contexts.insert(context, kv);
        self.exchange(before, Some(kv));
    }

    /// The conversation `context` holds nothing on the device any more.
    pub fn drop_context(&mut self, context: ContextId) {
        let before = self.contexts.remove(&context);
        self.exchange(before, None);
    }

    fn exchange(&mut self, before: Option<KvHeld>, after: Option<KvHeld>) {
        let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
        let exchange = |sum: ByteCount, before: ByteCount, after: ByteCount| {
            ByteCount(sum.0.saturating_sub(before.0).saturating_add(after.0))
        };
        self.sum.private = exchange(self.sum.private, before.private, after.private);
        self.sum.shared = exchange(self.sum.shared, before.shared, after.shared);
    }

    /// Nothing is held: the engine is gone. Peaks stay.
    pub fn clear(&mut self) {
        self.held = MemoryUse::default();
        self.requests.clear();
        self.contexts.clear();
        self.sum = KvHeld::default();
    }

    /// Takes over what the engine measures and proves what this ledger knows: private keys and values are the sum
    /// over all holders, nothing shared is without one, and the batch is this ledger's.
    pub fn audit(&mut self, engine: &MemoryUse, active: usize) -> Vec<Discrepancy> {
        self.held = *engine;
        self.total_peak = self.total_peak.max(engine.total());
        self.kv_used_peak = self.kv_used_peak.max(engine.kv_used);
        self.kv_host_peak = self.kv_host_peak.max(engine.kv_host);
        let mut found = Vec::new();
        if engine.total() > self.budget {
            found.push(Discrepancy::OverBudget { held: engine.total(), budget: self.budget });
        }
        if engine.kv_used > engine.kv_pool {
            found.push(Discrepancy::OverPool { used: engine.kv_used, pool: engine.kv_pool });
        }
        let private = ByteCount(engine.kv_used.0.saturating_sub(engine.kv_shared.0));
        if private != self.sum.private {
            found.push(Discrepancy::KeysAndValues { ledger: self.sum.private, engine: private });
        }
        if engine.kv_shared > self.sum.shared {
            let (ledger, engine) = (self.sum.shared, engine.kv_shared);
            found.push(Discrepancy::SharedWithoutHolder { ledger, engine });
        }
        if active != self.requests.len() {
            found.push(Discrepancy::Requests { ledger: self.requests.len(), engine: active });
        }
        found
    }

    /// How many requests are in the batch.
    pub fn requests(&self) -> usize {
        self.requests.len()
    }

    /// What is held now, by purpose, as of the last audit.
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

    /// The most keys and values that lay in host memory.
    pub const fn kv_host_peak(&self) -> ByteCount {
        self.kv_host_peak
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn engine(private: u64, shared: u64) -> MemoryUse {
        MemoryUse {
            weights: ByteCount(500),
            kv_pool: ByteCount(400),
            kv_used: ByteCount(private + shared),
            kv_shared: ByteCount(shared),
            scratch: ByteCount(100),
            ..MemoryUse::default()
        }
    }

    fn held(private: u64, shared: u64) -> KvHeld {
        KvHeld { private: ByteCount(private), shared: ByteCount(shared) }
    }

    #[test]
    fn each_disagreement_is_found_by_name() {
        let mut ledger = Ledger::new(ByteCount(999));
        assert_eq!(
            ledger.audit(&engine(7, 8), 1),
            [
                Discrepancy::OverBudget { held: ByteCount(1000), budget: ByteCount(999) },
                Discrepancy::KeysAndValues { ledger: ByteCount(0), engine: ByteCount(7) },
                Discrepancy::SharedWithoutHolder { ledger: ByteCount(0), engine: ByteCount(8) },
                Discrepancy::Requests { ledger: 0, engine: 1 },
            ]
        );
        ledger.admit(RequestId(1), ContextId(1), held(401, 0));
        assert!(
            ledger
                .audit(&engine(401, 0), 1)
                .contains(&Discrepancy::OverPool { used: ByteCount(401), pool: ByteCount(400) })
        );
        ledger.clear();
        assert_eq!(
            (ledger.requests(), ledger.held().total(), ledger.total_peak().0),
            (0, ByteCount(0), 1000)
        );
    }

    #[test]
    fn what_a_conversation_held_passes_to_its_request_and_back() {
        let mut ledger = Ledger::new(ByteCount(1000));
        ledger.admit(RequestId(1), ContextId(7), held(100, 0));
        ledger.release(RequestId(1));
        ledger.keep(ContextId(7), held(20, 60));
        // Two hold the same shared pages.
        ledger.keep(ContextId(8), held(10, 60));
        assert_eq!(ledger.audit(&engine(30, 60), 0), []);
        ledger.admit(RequestId(2), ContextId(7), held(90, 60));
        assert_eq!(ledger.audit(&engine(100, 60), 1), []);
        ledger.release(RequestId(2));
        ledger.drop_context(ContextId(8));
        assert_eq!(ledger.audit(&engine(0, 0), 0), []);
        assert_eq!(ledger.kv_used_peak(), ByteCount(160));
    }

    proptest! {
        #[test]
        fn private_bytes_are_the_sum_over_all_holders(
            operations in prop::collection::vec((0u64..8, any::<bool>(), prop::option::of(0u64..1000)), 0..200)
        ) {
            let mut ledger = Ledger::new(ByteCount(u64::MAX));
            let mut model = std::collections::HashMap::new();
            for (id, is_request, bytes) in operations {
                match (is_request, bytes) {
                    (true, Some(bytes)) => {
                        ledger.admit(RequestId(id), ContextId(id), held(bytes, 1));
                        model.remove(&(id, false));
                    }
                    (true, None) => ledger.release(RequestId(id)),
                    (false, Some(bytes)) => ledger.keep(ContextId(id), held(bytes, 1)),
                    (false, None) => ledger.drop_context(ContextId(id)),
                }
                match bytes {
                    Some(bytes) => model.insert((id, is_request), bytes),
                    None => model.remove(&(id, is_request)),
                };
                let sum: u64 = model.values().sum();
                prop_assert_eq!(ledger.sum, held(sum, model.len() as u64));
                prop_assert_eq!(ledger.requests(), model.keys().filter(|(_, is_request)| *is_request).count());
            }
        }
    }
}
