//! The joint between the scheduler and whatever computes: the candle engine here, a script in tests and benches.

use kintsugi_types::{ByteCount, Completion, CompletionRequest, ModelName};
use serde::{Deserialize, Serialize};

/// Names one request inside one backend. The scheduler gives it out and never reuses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// What a loaded model is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Its name: `general.name` of the file, else the file's stem.
    pub name: ModelName,
    /// `general.architecture` of the file.
    pub architecture: String,
    /// How many weights it has.
    pub parameters: u64,
    /// The longest sequence that it takes, in tokens.
    pub context_tokens: u32,
    /// What the keys and values of one token take, over all layers.
    pub kv_bytes_per_token: ByteCount,
}

/// Bytes that a backend holds on its device, by purpose. Never more than its budget.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryUse {
    /// Weights, repacked copies included.
    pub weights: ByteCount,
    /// The pool of pages for keys and values, allocated once.
    pub kv_pool: ByteCount,
    /// The part of the pool that requests hold now.
    pub kv_used: ByteCount,
    /// Activations and logits at the batch cap.
    pub scratch: ByteCount,
}

impl MemoryUse {
    /// All that is held, used or not.
    pub const fn total(&self) -> ByteCount {
        ByteCount(self.weights.0 + self.kv_pool.0 + self.scratch.0)
    }
}

/// What an admitted request will take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    /// Tokens of the rendered prompt.
    pub prompt_tokens: u32,
    /// Bytes of keys and values set aside for prompt and answer.
    pub kv_reserved: ByteCount,
}

/// Why a request was not admitted. Nothing of it is kept.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AdmitError {
    /// Not enough free pages now; try again when a request has finished.
    #[error("needs {needed} of keys and values, {free} are free")]
    NoRoom {
        /// What prompt and answer need.
        needed: ByteCount,
        /// What is free.
        free: ByteCount,
    },
    /// Every place in the batch is taken; try again when a request has finished.
    #[error("all {slots} places in the batch are taken")]
    NoSlot {
        /// How many places there are.
        slots: u32,
    },
    /// The prompt and the wanted answer are longer than the model's context; will never succeed unchanged.
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
    /// The grammar or the prompt cannot be compiled for this model; will never succeed unchanged.
    #[error("request is malformed: {reason}")]
    Malformed {
        /// What is wrong.
        reason: String,
    },
}

impl AdmitError {
    /// Whether the same request may be admitted later.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::NoRoom { .. } | Self::NoSlot { .. })
    }
}

/// One request that ended in a step.
#[derive(Debug)]
pub struct Finished {
    /// Which one.
    pub id: RequestId,
    /// What came out, or why nothing did. A failure of one request leaves the others alone.
    pub outcome: Result<Completion, String>,
}

/// The whole backend is unusable and has to be rebuilt; every request in it is lost.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("engine fault: {reason}")]
pub struct BackendFault {
    /// What happened.
    pub reason: String,
}

/// Computes completions for many requests at once. Owned by one thread.
pub trait Backend {
    /// What model stands behind.
    fn info(&self) -> &ModelInfo;

    /// What is held now.
    fn memory(&self) -> MemoryUse;

    /// Takes `request` into the batch from the next step on, with the memory that it may need set aside.
    fn admit(&mut self, id: RequestId, request: CompletionRequest) -> Result<Admitted, AdmitError>;

    /// Drops a request and its memory. Unknown and finished ids are ignored.
    fn cancel(&mut self, id: RequestId);

    /// Advances every request by at least one token or one chunk of its prompt. Returns those that ended.
    fn step(&mut self) -> Result<Vec<Finished>, BackendFault>;

    /// How many requests are in the batch.
    fn active(&self) -> usize;
}
