//! Decides what to do about a diagnosis, and keeps account of what came of it.
//!
//! A diagnosis goes in, planned recoveries come out; recoveries that others report go in and settle the account. The
//! state is a fold over recovery events alone. This crate does no IO, reads no clock and draws no chance: `now`,
//! ids and a seed come in as arguments. It gives no orders either: what is planned is an event that somebody takes up.

pub mod policy;

mod parse;

pub mod breaker;
pub mod cascade;

mod account;
mod plan;

pub use account::{Account, ActionCount, OpenRecovery, SUBJECTS_MAX};
pub use breaker::{Admit, Breaker, BreakerState, Transition};
pub use parse::PolicyError;
pub use plan::Recoverer;
pub use policy::{Conditions, Parameters, Policy, PolicySet, SubjectKind};
