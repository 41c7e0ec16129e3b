//! The data of an event, over all topics, and its JSON form.
//!
//! The event's type says how its JSON is read. An older version of a type is brought up to the
//! newest here, so that nothing above ever sees one.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::agent::AgentEvent;
use crate::fault::InjectedFault;
use crate::goal::{Goal, GoalResult, GoalStatus};
use crate::healing::{Anomaly, Diagnosis, Metric, Recovery, RecoveryPhase};
use crate::operations::{Approval, DeadLetter, Snapshot};
use crate::topic::Topic;

/// The data of one event.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "each variant is its type")]
pub enum Payload {
    Goal(Box<Goal>),
    Result(Box<GoalResult>),
    Agent(Box<AgentEvent>),
    Metric(Box<Metric>),
    Anomaly(Box<Anomaly>),
    Diagnosis(Box<Diagnosis>),
    Recovery(Box<Recovery>),
    Approval(Box<Approval>),
    Snapshot(Box<Snapshot>),
    DeadLetter(Box<DeadLetter>),
    Fault(Box<InjectedFault>),
}

/// Why bytes are no payload of a type.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// No such type.
    #[error("unknown event type {event_type:?}")]
    UnknownType {
        /// The type as it was written.
        event_type: String,
    },
    /// The type is known, the JSON is not of its form.
    #[error("malformed {event_type}: {source}")]
    Malformed {
        /// The type.
        event_type: String,
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },
}

macro_rules! ce_type {
    ($name:literal) => {
        concat!("dev.kintsugi.", $name, ".v1")
    };
}

/// CloudEvents type of a published goal.
pub const GOAL_PUBLISHED: &str = ce_type!("goal.published");

impl Payload {
    /// The topic that it belongs to.
    pub const fn topic(&self) -> Topic {
        match self {
            Self::Goal(_) => Topic::Goals,
            Self::Result(_) => Topic::Results,
            Self::Agent(_) => Topic::Agents,
            Self::Metric(_) => Topic::Metrics,
            Self::Anomaly(_) => Topic::Anomalies,
            Self::Diagnosis(_) => Topic::Diagnoses,
            Self::Recovery(_) => Topic::Recoveries,
            Self::Approval(_) => Topic::Approvals,
            Self::Snapshot(_) => Topic::Snapshots,
            Self::DeadLetter(_) => Topic::DeadLetters,
            Self::Fault(_) => Topic::Faults,
        }
    }

    /// The CloudEvents type: `dev.kintsugi.<noun>.<past participle>.v1`.
    pub fn event_type(&self) -> &'static str {
        match self {
            Self::Goal(_) => GOAL_PUBLISHED,
            Self::Result(result) => match result.status {
                GoalStatus::Completed => ce_type!("result.completed"),
                GoalStatus::Partial => ce_type!("result.shortened"),
                GoalStatus::Failed => ce_type!("result.failed"),
            },
            Self::Agent(event) => event.event_type(),
            Self::Metric(_) => ce_type!("metric.measured"),
            Self::Anomaly(_) => ce_type!("anomaly.detected"),
            Self::Diagnosis(_) => ce_type!("diagnosis.made"),
            Self::Recovery(recovery) => match recovery.phase {
                RecoveryPhase::Planned => ce_type!("recovery.planned"),
                RecoveryPhase::Started => ce_type!("recovery.started"),
                RecoveryPhase::Completed => ce_type!("recovery.completed"),
                RecoveryPhase::Failed => ce_type!("recovery.failed"),
                RecoveryPhase::Abandoned => ce_type!("recovery.abandoned"),
            },
            Self::Approval(approval) => match approval.decision {
                None => ce_type!("approval.requested"),
                Some(_) => ce_type!("approval.decided"),
            },
            Self::Snapshot(_) => ce_type!("snapshot.taken"),
            Self::DeadLetter(_) => ce_type!("dead-letter.written"),
            Self::Fault(_) => ce_type!("fault.injected"),
        }
    }

    /// The data as a JSON value.
    pub fn to_value(&self) -> serde_json::Value {
        // The types hold no map with keys that are not text, and no failing serializer: this cannot fail.
        self.with_inner(&mut ToValue).unwrap_or(serde_json::Value::Null)
    }

    /// The data as compact JSON, appended to `out`.
    pub fn write_json(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        self.with_inner(&mut ToBytes { out })
    }

    /// The data as compact JSON.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut out = Vec::with_capacity(256);
        self.write_json(&mut out)?;
        Ok(out)
    }

    /// Reads `json` as data of the CloudEvents type `event_type`.
    pub fn from_json(event_type: &str, json: &[u8]) -> Result<Self, PayloadError> {
        let unknown = || PayloadError::UnknownType { event_type: event_type.to_owned() };
        let name = event_type
            .strip_prefix("dev.kintsugi.")
            .and_then(|rest| rest.strip_suffix(".v1"))
            .ok_or_else(unknown)?;
        Ok(match name {
            "goal.published" => Self::Goal(read(event_type, json)?),
            "result.completed" | "result.shortened" | "result.failed" => {
                Self::Result(read(event_type, json)?)
            }
            "metric.measured" => Self::Metric(read(event_type, json)?),
            "anomaly.detected" => Self::Anomaly(read(event_type, json)?),
            "diagnosis.made" => Self::Diagnosis(read(event_type, json)?),
            "recovery.planned" | "recovery.started" | "recovery.completed" | "recovery.failed"
            | "recovery.abandoned" => Self::Recovery(read(event_type, json)?),
            "approval.requested" | "approval.decided" => Self::Approval(read(event_type, json)?),
            "snapshot.taken" => Self::Snapshot(read(event_type, json)?),
            "dead-letter.written" => Self::DeadLetter(read(event_type, json)?),
            "fault.injected" => Self::Fault(read(event_type, json)?),
            _ if AgentEvent::NAMES.contains(&name) => Self::Agent(read(event_type, json)?),
            _ => return Err(unknown()),
        })
    }

    fn with_inner<V: Visit>(&self, visit: &mut V) -> Result<V::Output, serde_json::Error> {
        match self {
            Self::Goal(inner) => visit.visit(inner),
            Self::Result(inner) => visit.visit(inner),
            Self::Agent(inner) => visit.visit(inner),
            Self::Metric(inner) => visit.visit(inner),
            Self::Anomaly(inner) => visit.visit(inner),
            Self::Diagnosis(inner) => visit.visit(inner),
            Self::Recovery(inner) => visit.visit(inner),
            Self::Approval(inner) => visit.visit(inner),
            Self::Snapshot(inner) => visit.visit(inner),
            Self::DeadLetter(inner) => visit.visit(inner),
            Self::Fault(inner) => visit.visit(inner),
        }
    }
}

fn read<T: DeserializeOwned>(event_type: &str, json: &[u8]) -> Result<Box<T>, PayloadError> {
    serde_json::from_slice(json)
        .map(Box::new)
        .map_err(|source| PayloadError::Malformed { event_type: event_type.to_owned(), source })
}

/// One thing to do with whatever a payload holds.
trait Visit {
    type Output;
    fn visit<T: Serialize>(&mut self, inner: &T) -> Result<Self::Output, serde_json::Error>;
}

struct ToValue;

impl Visit for ToValue {
    type Output = serde_json::Value;
    fn visit<T: Serialize>(&mut self, inner: &T) -> Result<serde_json::Value, serde_json::Error> {
        serde_json::to_value(inner)
    }
}

struct ToBytes<'a> {
    out: &'a mut Vec<u8>,
}

impl Visit for ToBytes<'_> {
    type Output = ();
    fn visit<T: Serialize>(&mut self, inner: &T) -> Result<(), serde_json::Error> {
        serde_json::to_writer(&mut *self.out, inner)
    }
}
