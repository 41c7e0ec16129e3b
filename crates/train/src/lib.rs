//! How the shipped model is made: traces, tokenizer, training, evaluation, export.
//!
//! A trace is an episode of the ticket bank worked by an oracle against the example's real tools. The model is
//! small enough to be trained on two CPU cores in an hour or two, with a gradient written out by hand. This crate is
//! no part of a running node.

pub mod augment;
pub mod card;
pub mod checkpoint;
pub mod corpus;
pub mod evaluation;
pub mod gguf;
mod merges;
pub mod model;
pub mod optimizer;
pub mod scoring;
pub mod shop;
pub mod tickets;
pub mod trace;
pub mod trainer;
pub mod vocabulary;
