//! Faults on purpose: which one strikes where, and what it does.
//!
//! A [`FaultPlan`] draws from a seed, a goal's number, a step and an attempt, and from nothing else: the same run with
//! the same seed is struck by the same faults. What a fault does to an answer stands in [`injure`], and what of it goes on
//! after that in [`Lasting`]. This crate does no
//! IO, reads no clock and knows nothing of who asks.

pub mod injure;
mod lasting;
mod plan;

pub use lasting::Lasting;
pub use plan::{FaultPlan, Place};
