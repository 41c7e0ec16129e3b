//! What became of a fault, told from logs that were written by hand.

use std::collections::BTreeSet;
use std::path::Path;

use kintsugi_events::{AnomalyKind, Envelope, Event, Payload};
use kintsugi_types::{GoalId, SeededIds, Timestamp};
use serde_json::{Value, json};

use super::join::{Case, Joined, join};
use super::report::{CleanReport, Report, SeedReport, Tally};
use super::table;
use super::trace::Trace;

/// A log in the making: each event comes ten milliseconds after the one before.
struct Story {
    trace: Trace,
    ids: SeededIds,
    events: i64,
    recoveries: u64,
    /// The newest metric.
    measured: Option<kintsugi_types::EventId>,
}

impl Story {
    fn new() -> Self {
        Self { trace: Trace::default(), ids: SeededIds::new(7), events: 0, recoveries: 0, measured: None }
    }

    /// The event of a fixture, with other members.
    fn tell(&mut self, name: &str, subject: &str, changed: &Value) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../events/tests/fixtures");
        let text = std::fs::read_to_string(folder.join(format!("{name}.v1.json"))).unwrap();
        let mut data: Value = serde_json::from_str(&text).unwrap();
        for (member, value) in changed.as_object().unwrap() {
            data[member] = value.clone();
        }
        let payload = Payload::from_json(&format!("dev.kintsugi.{name}.v1"), data.to_string().as_bytes());
        let time = Timestamp::from_timestamp_millis(self.events * 10).unwrap();
        let mut envelope =
            Envelope::new(&mut self.ids, "/kintsugi/test".into(), subject.parse().unwrap(), time);
        envelope.goal = changed["goal"].as_str().map(|goal| GoalId::new(goal).unwrap());
        envelope.causation = self.measured;
        if name == "metric.measured" {
            self.measured = Some(envelope.id);
        }
        self.events += 1;
        self.trace.take(Event { envelope, payload: payload.unwrap() });
    }

    fn fault(&mut self, kind: &str, goal: &str, step: u32) {
        let edge = if kind.contains("tool_") || kind.contains("bloat") { "tool" } else { "model" };
        self.tell(
            "fault.injected",
            "a-1",
            &json!({"agent": "a-1", "goal": goal, "step": step, "kind": kind, "edge": edge}),
        );
    }

    fn step(&mut self, goal: &str, step: u32) {
        self.tell("thought.recorded", "a-1", &json!({"goal": goal, "step": step}));
        self.measure(goal, step);
    }

    fn measure(&mut self, goal: &str, step: u32) {
        self.tell("metric.measured", "a-1", &json!({"agent": "a-1", "goal": goal, "step": step}));
    }

    /// An anomaly with its diagnosis; returns the number of both.
    fn find(&mut self, kind: &str, subject: &str, goal: Option<&str>, step: u32) -> u64 {
        self.recoveries += 1;
        let number = self.recoveries;
        let (anomaly, diagnosis) = (id("ano", number), id("dia", number));
        self.tell(
            "anomaly.detected",
            subject,
            &json!({"anomaly": anomaly, "agent": subject, "goal": goal, "kind": kind, "step": step}),
        );
        self.tell(
            "diagnosis.made",
            subject,
            &json!({"diagnosis": diagnosis, "agent": subject, "anomalies": [anomaly]}),
        );
        number
    }

    /// One phase of the recovery for a diagnosis.
    fn recover(&mut self, number: u64, phase: &str, action: &str, subject: &str, place: (Option<&str>, u32)) {
        let (goal, step) = place;
        self.tell(
            &format!("recovery.{phase}"),
            subject,
            &json!({"recovery": id("rec", number), "diagnosis": id("dia", number), "agent": subject, "goal": goal,
                "phase": phase, "action": action, "step": step}),
        );
    }

    fn end(&mut self, goal: &str, status: &str) {
        self.tell("goal.published", "a-1", &json!({"id": goal, "goal": goal, "expect": {}}));
        let result = if status == "completed" { "result.completed" } else { "result.shortened" };
        self.tell(result, "a-1", &json!({"goal": goal, "agent": "a-1", "status": status}));
    }
}

fn id(prefix: &str, number: u64) -> String {
    format!("{prefix}_{number:032x}")
}

fn kinds(anomalies: &[AnomalyKind]) -> Vec<&'static str> {
    anomalies.iter().map(|kind| kind.name()).collect()
}

fn only<'a, 'b>(joined: &'b Joined<'a>) -> &'b Case<'a> {
    assert_eq!(joined.cases.len(), 1);
    &joined.cases[0]
}

/// A call that fails and is made again with success.
fn mended() -> Story {
    let mut story = Story::new();
    story.fault("tool_error", "g", 2);
    story.step("g", 2);
    let number = story.find("tool_failure", "a-1", Some("g"), 2);
    story.recover(number, "planned", "retry_with_backoff", "a-1", (Some("g"), 2));
    story.recover(number, "started", "retry_with_backoff", "a-1", (Some("g"), 2));
    story.measure("g", 2);
    story.recover(number, "completed", "retry_with_backoff", "a-1", (Some("g"), 2));
    story.end("g", "completed");
    story
}

#[test]
fn a_fault_is_followed_to_what_mended_it_and_what_that_took() {
    let story = mended();
    let joined = join(&story.trace);
    let case = only(&joined);
    assert!(case.is_ended && case.is_measured && !case.is_told);
    assert_eq!((case.anomalies.len(), case.recoveries.len()), (1, 1));
    let heal = case.heal.unwrap();
    assert_eq!(heal.action.name(), "retry_with_backoff");
    assert_eq!((heal.steps, heal.tokens), (2, 853));
    assert!((heal.ms - 80.0).abs() < 1e-9, "{heal:?}");
    assert_eq!(case.became.unwrap().is_correct, Some(true));
    assert_eq!((joined.after_effects.len(), joined.false_alarms.len(), joined.clean_steps), (0, 0, 0));
}

#[test]
fn a_try_that_a_second_fault_met_is_mended_by_what_mended_the_second() {
    let mut story = Story::new();
    story.fault("tool_error", "g", 1);
    story.step("g", 1);
    let first = story.find("tool_failure", "a-1", Some("g"), 1);
    story.recover(first, "started", "retry_with_backoff", "a-1", (Some("g"), 1));
    story.fault("tool_timeout", "g", 1);
    story.recover(first, "failed", "retry_with_backoff", "a-1", (Some("g"), 1));
    story.measure("g", 1);
    let second = story.find("tool_failure", "a-1", Some("g"), 1);
    story.recover(second, "started", "retry_with_backoff", "a-1", (Some("g"), 1));
    story.measure("g", 1);
    story.recover(second, "completed", "retry_with_backoff", "a-1", (Some("g"), 1));
    let joined = join(&story.trace);
    let heals: Vec<u64> = joined.cases.iter().map(|case| case.heal.unwrap().steps).collect();
    assert_eq!(heals, [3, 2]);
    assert!(joined.cases.iter().all(|case| case.anomalies.len() == 1 && case.recoveries.len() == 1));
}

#[test]
fn what_comes_too_late_or_looks_otherwise_is_no_sign() {
    let mut story = Story::new();
    story.fault("slow_model", "g", 1);
    for step in 1..=6 {
        story.step("g", step);
        match step {
            2 => _ = story.find("loop", "a-1", Some("g"), step),
            3 | 5 => _ = story.find("high_latency", "a-1", Some("g"), step),
            _ => {}
        }
    }
    let joined = join(&story.trace);
    assert_eq!(only(&joined).anomalies.len(), 1);
    assert_eq!(only(&joined).anomalies[0].anomaly.step, 3);
    assert_eq!(kinds(&joined.after_effects), ["loop"]);
    assert_eq!(kinds(&joined.false_alarms), ["high_latency"]);
    assert_eq!(joined.clean_steps, 5);
}

#[test]
fn a_circle_shows_late_and_a_flooded_context_as_long_as_the_goal_lasts() {
    let mut story = Story::new();
    story.fault("stuck_thought", "g", 2);
    story.fault("context_bloat", "h", 1);
    story.step("g", 6);
    story.find("loop", "a-1", Some("g"), 6);
    story.step("h", 9);
    story.find("context_pressure", "a-1", Some("h"), 9);
    // Before it struck, and in another goal.
    story.step("i", 3);
    story.find("loop", "a-1", Some("i"), 3);
    let joined = join(&story.trace);
    assert!(joined.cases.iter().all(|case| case.anomalies.len() == 1 && !case.is_ended));
    assert_eq!(kinds(&joined.false_alarms), ["loop"]);
}

#[test]
fn a_fault_in_the_last_step_may_leave_nothing_to_be_found() {
    let mut story = Story::new();
    story.fault("stuck_thought", "g", 3);
    story.end("g", "completed");
    story.fault("slow_tool", "h", 1);
    story.step("h", 1);
    let joined = join(&story.trace);
    let told: Vec<_> = joined.cases.iter().map(|case| (case.is_measured, case.became.is_some())).collect();
    assert_eq!(told, [(false, true), (true, false)]);
}

#[test]
fn one_rebuilt_engine_stands_for_all_panics_before_it() {
    let mut story = Story::new();
    story.fault("engine_panic", "g", 1);
    story.fault("engine_panic", "h", 4);
    let number = story.find("engine_fault", "engine", None, 0);
    story.recover(number, "started", "rebuild_engine", "engine", (None, 0));
    story.recover(number, "completed", "rebuild_engine", "engine", (None, 0));
    story.find("engine_fault", "engine", None, 0);
    let joined = join(&story.trace);
    assert!(joined.cases.iter().all(|case| case.is_ended && case.heal.is_some()));
    assert_eq!(kinds(&joined.false_alarms), ["engine_fault"]);
}

#[test]
fn a_fault_of_a_shared_tool_belongs_to_the_step_that_showed_it() {
    let mut story = Story::new();
    story.fault("tool_error", "g", 1);
    story.step("g", 1);
    let shared = story.find("low_tool_success", "tool:refund", None, 0);
    story.recover(shared, "started", "circuit_breaker", "tool:refund", (None, 0));
    let own = story.find("tool_failure", "a-1", Some("g"), 1);
    story.recover(own, "started", "retry_with_backoff", "a-1", (Some("g"), 1));
    story.recover(shared, "completed", "circuit_breaker", "tool:refund", (None, 0));
    story.recover(own, "completed", "retry_with_backoff", "a-1", (Some("g"), 1));
    let joined = join(&story.trace);
    assert_eq!((only(&joined).anomalies.len(), only(&joined).recoveries.len()), (2, 2));
    assert_eq!(only(&joined).heal.unwrap().action.name(), "retry_with_backoff");
}

#[test]
fn who_watches_or_tells_a_person_mends_nothing() {
    let mut story = Story::new();
    story.fault("tool_unauthorized", "g", 1);
    story.step("g", 1);
    let number = story.find("tool_failure", "a-1", Some("g"), 1);
    story.recover(number, "started", "notify_human", "a-1", (Some("g"), 1));
    story.recover(number, "completed", "notify_human", "a-1", (Some("g"), 1));
    story.end("g", "partial");
    let joined = join(&story.trace);
    let case = only(&joined);
    assert!(case.is_told && case.is_ended && case.heal.is_none());
}

#[test]
fn what_the_recover_stage_gave_up_and_the_agent_completed_is_mended() {
    let mut story = Story::new();
    story.fault("stuck_thought", "g", 1);
    story.step("g", 3);
    let number = story.find("loop", "a-1", Some("g"), 3);
    for phase in ["planned", "started", "abandoned", "completed"] {
        story.recover(number, phase, "reset_state", "a-1", (Some("g"), 3));
    }
    assert!(only(&join(&story.trace)).heal.is_some());
}

/// What a suite of one run tells that went like `story`.
fn report_of(story: &Story) -> Report {
    let joined = join(&story.trace);
    let mut tally = Tally::new();
    tally.take(&joined, &BTreeSet::from([GoalId::new("g").unwrap()]));
    let mut report = Report {
        example: "shop".to_owned(),
        seed: 1,
        runs: 1,
        chaos: 0.2,
        mode: "act".to_owned(),
        compared_mode: Some("observe".to_owned()),
        goals: 2,
        kinds: std::collections::BTreeMap::new(),
        process_crashes: 0,
        goals_lost: 0,
        agents_failed_share: 0.0,
        false_alarms_per_1000_steps: 0.0,
        false_alarms: std::collections::BTreeMap::new(),
        after_effects: std::collections::BTreeMap::new(),
        clean: CleanReport::of(&story.trace, &joined),
        seeds: vec![SeedReport {
            seed: 1,
            faults: joined.cases.len(),
            correct: 2,
            of_clean: 1.0,
            compared_correct: Some(1),
            wall_s: 1.5,
        }],
        broken: vec!["seed 1: 1 goals have no result".to_owned()],
    };
    tally.close(&mut report);
    report
}

#[test]
fn the_report_has_the_members_that_others_rely_on() {
    let mut story = mended();
    story.fault("slow_model", "h", 1);
    story.step("h", 1);
    story.step("h", 2);
    story.step("i", 2);
    story.find("low_confidence", "a-1", Some("i"), 2);
    let mut told = serde_json::to_value(report_of(&story)).unwrap();
    // Kinds that did not strike look alike.
    let kinds = told["kinds"].as_object_mut().unwrap();
    assert_eq!(kinds.len(), kintsugi_events::FaultKind::ALL.len());
    kinds.retain(|_, kind| kind["runs"] != 0);
    insta::assert_json_snapshot!("report", told);
}

#[test]
fn the_table_is_read_from_left_to_right() {
    insta::assert_snapshot!("table", table::lines(&report_of(&mended())).join("\n"));
}
