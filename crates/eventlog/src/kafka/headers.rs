//! Records as Kafka messages: CloudEvents 1.0 in binary mode, with plain JSON as value.
//!
//! Every attribute is a header, as the [Kafka binding] says; `kintsugi_place` is added by the lane that writes.
//! Messages of others may lack any of it: what is no event of ours comes out as bare bytes, and nothing that a
//! message holds makes reading it fail.
//!
//! [Kafka binding]: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use kintsugi_events::{Envelope, Topic};
use kintsugi_types::{GoalId, TenantId};
use rdkafka::Message;
use rdkafka::message::{BorrowedMessage, Header, Headers as _, OwnedHeaders};

use super::ledger::is_lane_name;
use crate::log::Lsn;
use crate::record::{NewRecord, Record};

const SPEC_VERSION: &str = "ce_specversion";
const ID: &str = "ce_id";
const SOURCE: &str = "ce_source";
const TYPE: &str = "ce_type";
const SUBJECT: &str = "ce_subject";
const TIME: &str = "ce_time";
const PARTITION_KEY: &str = "ce_partitionkey";
const SEQUENCE: &str = "ce_sequence";
const CORRELATION: &str = "ce_correlationid";
const CAUSATION: &str = "ce_causationid";
const TENANT: &str = "ce_tenant";
const CONTENT_TYPE: &str = "content-type";
const PLACE: &str = "kintsugi_place";

/// Where a record stands among those of the lane that wrote it: `lane/epoch/lsn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place<L> {
    /// The lane's name.
    pub(super) lane: L,
    /// Who of the lane's owners wrote it: later ones have higher epochs.
    pub(super) epoch: u64,
    /// Its place in the order of the lane.
    pub(super) lsn: Lsn,
}

impl<'a> Place<&'a str> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.splitn(3, '/');
        // What no lane can be called no lane wrote.
        let lane = parts.next().filter(|lane| is_lane_name(lane))?;
        let epoch = parts.next()?.parse().ok()?;
        Some(Self { lane, epoch, lsn: Lsn(parts.next()?.parse().ok()?) })
    }
}

/// The headers of `record`, all but its place.
pub(super) fn headers_of(record: &NewRecord) -> OwnedHeaders {
    let Some(envelope) = &record.envelope else { return OwnedHeaders::new() };
    let subject = envelope.subject.to_string();
    let mut headers = Some(OwnedHeaders::new_with_capacity(13));
    let mut put = |name: &str, value: &str| {
        headers = headers.take().map(|headers| headers.insert(Header { key: name, value: Some(value) }));
    };
    put(SPEC_VERSION, "1.0");
    put(ID, &text(envelope.id));
    put(SOURCE, &envelope.source);
    put(TYPE, &record.event_type);
    put(SUBJECT, &subject);
    put(TIME, &envelope.time.to_rfc3339_opts(SecondsFormat::AutoSi, true));
    put(PARTITION_KEY, &record.key);
    if let Some(sequence) = envelope.sequence {
        put(SEQUENCE, &text(sequence));
    }
    if let Some(goal) = &envelope.goal {
        put(CORRELATION, goal.as_str());
    }
    if let Some(causation) = envelope.causation {
        put(CAUSATION, &text(causation));
    }
    put(TENANT, envelope.tenant.as_str());
    put(CONTENT_TYPE, "application/json");
    headers.unwrap_or_default()
}

/// Adds the place that a record gets in its transaction.
pub(super) fn with_place(headers: OwnedHeaders, place: Place<&str>) -> OwnedHeaders {
    let text = format!("{}/{}/{}", place.lane, place.epoch, place.lsn);
    headers.insert(Header { key: PLACE, value: Some(&text) })
}

fn text(value: impl Display) -> String {
    value.to_string()
}

/// A message that was read.
#[derive(Debug)]
pub(super) struct Read {
    /// The record. Its LSN is that of its place, where it has one, and 0 elsewhere.
    pub(super) record: Record,
    /// Its place, where a lane wrote it.
    pub(super) place: Option<Place<Arc<str>>>,
}

/// The record of a message on `topic`.
pub(super) fn read(topic: Topic, message: &BorrowedMessage<'_>) -> Read {
    // The client library panics on a header whose name is no text. Only outsiders write such.
    let found = catch_unwind(AssertUnwindSafe(|| attributes(message))).unwrap_or_default();
    let key = message.key().map(|key| String::from_utf8_lossy(key).into_owned()).unwrap_or_default();
    let place = found.place;
    let record = Record {
        topic,
        partition: message.partition().cast_unsigned(),
        offset: message.offset().cast_unsigned(),
        lsn: place.as_ref().map_or(Lsn(0), |place| place.lsn),
        envelope: found.envelope,
        event_type: found.event_type,
        key,
        value: message.payload().map(Bytes::copy_from_slice).unwrap_or_default(),
        appended_at_ms: message.timestamp().to_millis().unwrap_or(0),
    };
    Read { record, place }
}

/// `record` as it comes back from where it was written.
pub(super) fn written(record: &NewRecord, offset: u64, lsn: Lsn, time_ms: i64) -> Record {
    Record {
        topic: record.topic,
        partition: record.partition,
        offset,
        lsn,
        envelope: record.envelope.clone(),
        // A type without an envelope is not written.
        event_type: record.envelope.as_ref().map_or_else(String::new, |_| record.event_type.to_string()),
        key: record.key.clone(),
        value: Bytes::copy_from_slice(&record.value),
        appended_at_ms: time_ms,
    }
}

#[derive(Default)]
struct Attributes {
    envelope: Option<Envelope>,
    event_type: String,
    place: Option<Place<Arc<str>>>,
}

#[derive(Default)]
struct Raw<'a> {
    id: Option<&'a str>,
    source: Option<&'a str>,
    event_type: Option<&'a str>,
    subject: Option<&'a str>,
    time: Option<&'a str>,
    sequence: Option<&'a str>,
    goal: Option<&'a str>,
    causation: Option<&'a str>,
    tenant: Option<&'a str>,
}

fn attributes(message: &BorrowedMessage<'_>) -> Attributes {
    let Some(headers) = message.headers() else { return Attributes::default() };
    let mut raw = Raw::default();
    let mut place = None;
    for header in headers.iter() {
        let Some(value) = header.value.and_then(|value| std::str::from_utf8(value).ok()) else { continue };
        match header.key {
            ID => raw.id = Some(value),
            SOURCE => raw.source = Some(value),
            TYPE => raw.event_type = Some(value),
            SUBJECT => raw.subject = Some(value),
            TIME => raw.time = Some(value),
            SEQUENCE => raw.sequence = Some(value),
            CORRELATION => raw.goal = Some(value),
            CAUSATION => raw.causation = Some(value),
            TENANT => raw.tenant = Some(value),
            PLACE => place = Place::parse(value),
            _ => {}
        }
    }
    let written_ms = message.timestamp().to_millis();
    let key = message.key().and_then(|key| std::str::from_utf8(key).ok());
    let envelope = envelope(&raw, key, written_ms);
    // A type without the rest is no event, as bytes without a type are none.
    let event_type = envelope.as_ref().and(raw.event_type).unwrap_or_default().to_owned();
    let place = place.map(|place| Place { lane: Arc::from(place.lane), epoch: place.epoch, lsn: place.lsn });
    Attributes { envelope, event_type, place }
}

/// The envelope, where id, source and type are there and everything that is there can be read. An outsider may leave
/// the subject to the key and the time to the broker.
fn envelope(raw: &Raw<'_>, key: Option<&str>, written_ms: Option<i64>) -> Option<Envelope> {
    raw.event_type?;
    let time = match raw.time {
        Some(time) => DateTime::parse_from_rfc3339(time).ok()?.with_timezone(&Utc),
        None => DateTime::from_timestamp_millis(written_ms?)?,
    };
    Some(Envelope {
        id: raw.id?.parse().ok()?,
        source: raw.source?.into(),
        subject: raw.subject.or(key)?.parse().ok()?,
        time,
        sequence: raw.sequence.map(str::parse).transpose().ok()?,
        goal: raw.goal.map(GoalId::new).transpose().ok()?,
        causation: raw.causation.map(str::parse).transpose().ok()?,
        tenant: raw.tenant.map(TenantId::new).transpose().ok()?.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_comes_back_and_anything_else_is_none() {
        let place = Place { lane: "3", epoch: 7, lsn: Lsn(15) };
        let headers = with_place(OwnedHeaders::new(), place);
        let written = headers.get(0).value.map(|value| String::from_utf8_lossy(value).into_owned());
        assert_eq!(written.as_deref(), Some("3/7/15"));
        assert_eq!(Place::parse("3/7/15"), Some(place));
        for other in ["", "3", "3/7", "3/x/15", "3/7/15/9", "/7/", "/7/15", "made-up/7/15"] {
            assert_eq!(Place::parse(other), None, "{other:?}");
        }
    }
}
