//! Everything that flows over a topic: the envelope, the typed events with their JSON form, and their schemas.
//!
//! An event is a CloudEvents 1.0 event: the [`Envelope`] holds its attributes, the [`Payload`] its data. This crate
//! does no IO; how an event lies in a log is the log's own business.

pub mod agent;
pub mod envelope;
pub mod expect;
pub mod fault;
pub mod goal;
pub mod healing;
pub mod health;
pub mod operations;
pub mod payload;
pub mod schema;
pub mod topic;

pub use agent::{
    ActionCall, AgentEvent, Checkpoint, GoalEnd, HealthState, ObservationRecord, ParkReason, ThoughtRecord,
};
pub use envelope::{Envelope, Event, Subject};
pub use expect::{ExpectError, evaluate};
pub use fault::{FaultEdge, FaultKind, InjectedFault};
pub use goal::{Goal, GoalBudget, GoalResult, GoalStatus, HandedCall, Handover, ResultAction};
pub use healing::{
    Anomaly, AnomalyKind, Budget, Diagnosis, FaultType, HealthScores, Metric, Mode, Recovery, RecoveryAction,
    RecoveryPhase, Severity, StepLatency, ToolOutcome,
};
pub use operations::{Approval, ApprovalDecision, DeadLetter, Snapshot};
pub use payload::{Payload, PayloadError};
pub use topic::Topic;
