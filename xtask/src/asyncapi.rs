//! The `AsyncAPI` document: every topic, key, header and payload, for whoever has nothing but a Kafka client.
//!
//! It describes a client of a node, so that what is generated from it *sends* goals and *receives* results. Payloads
//! are the JSON Schemas beside it.

use anyhow::{Context as _, Result};
use kintsugi_events::Topic;
use kintsugi_events::schema::{EventKind, event_kinds};
use serde_json::{Map, Value, json};

/// The file's name in `schemas/`.
pub(crate) const FILE_NAME: &str = "asyncapi.yaml";

/// A goal without a single header.
const BARE_GOAL: &str = "goal.bare";

/// What a form of event's id is.
const EVENT_ID: &str = "^evt_[0-9a-f]{32}$";

/// The document as YAML.
pub(crate) fn document() -> Result<String> {
    let yaml = serde_saphyr::to_string(&value()).context("write AsyncAPI document as YAML")?;
    Ok(format!("# Written by `cargo xtask generate` from the code; changes go there.\n{yaml}"))
}

fn value() -> Value {
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Kintsugi on Kafka",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0"},
            "description": "What a client of a Kintsugi node sends and receives. Every event is a CloudEvents 1.0 \
                event in Kafka's binary mode: attributes are headers, the value is plain JSON. All topics have the \
                same number of partitions, and a key's partition is murmur2 of it, as the Java client chooses. The \
                prefix `kintsugi` of the topics is a setting. Read with `isolation.level=read_committed`: nodes \
                write in transactions.",
        },
        "defaultContentType": "application/json",
        "servers": servers(),
        "channels": Topic::ALL.iter().map(|topic| (topic.short_name().to_owned(), channel(*topic))).collect::<Map<_, _>>(),
        "operations": operations(),
        "components": {
            "messages": messages(),
            "schemas": {"headers": headers(), "key": key()},
            "securitySchemes": {
                "plain": {"type": "plain", "description": "SASL PLAIN"},
                "scramSha256": {"type": "scramSha256", "description": "SASL SCRAM-SHA-256"},
                "scramSha512": {"type": "scramSha512", "description": "SASL SCRAM-SHA-512"},
                "certificate": {"type": "X509", "description": "a client's certificate"},
            },
        },
    })
}

fn servers() -> Value {
    let variables = json!({
        "host": {"default": "localhost", "description": "any broker of the cluster"},
        "port": {"default": "9092"},
    });
    let schemes = ["plain", "scramSha256", "scramSha512", "certificate"];
    json!({
        "plaintext": {
            "host": "{host}:{port}",
            "protocol": "kafka",
            "description": "A cluster that is spoken to as it comes.",
            "variables": variables,
        },
        "secured": {
            "host": "{host}:{port}",
            "protocol": "kafka-secure",
            "description": "A cluster behind TLS, with a password or a certificate.",
            "variables": variables,
            "security": schemes.map(|scheme| reference("components/securitySchemes", scheme)),
        },
    })
}

fn channel(topic: Topic) -> Value {
    let messages: Map<String, Value> =
        messages_of(topic).map(|name| (name.to_owned(), reference("components/messages", name))).collect();
    let policy = if topic.is_compacted() { "compact" } else { "delete" };
    json!({
        "address": topic.name(),
        "description": topic.about(),
        "messages": messages,
        "bindings": {
            "kafka": {
                "topicConfiguration": {"cleanup.policy": [policy]},
                "bindingVersion": "0.5.0",
            },
        },
    })
}

fn kinds_of(topic: Topic) -> impl Iterator<Item = EventKind> {
    event_kinds().filter(move |kind| kind.topic == topic)
}

fn messages_of(topic: Topic) -> impl Iterator<Item = &'static str> {
    let bare = matches!(topic, Topic::Goals).then_some(BARE_GOAL);
    kinds_of(topic).map(|kind| kind.name).chain(bare)
}

/// What a client sends, and what it receives.
fn operations() -> Value {
    let outgoing = [
        ("publishGoals", Topic::Goals, "Publish goals, with headers or as bare JSON."),
        ("publishAnomalies", Topic::Anomalies, "Take the stage `monitor` over."),
        ("publishDiagnoses", Topic::Diagnoses, "Take the stage `diagnose` over."),
        ("publishRecoveries", Topic::Recoveries, "Take the stage `recover` over."),
    ];
    let incoming = [
        ("receiveResults", Topic::Results, "See how goals ended."),
        ("receiveJournal", Topic::Agents, "Follow what agents think and do."),
        ("receiveMetrics", Topic::Metrics, "See each step's measurements."),
        ("receiveAnomalies", Topic::Anomalies, "See what deviated."),
        ("receiveDiagnoses", Topic::Diagnoses, "See what is wrong."),
        ("receiveRecoveries", Topic::Recoveries, "See what is done about it, and whether it helped."),
        ("receiveApprovals", Topic::Approvals, "See what a person was asked."),
        ("receiveSnapshots", Topic::Snapshots, "See folded states, the newest of each key."),
        ("receiveDeadLetters", Topic::DeadLetters, "See what could not be taken, and why."),
        ("receiveFaults", Topic::Faults, "See what was broken on purpose."),
    ];
    let outgoing = outgoing.map(|operation| ("send", operation));
    let incoming = incoming.map(|operation| ("receive", operation));
    let operations: Map<String, Value> = outgoing
        .into_iter()
        .chain(incoming)
        .map(|(action, (name, topic, summary))| {
            let channel = format!("channels/{}", topic.short_name());
            let messages: Vec<Value> =
                messages_of(topic).map(|name| reference(&format!("{channel}/messages"), name)).collect();
            let operation = json!({
                "action": action,
                "channel": reference("channels", topic.short_name()),
                "summary": summary,
                "messages": messages,
            });
            (name.to_owned(), operation)
        })
        .collect();
    Value::Object(operations)
}

fn messages() -> Map<String, Value> {
    let mut messages: Map<String, Value> = event_kinds()
        .map(|kind| {
            let event_type = kind.event_type();
            let message = json!({
                "name": event_type,
                "title": kind.name,
                "contentType": "application/json",
                "headers": {
                    "allOf": [
                        reference("components/schemas", "headers"),
                        {"type": "object", "properties": {"ce_type": {"const": event_type}}},
                    ],
                },
                "payload": {"$ref": format!("./{}", kind.schema_file)},
                "bindings": binding(),
            });
            (kind.name.to_owned(), message)
        })
        .collect();
    let bare = json!({
        "name": BARE_GOAL,
        "title": "a goal without headers",
        "summary": "The value alone is enough, and so is the member `text` in it. Any key will do, or none.",
        "contentType": "application/json",
        "payload": {"$ref": "./goal.schema.json"},
    });
    messages.insert(BARE_GOAL.to_owned(), bare);
    messages
}

fn binding() -> Value {
    json!({"kafka": {"key": reference("components/schemas", "key"), "bindingVersion": "0.5.0"}})
}

fn key() -> Value {
    json!({
        "type": "string",
        "minLength": 1,
        "description": "What the event is about, and what decides its partition: an agent's id, `tool:NAME`, \
            `model:NAME` or `engine`. On goals the agent that is named, else tenant and id with a slash between. On \
            snapshots an agent's id or `stage:NAME`.",
    })
}

/// The headers of an event, as the Kafka log writes them.
fn headers() -> Value {
    json!({
        "type": "object",
        "description": "CloudEvents 1.0 in Kafka's binary mode. An event of another client needs the required ones; \
            where the subject is missing the key stands for it, and where the time is missing the broker's.",
        "required": ["ce_specversion", "ce_id", "ce_source", "ce_type"],
        "properties": {
            "ce_specversion": {"type": "string", "const": "1.0"},
            "ce_id": {
                "type": "string",
                "pattern": EVENT_ID,
                "description": "Unique over all events: `evt_` and the hexadecimal digits of a UUIDv7.",
            },
            "ce_source": {
                "type": "string",
                "minLength": 1,
                "description": "Who wrote it, for example `/kintsugi/diagnose`.",
            },
            "ce_type": {
                "type": "string",
                "pattern": "^dev\\.kintsugi\\.[a-z-]+\\.[a-z]+\\.v1$",
                "description": "What happened; says how the value is read.",
            },
            "ce_subject": {
                "type": "string",
                "minLength": 1,
                "description": "What it is about: an agent's id, `tool:NAME`, `model:NAME` or `engine`.",
            },
            "ce_time": {"type": "string", "format": "date-time", "description": "When it was written."},
            "ce_partitionkey": {"type": "string", "description": "The key."},
            "ce_sequence": {
                "type": "string",
                "pattern": "^[0-9]+$",
                "description": "The place in the agent's journal, from 1 without a gap. On events of the journal only.",
            },
            "ce_correlationid": {
                "type": "string",
                "minLength": 1,
                "maxLength": 256,
                "description": "The goal that it belongs to, where there is one.",
            },
            "ce_causationid": {
                "type": "string",
                "pattern": EVENT_ID,
                "description": "The id of the event that led to it, where there is one.",
            },
            "ce_tenant": {"type": "string", "minLength": 1, "maxLength": 256, "description": "Whose goal it is."},
            "content-type": {"type": "string", "const": "application/json"},
            "kintsugi_place": {
                "type": "string",
                "pattern": "^[^/]+/[0-9]+/[0-9]+$",
                "description": "Where it stands among the events of the lane that wrote it: lane, epoch and place in \
                    the lane's order. Written by nodes and `kintsugi stage` alone; other clients leave it out.",
            },
        },
    })
}

fn reference(of: &str, name: &str) -> Value {
    json!({"$ref": format!("#/{of}/{name}")})
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use kintsugi_events::schema::schema_files;

    use super::*;
    use crate::shell::root;

    #[test]
    fn the_yaml_reads_back_as_the_document() {
        let read: Value = serde_saphyr::from_str(&document().unwrap()).unwrap();
        assert_eq!(read, value());
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = value();
        let files: BTreeSet<String> =
            schema_files().into_iter().map(|file| format!("./{}", file.name)).collect();
        let mut references = Vec::new();
        collect(&document, &mut references);
        assert!(references.len() > 100, "{}", references.len());
        for reference in references {
            let is_there = reference
                .strip_prefix('#')
                .map_or_else(|| files.contains(&reference), |pointer| document.pointer(pointer).is_some());
            assert!(is_there, "{reference}");
        }
    }

    fn collect(value: &Value, references: &mut Vec<String>) {
        match value {
            Value::Object(members) => members.iter().for_each(|(name, member)| match member {
                Value::String(text) if name == "$ref" => references.push(text.clone()),
                other => collect(other, references),
            }),
            Value::Array(items) => items.iter().for_each(|item| collect(item, references)),
            _ => {}
        }
    }

    /// The log's crate is not linked here: it would build the C library. Its source has a constant for each header.
    #[test]
    fn the_headers_are_those_that_the_kafka_log_names() {
        let source = root().unwrap().join("crates/eventlog/src/kafka/headers.rs");
        let source = std::fs::read_to_string(source).unwrap();
        let written: BTreeSet<&str> = source
            .lines()
            .filter_map(|line| line.strip_prefix("const ")?.split_once(": &str = \"")?.1.strip_suffix("\";"))
            .filter(|name| !name.contains(' '))
            .collect();
        let headers = headers();
        let described = headers.get("properties").and_then(Value::as_object).unwrap();
        let described: BTreeSet<&str> = described.keys().map(String::as_str).collect();
        assert_eq!(written, described);
    }
}
