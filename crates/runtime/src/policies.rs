//! The policies of recovery, which may be replaced while a node runs.

use std::sync::{Arc, PoisonError, RwLock};

use kintsugi_recover::PolicySet;

/// Policies that whoever holds this may replace. What is open stays as it was planned.
#[derive(Debug, Clone)]
pub struct SharedPolicies(Arc<RwLock<Arc<PolicySet>>>);

impl SharedPolicies {
    /// Policies to begin with.
    pub fn new(policies: Arc<PolicySet>) -> Self {
        Self(Arc::new(RwLock::new(policies)))
    }

    /// As they are now.
    pub fn get(&self) -> Arc<PolicySet> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The next plan follows these.
    pub fn replace(&self, policies: Arc<PolicySet>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = policies;
    }
}
