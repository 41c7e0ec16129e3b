//! Every version of every event that was ever written can be read, and the newest is written as it was.
#![expect(clippy::unwrap_used, reason = "a test that cannot read its fixtures shall fail")]

use std::collections::BTreeSet;
use std::path::Path;

use kintsugi_events::{AgentEvent, Payload, Topic};

/// What is written of each kind beside the journal.
const OTHER_NAMES: &[&str] = &[
    "goal.published",
    "result.completed",
    "result.shortened",
    "result.failed",
    "metric.measured",
    "anomaly.detected",
    "diagnosis.made",
    "recovery.planned",
    "recovery.started",
    "recovery.completed",
    "recovery.failed",
    "recovery.abandoned",
    "approval.requested",
    "approval.decided",
    "snapshot.taken",
    "dead-letter.written",
    "fault.injected",
];

/// The event's type and the bytes of its data, for every fixture.
fn fixtures() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut fixtures: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            (format!("dev.kintsugi.{name}"), text.trim_end().as_bytes().to_vec())
        })
        .collect();
    fixtures.sort();
    fixtures
}

#[test]
fn every_fixture_is_read_and_written_back_byte_by_byte() {
    for (event_type, json) in fixtures() {
        let payload = Payload::from_json(&event_type, &json).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(payload.event_type(), event_type);
        let written = payload.to_json().unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), String::from_utf8(json).unwrap(), "{event_type}");
    }
}

#[test]
fn every_event_has_a_fixture() {
    let known: BTreeSet<String> =
        AgentEvent::NAMES.iter().chain(OTHER_NAMES).map(|name| format!("dev.kintsugi.{name}.v1")).collect();
    let found: BTreeSet<String> = fixtures().into_iter().map(|(event_type, _)| event_type).collect();
    assert_eq!(found, known);
}

#[test]
fn every_topic_has_a_fixture() {
    let found: BTreeSet<Topic> = fixtures()
        .iter()
        .map(|(event_type, json)| Payload::from_json(event_type, json).unwrap().topic())
        .collect();
    assert_eq!(found, Topic::ALL.iter().copied().collect());
}
