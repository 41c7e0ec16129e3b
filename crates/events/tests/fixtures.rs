//! Every version of every event that was ever written can be read, and the newest is written as it was.
#![expect(clippy::unwrap_used, reason = "a test that cannot read its fixtures shall fail")]

use std::collections::BTreeSet;
use std::path::Path;

use kintsugi_events::schema::{EventKind, event_kinds, schema_files};
use kintsugi_events::{Payload, Topic};

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
    let known: BTreeSet<String> = event_kinds().map(EventKind::event_type).collect();
    let found: BTreeSet<String> = fixtures().into_iter().map(|(event_type, _)| event_type).collect();
    assert_eq!(found, known);
}

#[test]
fn every_event_is_listed_under_its_topic_and_with_a_schema_that_is_there() {
    let files: BTreeSet<&str> = schema_files().into_iter().map(|file| file.name).collect();
    for kind in event_kinds() {
        let event_type = kind.event_type();
        let (_, json) = fixtures().into_iter().find(|(found, _)| *found == event_type).unwrap();
        assert_eq!(Payload::from_json(&event_type, &json).unwrap().topic(), kind.topic, "{event_type}");
        assert!(files.contains(kind.schema_file), "{event_type}");
    }
}

#[test]
fn every_topic_has_a_fixture() {
    let found: BTreeSet<Topic> = fixtures()
        .iter()
        .map(|(event_type, json)| Payload::from_json(event_type, json).unwrap().topic())
        .collect();
    assert_eq!(found, Topic::ALL.iter().copied().collect());
}
