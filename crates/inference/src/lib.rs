//! The model behind the scheduler: GGUF files through candle with our own forward pass, batched over sequences of
//! different length, with paged keys and values that sequences share and that move to host memory and back,
//! grammar-constrained sampling and measured confidence.
//!
//! This crate knows nothing of agents, actors or events, and starts no threads but the compute pool's: whoever
//! owns a [`Backend`] calls [`Backend::step`] from its own thread.

pub mod backend;
pub mod chat;
pub mod engine;
pub mod error;
pub mod gguf;
mod grammar;
mod kernels;
mod kv;
mod model;
mod sampling;
pub mod threads;
pub mod tokenizer;

#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod support;

pub use backend::{
    AdmitError, Admitted, Backend, BackendFault, ContextId, Finished, KvHeld, MemoryUse, ModelInfo, Origin,
    RequestId,
};
pub use chat::ChatTemplate;
pub use engine::{CandleEngine, EngineConfig};
pub use error::InferenceError;
pub use gguf::{GgufFile, ModelSource};
pub use threads::{compute_threads, configure_threads};
pub use tokenizer::Tokenizer;
