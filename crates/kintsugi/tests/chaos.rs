//! The chaos suite through the program that a user runs.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use kintsugi_eventlog::LogReader as _;
use kintsugi_eventlog::embedded::ReadOnlyLog;
use serde_json::Value;

use crate::common::{example, kintsugi};

/// Events of a run after which it is killed: some goals are under way, and most are to come.
const EVENTS_BEFORE_KILL: u64 = 30;

fn suite(folder: &Path, goals: usize, more: &[&str]) -> Command {
    let mut command = kintsugi(&["chaos"]);
    command.arg(example()).args(["--format", "json", "--goal-count", &goals.to_string()]).args(more);
    command.current_dir(folder);
    command
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(output)))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The folders of suites below a current directory.
fn kept(folder: &Path) -> Vec<PathBuf> {
    let runs = folder.join(".kintsugi/support-desk");
    std::fs::read_dir(runs)
        .map_or_else(|_| Vec::new(), |all| all.map(|entry| entry.unwrap().path()).collect())
}

#[test]
fn a_suite_tells_of_every_kind_of_fault_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let options = ["--runs", "2", "--seed", "3", "--chaos", "0.3", "--compare", "observe"];
    let output = suite(folder.path(), 24, &options).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let told = report(&output);
    let sum = |member: &str| {
        let kinds = told["kinds"].as_object().unwrap().values();
        kinds.map(|kind| kind[member].as_u64().unwrap()).sum::<u64>()
    };
    let faults: u64 = told["seeds"].as_array().unwrap().iter().map(|s| s["faults"].as_u64().unwrap()).sum();
    assert!(faults > 0 && sum("found") > 0 && sum("healed") > 0, "{told}");
    assert_eq!(sum("runs"), faults);
    assert_eq!(sum("survived") + sum("failed") + sum("reached_a_person"), faults);
    assert_eq!((sum("found") + sum("missed"), sum("unended")), (faults, 0));
    assert_eq!((&told["process_crashes"], &told["goals_lost"]), (&0.into(), &0.into()));
    assert_eq!((&told["seed"], &told["goals"]), (&3.into(), &24.into()));
    let seeds: Vec<u64> =
        told["seeds"].as_array().unwrap().iter().map(|s| s["seed"].as_u64().unwrap()).collect();
    assert_eq!(seeds, [3, 4]);
    assert!(said(&output).contains("seed 4: "), "{}", said(&output));
    assert_eq!(kept(folder.path()), Vec::<PathBuf>::new());
}

#[test]
fn a_run_that_is_killed_is_counted_and_the_suite_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = suite(folder.path(), 24, &[]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let events = || {
        let suites = kept(folder.path());
        Some(ReadOnlyLog::open(suites.first()?.join("seed-1/log")).ok()?.end_lsn().0)
    };
    while events().is_none_or(|events| events < EVENTS_BEFORE_KILL) {
        assert!(child.try_wait().unwrap().is_none(), "the suite ended before its run could be killed");
        std::thread::park_timeout(Duration::from_millis(2));
    }
    let id = child.id();
    let run = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    assert!(Command::new("kill").args(["-KILL", run.trim()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let told = report(&output);
    assert_eq!((&told["process_crashes"], &told["goals_lost"]), (&1.into(), &0.into()));
    assert_eq!(told["broken"].as_array().unwrap().len(), 1, "{told}");
    // What broke is kept, to be looked at.
    assert_eq!(kept(folder.path()).len(), 1);
    assert!(said(&output).contains("crashes of the process"), "{}", said(&output));
}

#[test]
fn a_suite_that_cannot_be_done_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let check = |arguments: &[&str], status: i32, wanted: &str| {
        let output = kintsugi(arguments).current_dir(folder.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{}", said(&output));
        assert!(said(&output).contains(wanted), "{}", said(&output));
        assert!(output.stdout.is_empty());
    };
    let example = example();
    let example = example.to_str().unwrap();
    check(&["chaos", "no-such-folder"], 2, "is no folder");
    check(&["chaos", example, "--runs", "0"], 2, "--runs");
    check(&["chaos", example, "--chaos", "2"], 2, "lies in [0, 1]");
    // What a run has to say is said by the suite.
    let mut command = kintsugi(&["chaos", example]);
    command.current_dir(folder.path()).env("KINTSUGI_MODEL__NAME", "no-such.gguf");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("there is no model"), "{}", said(&output));
}
