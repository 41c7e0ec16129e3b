//! An agent's state and its pure `decide` and `apply`; how its prompt is put together and what it may answer.
//!
//! `decide(state, command)` gives events, `apply(state, event)` the next state, and what has to be done outside
//! follows from the state alone: [`AgentState::open_effect`]. So a crash between any two instructions leaves
//! nothing to remember but the journal.
//!
//! This crate does no IO, reads no clock and draws no chance: time, seeds and ids come in with each command.

pub mod apply;
pub mod command;
pub mod config;
pub mod decide;
pub mod effect;
pub mod prompt;
pub mod state;

pub use command::{ActionOutcome, Command, ThinkOutcome};
pub use config::{KindConfig, Limits, Prices, SmallerModel};
pub use decide::{Context, Decision, decide};
pub use effect::{Effect, OpenCall};
pub use state::{Activity, AgentState, Phase, Run, STATE_VERSION, Turn};
