//! What a node tells machines: metrics and the description of its API.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use kintsugi_eventlog::embedded::Options;
use kintsugi_eventlog::{Append, EmbeddedLog, EventLog as _, NewRecord};
use kintsugi_events::{Envelope, Event, Payload};
use kintsugi_types::{Clock as _, SystemClock, SystemIds};
use serde_json::Value;

use crate::node::{Node, PATIENCE, shape};

/// Puts one event of each of these types into the log of the node in `folder`, as the fixtures of `events` have them.
pub(crate) fn write_log(folder: &Path, types: &[&str]) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../events/tests/fixtures");
    let source: Arc<str> = "/kintsugi/test".into();
    let mut append = Append::default();
    let mut sequence = 0;
    for name in types {
        let data = std::fs::read(fixtures.join(format!("{name}.v1.json"))).unwrap();
        let payload = Payload::from_json(&format!("dev.kintsugi.{name}.v1"), &data).unwrap();
        let subject = "support-17".parse().unwrap();
        let mut envelope = Envelope::new(&mut SystemIds, source.clone(), subject, SystemClock.now());
        if matches!(payload, Payload::Agent(_)) {
            sequence += 1;
            envelope.sequence = Some(sequence);
        }
        append.records.push(NewRecord::from_event(&Event { envelope, payload }, 0).unwrap());
    }
    let log = EmbeddedLog::open(folder.join("data/log"), Options::default()).unwrap();
    log.append_wait(&append).unwrap();
    log.close().unwrap();
}

/// A healed fault from the metric to the end of its recovery.
pub(crate) const SEAM: [&str; 6] = [
    "metric.measured",
    "anomaly.detected",
    "diagnosis.made",
    "recovery.planned",
    "recovery.started",
    "recovery.completed",
];

/// The id of its recovery.
pub(crate) const SEAM_ID: &str = "rec_01931f2a7c0070008000000000000001";

/// Samples by name with labels, of a text in the form of Prometheus.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
        let bare = name.split('{').next().unwrap();
        assert!(bare.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{line}");
        assert!(name.contains('{') == name.ends_with('}'), "{line}");
        let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        assert!(samples.insert(name.to_owned(), value).is_none(), "twice: {line}");
    }
    assert!(text.ends_with("# EOF\n"));
    samples
}

#[test]
fn metrics_tell_what_was_healed_and_what_is() {
    let folder = tempfile::tempdir().unwrap();
    write_log(folder.path(), &SEAM);
    let node = Node::start(folder.path());
    let begun = Instant::now();
    // The model is loaded while the node answers already.
    let (answer, samples) = loop {
        let answer = node.get("/metrics");
        let samples = parse(&answer.text);
        if samples["kintsugi_memory_bytes{purpose=\"weights\"}"] > 0.0 {
            break (answer, samples);
        }
        assert!(begun.elapsed() < PATIENCE, "the model is not loaded: {}", answer.text);
    };
    assert!(answer.headers["content-type"].starts_with("application/openmetrics-text"));
    let at_least = |name: &str, least: f64| {
        let value = samples.get(name).unwrap_or_else(|| panic!("no {name} in {}", answer.text));
        assert!(*value >= least, "{name} is {value}");
    };
    at_least("agent_anomalies_detected_total{anomaly_type=\"tool_failure\"}", 1.0);
    at_least("agent_diagnoses_completed_total{fault_type=\"tool_failure\",severity=\"high\"}", 1.0);
    at_least(
        "agent_recovery_actions_total{action_type=\"retry_with_backoff\",policy=\"retry-transient-tool-error\"}",
        1.0,
    );
    at_least("agent_recovery_duration_seconds_count{action_type=\"retry_with_backoff\"}", 1.0);
    at_least("agent_recovery_duration_seconds_bucket{le=\"+Inf\",action_type=\"retry_with_backoff\"}", 1.0);
    at_least("agent_recovery_success_rate{action_type=\"retry_with_backoff\"}", 1.0);
    at_least("kintsugi_agents{state=\"idle\"}", 1.0);
    at_least("kintsugi_agent_health{statistic=\"mean\"}", 0.0);
    at_least("kintsugi_memory_bytes{purpose=\"weights\"}", 1.0);
    at_least("kintsugi_memory_budget_bytes", 1.0);
    at_least("kintsugi_tokens_total{kind=\"prompt\"}", 1.0);
    at_least("kintsugi_goals_open", 0.0);
    at_least("kintsugi_log_end_lsn", 6.0);
    // What only says how the machine is differs from run to run; what there is does not.
    let names: BTreeSet<&str> = samples.keys().filter_map(|name| name.split('{').next()).collect();
    insta::assert_json_snapshot!("metrics", names);
}

#[test]
fn seams_are_told_newest_first() {
    let folder = tempfile::tempdir().unwrap();
    write_log(folder.path(), &SEAM);
    let node = Node::start(folder.path());
    let page = node.get("/v1/seams?agent=support-17").document();
    let seams = page["seams"].as_array().unwrap();
    let ids: Vec<&str> = seams.iter().map(|seam| seam["recovery"]["recovery"].as_str().unwrap()).collect();
    assert!(ids.is_sorted_by(|newer, older| newer > older), "{ids:?}");
    // The node's own stages may have found more in what was written here.
    let seam = &seams[ids.iter().position(|id| *id == SEAM_ID).unwrap()];
    assert_eq!(seam["recovery"]["phase"], "completed");
    assert_eq!(seam["phases"].as_array().unwrap().len(), 3);
    insta::assert_json_snapshot!("seam", shape(seam));
    assert_eq!(node.get("/v1/seams?agent=support-18").document()["seams"], serde_json::json!([]));
}

#[test]
fn the_description_names_every_path_that_answers() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path());
    let document = node.get("/openapi.json").document();
    assert_eq!(document["openapi"], "3.1.0");
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            operations.push(format!("{} {path}", method.to_uppercase()));
            assert!(!operation["summary"].as_str().unwrap().is_empty());
            let promised: BTreeSet<u16> = operation["responses"]
                .as_object()
                .unwrap()
                .keys()
                .map(|status| status.parse().unwrap())
                .collect();
            if path != "/v1/events" {
                let path = path.replace("{id}", "nobody");
                let answer = if method == "get" { node.get(&path) } else { node.post(&path, "") };
                assert!(promised.contains(&answer.status), "{method} {path}: {answer:?}");
            }
        }
    }
    insta::assert_json_snapshot!("operations", operations);
    check_references(&document, &document);
}

/// What is referred to is there.
fn check_references(within: &Value, document: &Value) {
    match within {
        Value::Object(members) => {
            if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
            }
            members.values().for_each(|member| check_references(member, document));
        }
        Value::Array(items) => items.iter().for_each(|item| check_references(item, document)),
        _ => {}
    }
}
