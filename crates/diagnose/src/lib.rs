//! Tells what is wrong, why, and what to do about it: an anomaly in, a diagnosis out.
//!
//! [`Rules`] answer at once and always, and say how sure they are; whoever knows better may take over where they
//! are not. This crate does no IO, reads no clock, draws no chance, and knows the system only through its events.

pub mod history;
pub mod rules;

pub use history::History;
pub use rules::{DIAGNOSED_BY, Rules};
