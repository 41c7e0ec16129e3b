//! The main job through the program that a user runs: to the end, killed and resumed, and looked at afterwards.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use kintsugi_eventlog::LogReader as _;
use kintsugi_eventlog::embedded::ReadOnlyLog;
use serde_json::Value;

use crate::common::{example, kintsugi};

/// All goals of the example.
const ALL: usize = 300;

/// Few enough that a run of them can be killed and resumed again and again.
const FEW: usize = 24;

/// Events between two kills: about three goals' worth.
const EVENTS_PER_KILL: u64 = 40;

fn run_command(folder: &Path, goals: usize) -> Command {
    let mut command = kintsugi(&["run"]);
    command.arg(example()).args(["--quiet", "--format", "json", "--goal-count", &goals.to_string()]);
    command.arg("--data-dir").arg(folder);
    command
}

fn look(arguments: &[&str], folder: &Path) -> Vec<Value> {
    let output = kintsugi(arguments).arg("--data-dir").arg(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn summary(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn check_goals(summary: &Value, goals: usize) {
    let count = |name: &str| summary["goals"][name].as_u64().unwrap();
    assert_eq!(count("submitted"), goals as u64);
    assert_eq!(count("completed") + count("partial") + count("failed"), goals as u64);
    assert_eq!(count("failed"), 0);
    assert!(count("correct") <= count("judged"));
}

/// No order is refunded twice, and every refund is the outcome of an effect.
fn check_ledger(folder: &Path) {
    let shop = rusqlite::Connection::open(folder.join("files/shop.db")).unwrap();
    let ask = |sql: &str| shop.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(ask("SELECT count(*) - count(DISTINCT order_number) FROM refunds"), 0);
    assert_eq!(
        ask(
            "SELECT count(*) FROM refunds WHERE effect LIKE 'eff_%' AND effect NOT IN (SELECT effect FROM kintsugi_effects)"
        ),
        0
    );
}

/// The shipped model really is asked, about every anomaly; what it says is told, and nothing is diagnosed twice.
#[test]
fn the_main_job_may_ask_its_model_for_diagnoses() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = run_command(folder.path(), FEW);
    command.args(["--chaos", "0.5", "--seed", "3"]);
    command.env("KINTSUGI_HEALING__DIAGNOSE__BY_MODEL", "unsure");
    command.env("KINTSUGI_HEALING__DIAGNOSE__ASK_BELOW", "1.0");
    let told = summary(&command.output().unwrap());
    check_goals(&told, FEW);
    let diagnoses = look(&["watch", "diagnoses", "--from-beginning", "--until-end"], folder.path());
    let by: Vec<u64> =
        told["healing"]["diagnosed_by"].as_object().unwrap().values().filter_map(Value::as_u64).collect();
    assert_eq!(by.iter().sum::<u64>(), diagnoses.len() as u64);
    let about: BTreeSet<String> =
        diagnoses.iter().map(|told| told["data"]["anomalies"].to_string()).collect();
    assert_eq!(about.len(), diagnoses.len(), "an anomaly was diagnosed twice");
    let reasoning = |told: &Value| told["data"]["reasoning"].as_str().unwrap().to_owned();
    let answers = diagnoses.iter().filter(|told| reasoning(told).contains("the model, asked"));
    assert!(answers.count() > 0, "{:?}", diagnoses.first());
    let unasked = diagnoses.iter().find(|told| !reasoning(told).contains("; the model"));
    assert!(unasked.is_none(), "{unasked:?}");
}

#[test]
fn the_main_job_runs_to_its_end_and_can_be_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let told = summary(&run_command(folder.path(), ALL).output().unwrap());
    check_goals(&told, ALL);
    check_ledger(folder.path());
    let goals = &told["goals"];
    assert_eq!(goals["judged"].as_u64().unwrap(), ALL as u64);
    assert!(
        goals["correct"].as_u64().unwrap() * 100 >= ALL as u64 * 80,
        "too few goals are correct: {goals}"
    );
    assert_eq!(told["resumed"], false);
    assert!(told["steps"].as_u64().unwrap() >= ALL as u64);
    let budget = told["memory"]["budget_bytes"].as_u64().unwrap();
    assert!(told["memory"]["total_bytes_peak"].as_u64().unwrap() <= budget);

    let goals = look(&["goals", "list", "--format", "json"], folder.path());
    assert_eq!(goals.len(), ALL);
    assert!(goals.iter().all(|goal| !goal["result"].is_null()));
    let results = look(&["watch", "results", "--from-beginning", "--until-end"], folder.path());
    assert_eq!(results.len(), ALL);
    for result in &results {
        assert_eq!(result["specversion"], "1.0");
        assert_eq!(result["topic"], "kintsugi.results");
        assert!(result["type"].as_str().unwrap().starts_with("dev.kintsugi.result."));
    }
    let agents = look(&["agents", "list", "--format", "json"], folder.path());
    assert!(agents.iter().all(|agent| agent["goal"].is_null() && agent["queued"] == 0));
    // What is right never comes near an agent.
    let journal = look(&["watch", "agents", "--from-beginning", "--until-end"], folder.path());
    assert!(journal.iter().all(|event| event["data"]["goal"]["expect"].is_null()));

    let again = run_command(folder.path(), ALL).output().unwrap();
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("holds the finished run"));
}

/// How much the log in `folder` holds; nothing while there is none.
fn events(folder: &Path) -> u64 {
    ReadOnlyLog::open(folder.join("log")).map_or(0, |log| log.end_lsn().0)
}

/// Each goal has one result, and no agent's sequence has a gap or a repetition.
fn check_log(folder: &Path, goals: usize) {
    let results = look(&["watch", "results", "--from-beginning", "--until-end"], folder);
    let ended: BTreeSet<&str> =
        results.iter().map(|result| result["data"]["goal"].as_str().unwrap()).collect();
    assert_eq!((results.len(), ended.len()), (goals, goals));
    let mut last = BTreeMap::new();
    for event in look(&["watch", "agents", "--from-beginning", "--until-end"], folder) {
        let before = last.entry(event["subject"].to_string()).or_insert(0);
        let sequence = event["sequence"].as_u64().unwrap();
        assert_eq!(sequence, *before + 1, "{event}");
        *before = sequence;
    }
}

/// A run of so many goals that is killed each time so many events were written. Returns how often.
fn storm(goals: usize, flags: &[&str], events_per_kill: u64) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let (mut kills, mut killed_at) = (0, 0);
    let told = loop {
        let mut run = run_command(folder.path(), goals);
        let mut child = run.args(flags).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // The first kill comes as early as anything is in the log.
        let until = if kills == 0 { 1 } else { killed_at + events_per_kill };
        while events(folder.path()) < until && child.try_wait().unwrap().is_none() {
            std::thread::park_timeout(Duration::from_millis(2));
        }
        if child.try_wait().unwrap().is_some() {
            break summary(&child.wait_with_output().unwrap());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        killed_at = events(folder.path());
    };
    assert!(kills > 1, "the run ended before its second kill");
    check_goals(&told, goals);
    check_ledger(folder.path());
    check_log(folder.path(), goals);
    assert_eq!(told["resumed"], true);
    kills
}

#[test]
fn a_run_that_is_killed_over_and_over_comes_to_its_end() {
    storm(FEW, &[], EVENTS_PER_KILL);
}

/// Every fifth step is struck, and of the goals in progress most are swapped out.
const FAULTS_AND_SWAPPING: [&str; 6] = ["--chaos", "0.2", "--memory-budget", "12MiB", "--slots", "4"];

#[test]
fn a_run_with_faults_and_swapping_that_is_killed_over_and_over_comes_to_its_end() {
    storm(FEW, &FAULTS_AND_SWAPPING, EVENTS_PER_KILL);
}

#[test]
#[ignore = "long: run by `cargo xtask prove`"]
fn fifty_kills_with_faults_and_swapping_lose_and_repeat_nothing() {
    // 300 goals write some 6,500 events. Many more kills than are asked for, since each comes a little late.
    let kills = storm(ALL, &FAULTS_AND_SWAPPING, 80);
    println!("{kills} kills");
    assert!(kills >= 50, "{kills} kills");
}

#[test]
fn wrong_usage_is_told_with_the_place_and_the_next_step() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let check = |arguments: &[&str], status: i32, wanted: &str| {
        let output = kintsugi(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
        assert!(said.contains(wanted), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty(), "{arguments:?} wrote to stdout");
    };
    let example = example();
    let example = example.to_str().unwrap();
    check(&["run", "no-such-folder"], 2, "is no folder");
    check(&["run", path], 2, "it has no folder `agents`");
    check(&["run", example, "--data-dir", path, "--model", "no-such.gguf"], 3, "there is no model");
    check(&["run", example, "--data-dir", path, "--agents", "1"], 2, "each needs one");
    check(&["run", example, "--data-dir", path, "--log", "kafka://x"], 2, "is no HOST:PORT");
    check(&["goals", "list", "--data-dir", path], 3, "holds no run");
    check(&["watch", "nothing"], 2, "there is no topic");
    let truncated = folder.path().join("cut.gguf");
    std::fs::write(&truncated, b"GGUF\x03\0\0\0").unwrap();
    check(&["run", example, "--model", truncated.to_str().unwrap(), "--data-dir", path], 3, "cut.gguf");
}

#[test]
fn a_goal_that_cannot_be_taken_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let goals = folder.path().join("goals.jsonl");
    std::fs::write(&goals, "{\"text\":\"hello\",\"kind\":\"nobody\"}\n").unwrap();
    let mut command = kintsugi(&["run"]);
    command.arg(example()).arg("--goals").arg(&goals).args(["--quiet", "--format", "json"]);
    let output = command.arg("--data-dir").arg(folder.path().join("run")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("there is no kind of agent") && said.contains("goals.jsonl:1"), "{said}");

    std::fs::write(&goals, "{\"text\":\"fine\"}\n{\"txt\":1}\n").unwrap();
    let mut command = kintsugi(&["run"]);
    command.arg(example()).arg("--goals").arg(&goals);
    let output = command.arg("--data-dir").arg(folder.path().join("other")).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("goals.jsonl:2"));
}
