//! Who may use the model, when, and within how many bytes: the leases, the byte ledger and the one actor that owns
//! the engine thread.
//!
//! Nobody else touches the model. Callers hold a [`SchedulerHandle`]; the [`GpuScheduler`] actor hands out
//! [`Lease`]s and queues who has to wait; the engine thread behind it owns the
//! [`Backend`](kintsugi_inference::Backend), steps it, and rebuilds it after a fault. This crate never decides
//! what an agent thinks, never writes events (it reports them to its owner), and never passes its byte budget.

pub mod actor;
pub mod config;
mod engine;
pub mod error;
mod expiry;
pub mod handle;
pub mod lease;
pub mod ledger;
mod messages;
mod pace;
mod queue;
mod residency;
#[cfg(any(test, feature = "scripted"))]
pub mod scripted;
pub mod spread;
pub mod stats;
mod table;

#[cfg(test)]
mod tests;

pub use actor::{GpuScheduler, SchedulerContext, StartError};
pub use config::{BackendFactory, EngineReport, OnFault, RebuildPolicy, SchedulerConfig};
pub use error::{Refusal, RefusalReason, ThinkError};
pub use handle::{SchedulerHandle, Thought};
pub use lease::{Lease, LeaseRequest};
pub use ledger::{Discrepancy, Ledger};
pub use residency::Residence;
pub use spread::Times;
pub use stats::{EngineState, SchedulerStats, SwapCounts};
