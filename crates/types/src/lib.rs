//! The vocabulary at the bottom of the workspace: ids, time, units, the error taxonomy, retry, chat messages,
//! tool contracts and the named invariants.
//!
//! This crate imports nothing of ours, does no IO and holds no global state. Time and ids come through
//! [`Clock`] and [`IdSource`], so that everything above can run under simulation.

pub mod bounded;
pub mod chat;
pub mod id;
pub mod invariant;
pub mod name;
pub mod retry;
pub mod tier;
pub mod time;
pub mod tool;
pub mod units;

pub use bounded::Bounded;
pub use chat::{Completion, CompletionRequest, FinishReason, Grammar, Message, Role, Sampling, TokenUsage};
pub use id::{
    AnomalyId, DerivedIds, DiagnosisId, EffectId, EventId, IdSource, LeaseId, RecoveryId, RunId, SeededIds,
    SystemIds,
};
pub use invariant::{Invariant, Invariants};
pub use name::{AgentId, AgentKind, GoalId, ModelName, NameError, TenantId, ToolName};
pub use retry::RetryPolicy;
pub use tier::ErrorTier;
pub use time::{Clock, ManualClock, SystemClock, Timestamp};
pub use tool::{ToolSafety, ToolSpec};
pub use units::{ByteCount, ParseByteCountError, Score};
