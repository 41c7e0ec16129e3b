//! How bad an error is, which is what decides its remedy.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The three tiers of the error taxonomy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorTier {
    /// Goes away by itself: a timeout, a refused connection, a 429 or 5xx. The same call may be tried again.
    Transient,
    /// Needs a change before it can succeed: wrong arguments, an unknown order, a refused refund.
    Recoverable,
    /// Will not succeed by anything that the agent can do: a missing credential, a broken tool.
    Fatal,
}

impl ErrorTier {
    /// Whether the same call, unchanged, may succeed later.
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::Transient)
    }
}
