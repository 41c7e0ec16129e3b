//! What can go wrong between a model file and an answer.

use kintsugi_types::ByteCount;

/// Why a model cannot be loaded or a text cannot be prepared for it. Messages name the file, the finding and the
/// next step.
#[derive(Debug, thiserror::Error)]
pub enum InferenceError {
    /// The file system refused.
    #[error("cannot read model {file}: {source}; check the path and its permissions")]
    Read {
        /// The file as the caller named it.
        file: String,
        /// What the file system said.
        source: std::io::Error,
    },
    /// The bytes are not a whole, consistent GGUF file.
    #[error("model {file} is damaged: {reason}; fetch the file again")]
    Damaged {
        /// The file as the caller named it.
        file: String,
        /// What is inconsistent.
        reason: String,
    },
    /// The file is sound, but this engine does not run what is in it.
    #[error("model {file} is not supported: {reason}; {hint}")]
    Unsupported {
        /// The file as the caller named it.
        file: String,
        /// What was found.
        reason: String,
        /// What to do instead.
        hint: &'static str,
    },
    /// Weights, activations and one whole sequence do not fit.
    #[error(
        "memory budget of {budget} is too small for model {file}: weights {weights}, activations {scratch}, keys and \
         values of one sequence of {context_tokens} tokens {kv_least}; raise the budget to {} or lower the context",
        needed.as_setting()
    )]
    BudgetTooSmall {
        /// The file as the caller named it.
        file: String,
        /// What was granted.
        budget: ByteCount,
        /// Weights with their repacked copies.
        weights: ByteCount,
        /// Activations and logits at the batch cap.
        scratch: ByteCount,
        /// Keys and values of one sequence of full length.
        kv_least: ByteCount,
        /// The sequence's length.
        context_tokens: u32,
        /// The sum: the least budget that would do.
        needed: ByteCount,
    },
    /// A setting of the engine is out of its range.
    #[error("engine setting {name} is {value}, it must be {must}")]
    Setting {
        /// Which setting.
        name: &'static str,
        /// What it was.
        value: u64,
        /// What it may be.
        must: &'static str,
    },
    /// The compute threads cannot be set any more.
    #[error("cannot set the number of compute threads: {reason}; {hint}")]
    Threads {
        /// Why not.
        reason: String,
        /// What to do instead.
        hint: &'static str,
    },
    /// The tokenizer refused a text.
    #[error("cannot tokenize: {reason}")]
    Tokenize {
        /// What the tokenizer said.
        reason: String,
    },
    /// The chat template failed.
    #[error("cannot render the chat template: {reason}")]
    Template {
        /// What the template engine said.
        reason: String,
    },
    /// A schema cannot be compiled, or a grammar in use broke.
    #[error("grammar: {reason}")]
    Grammar {
        /// What the grammar engine said.
        reason: String,
    },
    /// A tensor operation failed.
    #[error("compute: {source}")]
    Compute {
        /// What the tensor library said.
        #[from]
        source: candle_core::Error,
    },
}

impl InferenceError {
    /// Whether the same call, unchanged, may succeed later.
    pub fn is_retryable(&self) -> bool {
        use std::io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
        matches!(self, Self::Read { source, .. } if matches!(source.kind(), Interrupted | TimedOut | WouldBlock))
    }
}
