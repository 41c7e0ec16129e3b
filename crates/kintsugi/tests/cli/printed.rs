//! What is printed for programs: the members that others may rely on.

use std::path::Path;
use std::sync::Arc;

use kintsugi_eventlog::embedded::Options;
use kintsugi_eventlog::{Append, EmbeddedLog, EventLog as _, NewRecord};
use kintsugi_events::{Envelope, Event, Payload};
use kintsugi_types::{Clock as _, SystemClock, SystemIds};
use serde_json::Value;

use super::common::{example, kintsugi};
use super::{ask, has, join, said};

const RESULT: [&str; 10] =
    ["goal", "agent", "status", "answer", "actions", "reason", "steps", "tokens", "usd", "wall_ms"];
const SCORES: [&str; 5] = ["coherence", "completeness", "latency", "memory", "consistency"];

fn check_summary(told: &Value) {
    has(
        told,
        &[
            "run",
            "data_dir",
            "example",
            "seed",
            "resumed",
            "wall_s",
            "goals",
            "agents",
            "steps",
            "tool_calls",
        ],
    );
    has(told, &["tokens", "healing", "health", "log", "memory"]);
    has(&told["goals"], &["submitted", "completed", "partial", "failed", "correct"]);
    has(&told["goals"], &["refused", "judged", "reasons"]);
    has(&told["agents"], &["total", "idle", "running", "degraded", "recovering", "failed"]);
    has(&told["tokens"], &["prompt", "cached", "completion"]);
    let healing = &told["healing"];
    has(healing, &["faults_injected", "anomalies", "diagnoses", "recoveries", "seams", "seconds_to_heal"]);
    has(&healing["seconds_to_heal"], &["p50", "p99"]);
    has(&told["health"], &["mean", "min"]);
    has(&told["log"], &["kind", "events", "bytes"]);
    has(&told["memory"], &["budget_bytes", "weights_bytes", "kv_bytes_peak", "total_bytes_peak"]);
    has(&told["memory"], &["resident_agents_peak", "swaps", "swaps_back", "forgotten", "host_bytes_peak"]);
    has(&told["memory"], &["process_bytes_peak", "wake_ms", "swap_in_ms", "lease_wait_ms"]);
    has(&told["memory"]["wake_ms"], &["count", "p50", "p99", "max"]);
    has(&told["memory"]["lease_wait_ms"], &["count", "p50", "p99", "max"]);
}

#[test]
fn a_finished_run_is_told_with_the_members_that_are_promised() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let mut command = kintsugi(&["run"]);
    command.arg(example()).args(["--goal-count", "3", "--format", "json"]).current_dir(path);
    // Without --data-dir, and then without it below.
    let run = said(&mut command);
    let summary = run.document();
    check_summary(&summary);
    // Nothing was healed, so nothing took a time.
    assert_eq!(summary["healing"]["seconds_to_heal"], serde_json::json!({"p50": null, "p99": null}));
    assert!(run.err.contains("running support-desk: 3 goals"), "{run:?}");
    assert!(!run.err.contains('\u{1b}'), "{run:?}");

    let place = summary["data_dir"].as_str().unwrap();
    let goals = ask(path, &["goals", "list", "--format", "json", "--data-dir", place]).lines();
    assert_eq!(goals.len(), 3);
    for goal in &goals {
        has(goal, &["id", "state", "kind", "agent", "text", "result"]);
        has(&goal["result"], &RESULT);
        has(&goal["result"], &["seams"]);
        assert_eq!(goal["state"], goal["result"]["status"]);
    }
    let id = goals[0]["id"].as_str().unwrap();
    assert_eq!(ask(path, &["goals", "show", id, "--format", "json"]).document(), goals[0]);

    let agents = ask(path, &["agents", "list", "--format", "json"]).lines();
    assert!(!agents.is_empty());
    for agent in &agents {
        has(agent, &["agent", "kind", "state", "residency", "health", "scores", "goal", "seams"]);
        assert_eq!(agent["residency"], "dormant");
        has(&agent["scores"], &SCORES);
    }
    let id = agents[0]["agent"].as_str().unwrap();
    assert_eq!(ask(path, &["agents", "show", id, "--format", "json"]).document(), agents[0]);

    ask(path, &["goals", "show", "nobody"]).is_refused(2, &["no goal nobody", "`kintsugi goals list`"]);
    ask(path, &["agents", "show", "nobody"]).is_refused(2, &["agent nobody", "`kintsugi agents list`"]);
    // Lists for people have headings.
    let list = ask(path, &["goals", "list"]);
    assert!(list.done().starts_with("GOAL "), "{list:?}");
    assert_eq!(list.out.lines().count(), 1 + 3);
    let list = ask(path, &["agents", "list"]);
    assert!(list.done().starts_with("AGENT "), "{list:?}");
    assert_eq!(list.out.lines().count(), 1 + agents.len());
    // No seams are told as such, and not on stdout, where a program may count lines.
    for more in [&[] as &[&str], &["--agent", "refunds-3"], &["--agent", "tool:refund"]] {
        let none = ask(path, &join(&[&["seams"], more]));
        assert_eq!((none.done(), none.err.contains("no seams")), ("", true), "{none:?}");
    }
    ask(path, &["seams", "--agent", "refunds-O"]).is_refused(2, &["refunds-O", "did you mean `refunds-"]);
    ask(path, &["seams", "--agent", "tool:refun"]).is_refused(2, &["did you mean `tool:refund`?"]);
}

/// Appends one event to the log of the run in `folder`.
fn append(folder: &Path, payload: Payload) {
    let subject = "support-17".parse().unwrap();
    let envelope = Envelope::new(&mut SystemIds, "/kintsugi/test".into(), subject, SystemClock.now());
    let record = NewRecord::from_event(&Event { envelope, payload }, 0).unwrap();
    let log = EmbeddedLog::open(folder.join("log"), Options::default()).unwrap();
    log.append_wait(&Append { records: vec![record], ..Append::default() }).unwrap();
    log.close().unwrap();
}

/// A run's folder whose log holds one event of each of these types, as the fixtures of `events` have them.
fn write_run(folder: &Path, types: &[&str]) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../events/tests/fixtures");
    let source: Arc<str> = "/kintsugi/test".into();
    let mut sequence = 0;
    let mut append = Append::default();
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
    std::fs::write(folder.join("manifest.json"), "{}").unwrap();
    let log = EmbeddedLog::open(folder.join("log"), Options::default()).unwrap();
    log.append_wait(&append).unwrap();
    log.close().unwrap();
}

#[test]
fn a_goal_and_an_agent_are_shown_for_people_unless_json_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write_run(
        path,
        &[
            "goal.published",
            "agent.created",
            "goal.accepted",
            "goal.started",
            "metric.measured",
            "recovery.planned",
            "recovery.started",
            "recovery.completed",
            "goal.ended",
            "result.completed",
        ],
    );
    let show = |words: &[&str]| ask(path, &join(&[words, &["--data-dir", "."]]));
    let goal = show(&["goals", "show", "ticket-1"]);
    assert_eq!(
        goal.done(),
        "goal          ticket-1\n\
         state         completed\n\
         kind          support\n\
         agent         support-17\n\
         text          Hi, order 10482 never came …\n\
         correct       -\n\
         expected      intent: \"not_received\"\n\
         answer        Your order is on its way.\n\
         actions       lookup_order {\"order\":10482}: ok\n\
         work          3 steps in 1234 ms, 812 prompt tokens, 41 generated, 0.0004 USD\n\
         seams         1\n"
    );
    assert_eq!(show(&["goals", "show", "ticket-1", "--format", "text"]).out, goal.out);
    assert_eq!(show(&["goals", "show", "ticket-1", "--format", "json"]).document()["state"], "completed");

    let agent = show(&["agents", "show", "support-17"]);
    assert_eq!(
        agent.done(),
        "agent         support-17\n\
         kind          support\n\
         state         idle\n\
         residency     dormant\n\
         goal          -\n\
         goals         0 queued, 1 ended\n\
         journal       4 events\n\
         health        0.71\n\
         coherence     1.00\n\
         completeness  0.00\n\
         latency       not measured\n\
         memory        1.00\n\
         consistency   not measured\n\
         seams         rec_01931f2a7c0070008000000000000001 tool_failure: retry_with_backoff completed\n"
    );
    assert_eq!(show(&["agents", "show", "support-17", "--format", "text"]).out, agent.out);
    assert_eq!(show(&["agents", "show", "support-17", "--format", "json"]).document()["state"], "idle");
}

#[test]
fn what_others_wrote_reaches_the_terminal_as_text_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write_run(path, &["goal.published"]);
    // Its bytes are as the producer wrote them; a goal of two lines stays one of two lines.
    let goal = "{\"id\":\"a\",\"text\":\"one\\n\\u001b[2Jtwo\"}";
    let payload = Payload::from_json("dev.kintsugi.goal.published.v1", goal.as_bytes()).unwrap();
    append(path, payload);
    let told = ask(path, &["goals", "show", "a", "--data-dir", "."]);
    assert!(told.done().contains("text          one\n               [2Jtwo\n"), "{told:?}");
    assert!(ask(path, &["goals", "list", "--data-dir", "."]).done().contains("one  [2Jtwo"));
}

#[test]
fn a_seam_is_told_from_the_metric_to_the_outcome() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write_run(
        path,
        &[
            "goal.published",
            "agent.created",
            "goal.accepted",
            "goal.started",
            "metric.measured",
            "anomaly.detected",
            "diagnosis.made",
            "recovery.planned",
            "recovery.started",
            "recovery.completed",
        ],
    );
    let at = ["--data-dir", ".", "--format", "json"];
    let seams = ask(path, &join(&[&["seams"], &at])).lines();
    assert_eq!(seams.len(), 1);
    let seam = &seams[0];
    let metric = &seam["metrics"][0];
    has(metric, &["agent", "goal", "step", "state", "health", "scores", "confidence", "similarity"]);
    has(metric, &["context_ratio", "latency_ms", "tokens", "tool"]);
    has(&metric["scores"], &SCORES);
    has(&metric["latency_ms"], &["queue", "think", "tool", "total"]);
    has(&metric["tokens"], &["prompt", "cached", "completion"]);
    has(&metric["tool"], &["name", "ok", "error_tier"]);
    let anomaly = &seam["anomalies"][0];
    has(anomaly, &["anomaly", "agent", "goal", "kind", "metric", "value", "baseline", "ratio", "window"]);
    has(anomaly, &["severity"]);
    let diagnosis = &seam["diagnosis"];
    has(diagnosis, &["diagnosis", "agent", "anomalies", "fault_type", "severity", "root_cause"]);
    has(diagnosis, &["recommended_action", "recoverable", "confidence", "diagnosed_by", "reasoning"]);
    let recovery = &seam["recovery"];
    has(recovery, &["recovery", "diagnosis", "agent", "phase", "action", "rung", "parameters", "policy"]);
    has(recovery, &["attempt", "mode", "health_before", "health_after", "state_before", "state_after"]);
    has(recovery, &["duration_ms", "outcome"]);
    let phases: Vec<&str> =
        seam["phases"].as_array().unwrap().iter().map(|phase| phase["phase"].as_str().unwrap()).collect();
    assert_eq!(phases, ["planned", "started", "completed"]);

    assert_eq!(ask(path, &join(&[&["seams", "--agent", "support-17"], &at])).lines(), seams);
    ask(path, &join(&[&["seams", "--agent", "support-1"], &at])).is_refused(2, &["mean `support-17`?"]);
    let text = ask(path, &["seams", "--data-dir", "."]);
    assert!(text.done().starts_with("TIME "), "{text:?}");
    assert!(text.done().contains("retry_with_backoff completed in 180 ms, health 0.71 to 0.97"), "{text:?}");

    // In the middle of its work, with its last seams.
    let agent = ask(path, &join(&[&["agents", "show", "support-17"], &at])).document();
    has(&agent["seams"][0], &["recovery", "fault_type", "action", "phase"]);
    assert_eq!(agent["goal"], "ticket-1");
    assert!(agent["residency"].is_null(), "only its node knows");
    assert_eq!(agent["scores"]["completeness"], 0.0);
    let goal = ask(path, &join(&[&["goals", "show", "ticket-1"], &at])).document();
    assert_eq!((goal["state"].as_str(), goal["result"].is_null()), (Some("running"), true));

    let watched = ["watch", "recoveries", "kintsugi.anomalies", "--from-beginning", "--until-end"];
    let events = ask(path, &join(&[&watched, &at[..2]])).lines();
    assert_eq!(events.len(), 4);
    for event in &events {
        has(
            event,
            &["specversion", "id", "source", "type", "subject", "time", "data", "partitionkey", "tenant"],
        );
        has(event, &["topic", "partition", "offset"]);
    }
}
