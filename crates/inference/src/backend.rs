//! The joint between the scheduler and whatever computes: the candle engine here, a script in tests and benches.

use std::sync::Arc;

use kintsugi_types::{ByteCount, Completion, CompletionRequest, ModelName};
use serde::{Deserialize, Serialize};

/// Names one request inside one backend. The scheduler gives it out and never reuses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// Names one conversation, whose keys and values wait between its requests. The scheduler gives it out and never
/// reuses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContextId(pub u64);

/// Where a request comes from: what it may find of earlier ones, and who may find what it leaves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The conversation that it goes on with. Without one nothing is kept for a next request.
    pub context: Option<ContextId>,
    /// The salt of shared prefixes past system prompt and tools: only requests with the same salt find each other's.
    /// The tenant, so that nobody can tell from the time of an answer what another tenant has asked.
    pub salt: Arc<str>,
}

/// Bytes of keys and values that one request or conversation holds on the device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvHeld {
    /// Pages that nobody else holds or can find.
    pub private: ByteCount,
    /// Pages that others may hold as well; each of them counts such a page.
    pub shared: ByteCount,
}

impl KvHeld {
    /// All that is held.
    pub const fn total(&self) -> ByteCount {
        ByteCount(self.private.0 + self.shared.0)
    }
}

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

/// Bytes that a backend holds, by purpose. On its device never more than its budget.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryUse {
    /// Weights, repacked copies included.
    pub weights: ByteCount,
    /// The pool of pages for keys and values, allocated once.
    pub kv_pool: ByteCount,
    /// The part of the pool that requests and waiting conversations hold now.
    pub kv_used: ByteCount,
    /// The part of that which is stored once for whoever begins with the same tokens.
    pub kv_shared: ByteCount,
    /// Keys and values in host memory. Beside the device's budget, with a limit of their own.
    pub kv_host: ByteCount,
    /// Activations and logits at the batch cap.
    pub scratch: ByteCount,
}

impl MemoryUse {
    /// All that is held on the device, used or not.
    pub const fn total(&self) -> ByteCount {
        ByteCount(self.weights.0 + self.kv_pool.0 + self.scratch.0)
    }

    /// All that is in use on the device.
    pub const fn in_use(&self) -> ByteCount {
        ByteCount(self.weights.0 + self.kv_used.0 + self.scratch.0)
    }
}

/// What an admitted request will take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    /// Tokens of the rendered prompt.
    pub prompt_tokens: u32,
    /// How many of these have their keys and values already.
    pub cached_tokens: u32,
    /// Keys and values set aside for prompt and answer. What the request's conversation held is in it.
    pub kv: KvHeld,
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
    /// What its conversation holds from now on; nothing where it has none.
    pub kept: KvHeld,
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

    /// Takes `request` into the batch from the next step on, with the memory that it may need set aside. What its
    /// conversation held is the request's from then on. A request that is refused changes nothing.
    fn admit(
        &mut self,
        id: RequestId,
        request: CompletionRequest,
        origin: &Origin,
    ) -> Result<Admitted, AdmitError>;

    /// Drops a request, its memory and what it took over from its conversation. Unknown and finished ids are ignored.
    fn cancel(&mut self, id: RequestId);

    /// Advances every request by at least one token or one chunk of its prompt. Returns those that ended.
    fn step(&mut self) -> Result<Vec<Finished>, BackendFault>;

    /// How many requests are in the batch.
    fn active(&self) -> usize;

    /// Moves what a conversation holds to host memory, from where its next request brings it back. False, with
    /// nothing changed, where it holds nothing on the device or host memory has no room.
    fn swap_out(&mut self, context: ContextId) -> bool;

    /// Drops what a conversation holds, wherever it lies. Unknown ids are ignored.
    fn forget(&mut self, context: ContextId);
}
