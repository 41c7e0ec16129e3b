//! A Llama-family model: its shape, its weights, and one forward step over many sequences at once.

mod config;
mod forward;
mod linear;
#[cfg(test)]
#[path = "../../tests/support/naive.rs"]
mod naive;
#[cfg(test)]
mod tests;
mod weights;

pub(crate) use config::ModelConfig;
pub(crate) use forward::Chunk;
pub(crate) use weights::Model;
