//! Why no answer came, and whether asking again may help.

use std::time::Duration;

use kintsugi_inference::AdmitError;
use kintsugi_types::{ByteCount, ErrorTier};

/// Why a lease was not given.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("lease refused: {reason}")]
pub struct Refusal {
    /// Why.
    pub reason: RefusalReason,
    /// When asking again makes sense; `None` where it does not.
    pub retry_after: Option<Duration>,
}

/// The reasons for which a lease is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RefusalReason {
    /// As many requests wait as may wait.
    #[error("the queue of {queue_max} is full")]
    QueueFull {
        /// The queue's bound.
        queue_max: usize,
    },
    /// The engine failed too often and is tried again at a slow pace only.
    #[error("the engine is down: {reason}")]
    EngineDown {
        /// The last fault.
        reason: String,
    },
    /// The agent was released while it waited.
    #[error("the agent was released")]
    AgentReleased,
    /// The scheduler was shut down.
    #[error("the scheduler has stopped")]
    Stopped,
}

/// Why a request for thought ended without a completion.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ThinkError {
    /// Too many wait for a lease.
    #[error("too many requests wait for the model, try again after {} ms", retry_after.as_millis())]
    Full {
        /// When to ask again.
        retry_after: Duration,
    },
    /// Prompt and wanted answer exceed the model's context.
    #[error(
        "prompt of {prompt_tokens} tokens and answer of {wanted_tokens} exceed the context of {context_tokens}"
    )]
    TooLong {
        /// Tokens of the rendered prompt.
        prompt_tokens: u32,
        /// Tokens that the answer may have.
        wanted_tokens: u32,
        /// The longest sequence.
        context_tokens: u32,
    },
    /// Prompt and wanted answer exceed the memory for keys and values even with nothing else in the batch.
    #[error("needs {needed} of keys and values, an empty engine has {free}")]
    NeverFits {
        /// What prompt and answer need.
        needed: ByteCount,
        /// What was free with nothing else in the batch.
        free: ByteCount,
    },
    /// The request cannot be compiled for this model, or asks for more than its lease covers.
    #[error("request is malformed: {reason}")]
    Malformed {
        /// What is wrong.
        reason: String,
    },
    /// The lease's deadline passed before the answer was there.
    #[error("the lease expired")]
    LeaseExpired,
    /// The lease was granted on an engine that went down since.
    #[error("the lease of engine epoch {epoch} is stale")]
    StaleLease {
        /// The epoch in which it was last granted.
        epoch: u64,
    },
    /// The agent was released; nobody wants the answer.
    #[error("cancelled because the agent was released")]
    Cancelled,
    /// The engine failed, and running the request again in a rebuilt one did not help or is not possible now.
    #[error("engine fault: {reason}")]
    EngineFault {
        /// What happened.
        reason: String,
    },
    /// This request alone failed in a sound engine.
    #[error("request failed: {reason}")]
    Failed {
        /// What happened.
        reason: String,
    },
    /// The scheduler was shut down.
    #[error("the scheduler has stopped")]
    Stopped,
}

impl ThinkError {
    /// The tier that decides the remedy.
    pub const fn tier(&self) -> ErrorTier {
        match self {
            Self::Full { .. }
            | Self::LeaseExpired
            | Self::StaleLease { .. }
            | Self::EngineFault { .. }
            | Self::Stopped => ErrorTier::Transient,
            Self::TooLong { .. }
            | Self::NeverFits { .. }
            | Self::Malformed { .. }
            | Self::Cancelled
            | Self::Failed { .. } => ErrorTier::Recoverable,
        }
    }

    /// Whether the same request, unchanged, may succeed later.
    pub const fn is_retryable(&self) -> bool {
        self.tier().is_retryable()
    }
}

impl From<Refusal> for ThinkError {
    fn from(refusal: Refusal) -> Self {
        match refusal.reason {
            RefusalReason::QueueFull { .. } => {
                Self::Full { retry_after: refusal.retry_after.unwrap_or_default() }
            }
            RefusalReason::EngineDown { reason } => Self::EngineFault { reason },
            RefusalReason::AgentReleased => Self::Cancelled,
            RefusalReason::Stopped => Self::Stopped,
        }
    }
}

impl From<AdmitError> for ThinkError {
    /// What a refused admission means for a request that had the batch to itself.
    fn from(error: AdmitError) -> Self {
        match error {
            AdmitError::NoRoom { needed, free } => Self::NeverFits { needed, free },
            AdmitError::NoSlot { .. } => Self::Failed { reason: error.to_string() },
            AdmitError::TooLong { prompt_tokens, wanted_tokens, context_tokens } => {
                Self::TooLong { prompt_tokens, wanted_tokens, context_tokens }
            }
            AdmitError::Malformed { reason } => Self::Malformed { reason },
        }
    }
}
