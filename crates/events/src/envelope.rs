//! The attributes of an event: CloudEvents 1.0 with the extensions that the system needs.

use std::fmt;
use std::str::FromStr;

use kintsugi_types::{
    AgentId, EventId, GoalId, IdSource, ModelName, NameError, TenantId, Timestamp, ToolName,
};
use serde::{Deserialize, Serialize};

use crate::payload::Payload;

/// What an event is about: an agent, or something that agents share.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Subject {
    /// One agent.
    Agent(AgentId),
    /// A tool and all agents behind it: `tool:NAME`.
    Tool(ToolName),
    /// A model: `model:NAME`.
    Model(ModelName),
    /// The inference engine: `engine`.
    Engine,
}

impl Subject {
    /// The agent, where the subject is one.
    pub const fn agent(&self) -> Option<&AgentId> {
        match self {
            Self::Agent(agent) => Some(agent),
            _ => None,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agent(agent) => f.write_str(agent.as_str()),
            Self::Tool(tool) => write!(f, "tool:{tool}"),
            Self::Model(model) => write!(f, "model:{model}"),
            Self::Engine => f.write_str("engine"),
        }
    }
}

impl FromStr for Subject {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text == "engine" {
            Ok(Self::Engine)
        } else if let Some(tool) = text.strip_prefix("tool:") {
            ToolName::new(tool).map(Self::Tool)
        } else if let Some(model) = text.strip_prefix("model:") {
            ModelName::new(model).map(Self::Model)
        } else {
            AgentId::new(text).map(Self::Agent)
        }
    }
}

impl TryFrom<String> for Subject {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Subject> for String {
    fn from(subject: Subject) -> Self {
        subject.to_string()
    }
}

impl schemars::JsonSchema for Subject {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Subject".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "minLength": 1,
            "description": "an agent id, `tool:NAME`, `model:NAME` or `engine`",
        })
    }
}

/// The attributes of one event. The event's type stands in its payload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// `id`: unique over all events.
    pub id: EventId,
    /// `source`: which part of which node wrote it, for example `/kintsugi/node-1/agents`.
    pub source: std::sync::Arc<str>,
    /// `subject`: what it is about; also the record's key (`partitionkey`).
    pub subject: Subject,
    /// `time`: when it was written.
    pub time: Timestamp,
    /// `sequence`: place in the agent's journal, from 1 without a gap; only on journal events and snapshots.
    pub sequence: Option<u64>,
    /// `correlationid`: the goal that it belongs to.
    pub goal: Option<GoalId>,
    /// `causationid`: the event that led to it.
    pub causation: Option<EventId>,
    /// `tenant`.
    pub tenant: TenantId,
}

impl Envelope {
    /// An envelope about `subject` with a fresh id and nothing optional set.
    pub fn new(
        ids: &mut dyn IdSource,
        source: std::sync::Arc<str>,
        subject: Subject,
        time: Timestamp,
    ) -> Self {
        Self {
            id: EventId::new(ids),
            source,
            subject,
            time,
            sequence: None,
            goal: None,
            causation: None,
            tenant: TenantId::default(),
        }
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its attributes.
    pub envelope: Envelope,
    /// Its data.
    pub payload: Payload,
}

impl Event {
    /// The event in the CloudEvents JSON format, as `watch` prints it (without topic, partition and offset).
    pub fn to_cloud_event(&self) -> serde_json::Value {
        let envelope = &self.envelope;
        let mut document = serde_json::json!({
            "specversion": "1.0",
            "id": envelope.id,
            "source": envelope.source,
            "type": self.payload.event_type(),
            "subject": envelope.subject,
            "time": envelope.time,
            "datacontenttype": "application/json",
            "partitionkey": envelope.subject,
            "tenant": envelope.tenant,
            "data": self.payload.to_value(),
        });
        if let Some(members) = document.as_object_mut() {
            if let Some(sequence) = envelope.sequence {
                members.insert("sequence".to_owned(), sequence.into());
            }
            if let Some(goal) = &envelope.goal {
                members.insert("correlationid".to_owned(), goal.as_str().into());
            }
            if let Some(causation) = envelope.causation {
                members.insert("causationid".to_owned(), causation.to_string().into());
            }
        }
        document
    }
}
