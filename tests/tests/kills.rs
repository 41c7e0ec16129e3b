//! A node is killed at every boundary of durability and at moments of chance; nothing acknowledged is lost, nothing
//! is done twice.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kintsugi_eventlog::embedded::{Boundary, ReadOnlyLog};
use kintsugi_events::GoalStatus;
use kintsugi_tests::audit::Audit;
use kintsugi_tests::counting_server::CountingServer;
use kintsugi_tests::scripted_node::{ledger, prepare};

const GOALS: usize = 24;

/// The longest that any one life of the node may take.
const LIFE_MAX: Duration = Duration::from_mins(1);

fn server() -> CountingServer {
    CountingServer::start(Arc::new(|_| (200, r#"{"charged":true}"#.to_owned()))).unwrap()
}

fn live(folder: &Path, die_at: Option<&str>, killed_after: Option<Duration>) -> ExitStatus {
    let mut command = Command::new(env!("CARGO_BIN_EXE_node-under-test"));
    command.arg(folder).arg(GOALS.to_string()).stderr(Stdio::inherit());
    if let Some(die_at) = die_at {
        command.args(["--die-at", die_at]);
    }
    let mut child = command.spawn().unwrap();
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        let is_due = killed_after.is_some_and(|after| begun.elapsed() >= after);
        assert!(begun.elapsed() < LIFE_MAX, "the node hangs in {}", folder.display());
        if is_due {
            child.kill().unwrap();
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Every promise, checked from outside after the node came to its end.
fn check(folder: &Path, server: &CountingServer, kills: usize) {
    let log = ReadOnlyLog::open(folder.join("log")).unwrap();
    let audit = Audit::of(&log).unwrap();
    assert_eq!(audit.contradictions, Vec::<String>::new());
    assert_eq!(audit.goals.len(), GOALS);
    assert_eq!(audit.open_goals(), 0);
    assert!(audit.checkpoints > 0);
    let acts = server.acts();
    let recorded = ledger(folder).unwrap();
    let mut unsure = 0;
    for (goal, results) in &audit.goals {
        let [result] = results.as_slice() else { panic!("goal {goal} has {} results", results.len()) };
        let number: i64 = goal.as_str().trim_start_matches("goal-").parse().unwrap();
        let charged = acts.get(&format!("/charge/{number}")).copied().unwrap_or(0);
        let rows = recorded.get(&number).copied().unwrap_or(0);
        assert!(charged <= 1, "goal {goal} was charged {charged} times");
        assert!(rows <= 1, "goal {goal} was recorded {rows} times");
        match result.status {
            GoalStatus::Completed => assert_eq!((charged, rows), (1, 1), "goal {goal} completed"),
            // A crash in the middle of an unkeyed call: nobody can tell, so it is never made again.
            GoalStatus::Partial => {
                assert!(result.reason.as_ref().unwrap().contains("nobody can tell"), "{:?}", result.reason);
                assert_eq!(rows, 0);
                unsure += 1;
            }
            GoalStatus::Failed => panic!("goal {goal} failed: {:?}", result.reason),
        }
    }
    // Only calls under way at a kill can be unsure: at most the model's slots for each.
    assert!(unsure <= 8 * kills, "{unsure} goals are unsure after {kills} kills");
}

#[test]
fn a_run_without_kills_completes_every_goal() {
    let folder = tempfile::tempdir().unwrap();
    let server = server();
    prepare(folder.path(), &server.url()).unwrap();
    assert!(live(folder.path(), None, None).success());
    check(folder.path(), &server, 0);
}

#[test]
fn a_kill_at_each_boundary_loses_and_repeats_nothing() {
    let boundaries =
        Boundary::ALL.iter().map(|boundary| boundary.name()).chain(["effect-start", "effect-end"]);
    for boundary in boundaries {
        for count in [1, 2, 5, 17] {
            let folder = tempfile::tempdir().unwrap();
            let server = server();
            prepare(folder.path(), &server.url()).unwrap();
            let status = live(folder.path(), Some(&format!("{boundary}:{count}")), None);
            assert!(!status.success(), "{boundary}:{count} was never passed");
            assert!(live(folder.path(), None, None).success(), "after {boundary}:{count}");
            check(folder.path(), &server, 1);
        }
    }
}

/// Kills at moments of chance, over and over, in one run: each at most so many microseconds after a life began.
/// Returns whether there was one before the run ended.
fn is_stormed(kills: u32, seed: u64, latest_us: u64) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let server = server();
    prepare(folder.path(), &server.url()).unwrap();
    let mut chance = seed;
    let mut killed = 0;
    for _ in 0..kills {
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let after = Duration::from_micros((chance >> 33) % latest_us);
        if live(folder.path(), None, Some(after)).success() {
            break;
        }
        killed += 1;
    }
    if killed == 0 {
        return false;
    }
    assert!(live(folder.path(), None, None).success());
    check(folder.path(), &server, killed);
    true
}

/// A storm whose first kill comes before the end of the run, however quick the machine is just now.
fn storm(kills: u32, seed: u64) {
    let mut latest_us = 60_000;
    while !is_stormed(kills, seed, latest_us) {
        latest_us /= 2;
        assert!(latest_us > 1_000, "every run ended before its first kill");
    }
}

#[test]
fn a_storm_of_kills_loses_and_repeats_nothing() {
    for seed in 1..=4 {
        storm(12, seed);
    }
}

#[test]
#[ignore = "long: run by `cargo xtask prove`"]
fn fifty_storms_of_kills_lose_and_repeat_nothing() {
    for seed in 100..150 {
        storm(50, seed);
    }
}
