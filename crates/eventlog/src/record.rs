//! What goes into a log and what comes out.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use kintsugi_events::payload::PayloadError;
use kintsugi_events::{Envelope, Event, Payload, Topic};
use serde::{Deserialize, Serialize};

use crate::error::LogError;
use crate::log::Lsn;

/// One partition of one topic: the unit of order and of offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TopicPartition {
    /// The topic.
    pub topic: Topic,
    /// The partition's number.
    pub partition: u32,
}

impl TopicPartition {
    /// Partition `partition` of `topic`.
    pub const fn new(topic: Topic, partition: u32) -> Self {
        Self { topic, partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// A record that is to be appended.
#[derive(Debug, Clone, PartialEq)]
pub struct NewRecord {
    /// Its topic.
    pub topic: Topic,
    /// Its partition.
    pub partition: u32,
    /// The event's attributes; missing where an outside producer sent bytes without any.
    pub envelope: Option<Envelope>,
    /// The CloudEvents type; empty where there is no envelope.
    pub event_type: Cow<'static, str>,
    /// What decides the partition: the subject, for an event of our own.
    pub key: String,
    /// The data, plain JSON for an event of our own. Never interpreted by a log.
    pub value: Vec<u8>,
}

impl NewRecord {
    /// The record of `event`, in the topic that its payload belongs to.
    pub fn from_event(event: &Event, partition: u32) -> Result<Self, LogError> {
        let event_type = event.payload.event_type();
        let value = event.payload.to_json().map_err(|error| LogError::Encode {
            event_type: event_type.to_owned(),
            reason: error.to_string(),
        })?;
        Ok(Self {
            topic: event.payload.topic(),
            partition,
            envelope: Some(event.envelope.clone()),
            event_type: Cow::Borrowed(event_type),
            key: event.envelope.subject.to_string(),
            value,
        })
    }

    /// Bytes as an outside producer may send them: no attributes, no type.
    pub fn bare(topic: Topic, partition: u32, key: impl Into<String>, value: Vec<u8>) -> Self {
        Self { topic, partition, envelope: None, event_type: Cow::Borrowed(""), key: key.into(), value }
    }

    /// Where it goes.
    pub const fn topic_partition(&self) -> TopicPartition {
        TopicPartition::new(self.topic, self.partition)
    }
}

/// A committed record.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Its topic.
    pub topic: Topic,
    /// Its partition.
    pub partition: u32,
    /// Its place in the partition.
    pub offset: u64,
    /// Its place in the order in which the log committed, over all topics. That of an outsider's record says only
    /// about when it was noticed, and is 0 where that was before this process.
    pub lsn: Lsn,
    /// The event's attributes; missing for an outside producer's bare bytes.
    pub envelope: Option<Envelope>,
    /// The CloudEvents type; empty where there is no envelope.
    pub event_type: String,
    /// What decided the partition.
    pub key: String,
    /// The data. Shares memory with its neighbours: copy it where it is kept for long.
    pub value: Bytes,
    /// When the log wrote it, in milliseconds since 1970 in UTC.
    pub appended_at_ms: i64,
}

/// Why a record is no event.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// An outside producer wrote bare bytes.
    #[error("record has no attributes: it is an outside producer's bare bytes")]
    Bare,
    /// The type is unknown or the data is not of its form.
    #[error(transparent)]
    Payload(#[from] PayloadError),
}

impl Record {
    /// The event that the record carries.
    pub fn to_event(&self) -> Result<Event, RecordError> {
        let envelope = self.envelope.clone().ok_or(RecordError::Bare)?;
        Ok(Event { envelope, payload: Payload::from_json(&self.event_type, &self.value)? })
    }

    /// Where it was read from.
    pub const fn topic_partition(&self) -> TopicPartition {
        TopicPartition::new(self.topic, self.partition)
    }
}
