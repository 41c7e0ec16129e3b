//! The JSON Schema of every event's data and of a goal line, generated from the types themselves.

use schemars::{JsonSchema, schema_for};

use crate::agent::AgentEvent;
use crate::fault::InjectedFault;
use crate::goal::{Goal, GoalResult};
use crate::healing::{Anomaly, Diagnosis, Metric, Recovery};
use crate::operations::{Approval, DeadLetter, Snapshot};

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
