//! The model behind the scheduler: GGUF files through candle with our own forward pass, batched over sequences of
//! different length, with paged keys and values, grammar-constrained sampling and measured confidence.
//!
//! This crate knows nothing of agents, actors or events, and starts no threads but the compute pool's: whoever
//! owns a [`Backend`] calls [`Backend::step`] from its own thread.

pub mod backend;

pub use backend::{AdmitError, Admitted, Backend, BackendFault, Finished, MemoryUse, ModelInfo, RequestId};
