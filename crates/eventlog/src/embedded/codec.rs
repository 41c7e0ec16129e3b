//! One record as bytes.
//!
//! ```text
//! record: topic u8 | partition varint | length u32 | body
//! body:   flags u8 | envelope? | type text | key text? | value
//! ```
//!
//! A record does not hold its offset: the frame says where each partition's run begins. So the caller's thread
//! encodes, and the writer, which alone knows the offsets, only copies.

use std::sync::Arc;

use bytes::Bytes;
use chrono::DateTime;
use kintsugi_events::{Envelope, Subject, Topic};
use kintsugi_types::{AgentId, EventId, GoalId, ModelName, TenantId, ToolName};
use uuid::Uuid;

use super::wire::{Cursor, Malformed, put_text, put_varint};
use crate::record::{NewRecord, TopicPartition};

const HAS_ENVELOPE: u8 = 1;
/// The type is `dev.kintsugi.<text>.v1`.
const TYPE_IS_OURS: u8 = 1 << 1;
const KEY_IS_SUBJECT: u8 = 1 << 2;
const HAS_SEQUENCE: u8 = 1 << 3;
const HAS_GOAL: u8 = 1 << 4;
const HAS_CAUSATION: u8 = 1 << 5;
const TENANT_IS_DEFAULT: u8 = 1 << 6;

const TYPE_PREFIX: &str = "dev.kintsugi.";
const TYPE_SUFFIX: &str = ".v1";

/// About what a record takes beside key and value, to reserve memory once.
pub(super) const RECORD_OVERHEAD_BYTES: usize = 160;

/// Appends `record` to `out`.
pub(super) fn encode_record(out: &mut Vec<u8>, record: &NewRecord) -> Result<(), Malformed> {
    out.push(record.topic.code());
    put_varint(out, u64::from(record.partition));
    let length_at = out.len();
    out.extend_from_slice(&[0; 4]);
    encode_body(out, record);
    let length = out.len() - length_at - 4;
    let length = u32::try_from(length).map_err(|_| Malformed("record longer than 4 GiB"))?;
    if let Some(place) = out.get_mut(length_at..length_at + 4) {
        place.copy_from_slice(&length.to_le_bytes());
    }
    Ok(())
}

fn encode_body(out: &mut Vec<u8>, record: &NewRecord) {
    let our_type =
        record.event_type.strip_prefix(TYPE_PREFIX).and_then(|rest| rest.strip_suffix(TYPE_SUFFIX));
    let flags_at = out.len();
    out.push(0);
    let mut flags = if our_type.is_some() { TYPE_IS_OURS } else { 0 };
    if let Some(envelope) = &record.envelope {
        flags |= HAS_ENVELOPE | encode_envelope(out, envelope, &record.key);
    }
    put_text(out, our_type.unwrap_or(&record.event_type));
    if flags & KEY_IS_SUBJECT == 0 {
        put_text(out, &record.key);
    }
    out.extend_from_slice(&record.value);
    if let Some(place) = out.get_mut(flags_at) {
        *place = flags;
    }
}

fn encode_envelope(out: &mut Vec<u8>, envelope: &Envelope, key: &str) -> u8 {
    let mut flags = 0;
    out.extend_from_slice(envelope.id.as_uuid().as_bytes());
    out.extend_from_slice(&envelope.time.timestamp().to_le_bytes());
    out.extend_from_slice(&envelope.time.timestamp_subsec_nanos().to_le_bytes());
    let (kind, name) = match &envelope.subject {
        Subject::Agent(agent) => (0, agent.as_str()),
        Subject::Tool(tool) => (1, tool.as_str()),
        Subject::Model(model) => (2, model.as_str()),
        Subject::Engine => (3, ""),
    };
    out.push(kind);
    put_text(out, name);
    // Only an agent's subject is its bare name; the others are printed with a prefix.
    let key_is_subject = match &envelope.subject {
        Subject::Agent(agent) => key == agent.as_str(),
        other => key == other.to_string(),
    };
    if key_is_subject {
        flags |= KEY_IS_SUBJECT;
    }
    put_text(out, &envelope.source);
    if let Some(sequence) = envelope.sequence {
        flags |= HAS_SEQUENCE;
        put_varint(out, sequence);
    }
    if let Some(goal) = &envelope.goal {
        flags |= HAS_GOAL;
        put_text(out, goal.as_str());
    }
    if let Some(causation) = envelope.causation {
        flags |= HAS_CAUSATION;
        out.extend_from_slice(causation.as_uuid().as_bytes());
    }
    if envelope.tenant == TenantId::default() {
        flags |= TENANT_IS_DEFAULT;
    } else {
        put_text(out, envelope.tenant.as_str());
    }
    flags
}

/// What a record's bytes say, apart from its place.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) envelope: Option<Envelope>,
    pub(super) event_type: String,
    pub(super) key: String,
    pub(super) value: Bytes,
}

/// A record whose body has not been read yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct RawRecord<'a> {
    pub(super) at: TopicPartition,
    pub(super) body: &'a [u8],
}

/// Takes the next record off `cursor` without reading its body.
pub(super) fn next_record<'a>(cursor: &mut Cursor<'a>) -> Result<RawRecord<'a>, Malformed> {
    let at = topic_partition(cursor)?;
    let length = usize::try_from(cursor.u32("record length")?).map_err(|_| Malformed("record length"))?;
    Ok(RawRecord { at, body: cursor.take(length, "record body")? })
}

pub(super) fn topic_partition(cursor: &mut Cursor<'_>) -> Result<TopicPartition, Malformed> {
    let topic = Topic::from_code(cursor.byte("topic")?).ok_or(Malformed("topic"))?;
    Ok(TopicPartition::new(topic, cursor.varint_u32("partition")?))
}

/// Reads bodies, and keeps one copy of the texts that neighbours share.
#[derive(Debug, Default)]
pub(super) struct BodyReader {
    source: Option<Arc<str>>,
    default_tenant: TenantId,
}

impl BodyReader {
    /// Reads `body`, a part of `frame` with which the value will share its memory.
    pub(super) fn read(&mut self, frame: &Bytes, body: &[u8]) -> Result<Body, Malformed> {
        let mut cursor = Cursor::new(body);
        let flags = cursor.byte("flags")?;
        let envelope =
            if flags & HAS_ENVELOPE == 0 { None } else { Some(self.envelope(&mut cursor, flags)?) };
        let text = cursor.text("event type")?;
        let event_type = if flags & TYPE_IS_OURS == 0 {
            text.to_owned()
        } else {
            let mut whole = String::with_capacity(TYPE_PREFIX.len() + text.len() + TYPE_SUFFIX.len());
            whole.extend([TYPE_PREFIX, text, TYPE_SUFFIX]);
            whole
        };
        let key = match &envelope {
            Some(envelope) if flags & KEY_IS_SUBJECT != 0 => envelope.subject.to_string(),
            _ => cursor.text("key")?.to_owned(),
        };
        Ok(Body { envelope, event_type, key, value: frame.slice_ref(cursor.rest()) })
    }

    fn envelope(&mut self, cursor: &mut Cursor<'_>, flags: u8) -> Result<Envelope, Malformed> {
        let id = EventId::from_uuid(Uuid::from_bytes(cursor.array("event id")?));
        let (seconds, nanos) = (cursor.i64("time")?, cursor.u32("time")?);
        let time = DateTime::from_timestamp(seconds, nanos).ok_or(Malformed("time"))?;
        let subject = subject(cursor)?;
        let source = self.shared_source(cursor.text("source")?);
        let sequence = if flags & HAS_SEQUENCE == 0 { None } else { Some(cursor.varint("sequence")?) };
        let goal = if flags & HAS_GOAL == 0 {
            None
        } else {
            Some(GoalId::new(cursor.text("goal")?).map_err(|_| Malformed("goal"))?)
        };
        let causation = if flags & HAS_CAUSATION == 0 {
            None
        } else {
            Some(EventId::from_uuid(Uuid::from_bytes(cursor.array("causation")?)))
        };
        let tenant = if flags & TENANT_IS_DEFAULT == 0 {
            TenantId::new(cursor.text("tenant")?).map_err(|_| Malformed("tenant"))?
        } else {
            self.default_tenant.clone()
        };
        Ok(Envelope { id, source, subject, time, sequence, goal, causation, tenant })
    }

    fn shared_source(&mut self, text: &str) -> Arc<str> {
        match &self.source {
            Some(source) if &**source == text => Arc::clone(source),
            _ => {
                let source: Arc<str> = text.into();
                self.source = Some(Arc::clone(&source));
                source
            }
        }
    }
}

fn subject(cursor: &mut Cursor<'_>) -> Result<Subject, Malformed> {
    let kind = cursor.byte("subject")?;
    let name = cursor.text("subject")?;
    match kind {
        0 => AgentId::new(name).map(Subject::Agent),
        1 => ToolName::new(name).map(Subject::Tool),
        2 => ModelName::new(name).map(Subject::Model),
        3 => Ok(Subject::Engine),
        _ => return Err(Malformed("subject")),
    }
    .map_err(|_| Malformed("subject"))
}
