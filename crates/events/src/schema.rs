//! The JSON Schema of every event's data and of a goal line, generated from the types themselves, and which event
//! has which schema.

use schemars::{JsonSchema, schema_for};

use crate::agent::AgentEvent;
use crate::fault::InjectedFault;
use crate::goal::{Goal, GoalResult};
use crate::healing::{Anomaly, Diagnosis, Metric, Recovery};
use crate::operations::{Approval, DeadLetter, Snapshot};
use crate::topic::Topic;

/// One schema file.
#[derive(Debug)]
pub struct SchemaFile {
    /// Its name, without folder.
    pub name: &'static str,
    /// The schema, as JSON.
    pub schema: serde_json::Value,
}

fn file<T: JsonSchema>(name: &'static str) -> SchemaFile {
    SchemaFile { name, schema: schema_for!(T).to_value() }
}

/// Every schema, by file name.
pub fn schema_files() -> Vec<SchemaFile> {
    vec![
        file::<Goal>("goal.schema.json"),
        file::<GoalResult>("result.schema.json"),
        file::<AgentEvent>("agent-event.schema.json"),
        file::<Metric>("metric.schema.json"),
        file::<Anomaly>("anomaly.schema.json"),
        file::<Diagnosis>("diagnosis.schema.json"),
        file::<Recovery>("recovery.schema.json"),
        file::<Approval>("approval.schema.json"),
        file::<Snapshot>("snapshot.schema.json"),
        file::<DeadLetter>("dead-letter.schema.json"),
        file::<InjectedFault>("fault.schema.json"),
    ]
}

/// What is written to topics: for each topic the schema of its data, and the names of its events. The journal's names
/// stand at [`AgentEvent::NAMES`].
const EVENTS: [(Topic, &str, &[&str]); 11] = [
    (Topic::Goals, "goal.schema.json", &["goal.published"]),
    (Topic::Results, "result.schema.json", &["result.completed", "result.shortened", "result.failed"]),
    (Topic::Agents, "agent-event.schema.json", AgentEvent::NAMES),
    (Topic::Metrics, "metric.schema.json", &["metric.measured"]),
    (Topic::Anomalies, "anomaly.schema.json", &["anomaly.detected"]),
    (Topic::Diagnoses, "diagnosis.schema.json", &["diagnosis.made"]),
    (
        Topic::Recoveries,
        "recovery.schema.json",
        &[
            "recovery.planned",
            "recovery.started",
            "recovery.completed",
            "recovery.failed",
            "recovery.abandoned",
        ],
    ),
    (Topic::Approvals, "approval.schema.json", &["approval.requested", "approval.decided"]),
    (Topic::Snapshots, "snapshot.schema.json", &["snapshot.taken"]),
    (Topic::DeadLetters, "dead-letter.schema.json", &["dead-letter.written"]),
    (Topic::Faults, "fault.schema.json", &["fault.injected"]),
];

/// One kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventKind {
    /// The topic that it is written to.
    pub topic: Topic,
    /// `<noun>.<past participle>`.
    pub name: &'static str,
    /// The file with the schema of its data.
    pub schema_file: &'static str,
}

impl EventKind {
    /// Its CloudEvents type.
    pub fn event_type(self) -> String {
        format!("dev.kintsugi.{}.v1", self.name)
    }
}

/// Every kind of event, by topic.
pub fn event_kinds() -> impl Iterator<Item = EventKind> {
    EVENTS.into_iter().flat_map(|(topic, schema_file, names)| {
        names.iter().map(move |name| EventKind { topic, name, schema_file })
    })
}
