//! An agent's state and its pure `decide` and `apply`; how its prompt is put together and what it may answer.
//!
//! This crate does no IO, reads no clock and draws no chance: time, seeds and ids come in with each command.

pub mod prompt;
