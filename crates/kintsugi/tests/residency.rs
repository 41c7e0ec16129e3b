//! Many agents in little memory, through the program that a user runs: the budget holds, everyone has a turn, and the
//! run leaves a picture of it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::path::Path;

use serde_json::Value;

use crate::common::{example, kintsugi};

const MIB: u64 = 1 << 20;

/// Leaves 6.4 MiB for keys and values: a batch of twelve, but not the two dozen goals that are in progress.
const TWELVE_AT_ONCE: u64 = 16 * MIB;

/// Leaves a batch of four enough, and none of those that wait. The model's least is 10.9 MiB.
const FOUR_AT_ONCE: u64 = 12 * MIB;

/// What the process may take beside the model's budget and the keys and values in host memory: the program and its
/// threads, its log and cache, all agents with their goals, and the view of the whole run at its end.
const PROCESS_BESIDE: u64 = 384 * MIB;

/// The longest that a call for the model lets more urgent ones pass.
const PATIENCE_MS: f64 = 60_000.0;

/// Runs the example and returns its summary. It fails where a goal has no result or an invariant was broken.
fn run(folder: &Path, (agents, slots): (u64, u64), budget: u64, chaos: &str) -> Value {
    let (agents, slots, budget) = (agents.to_string(), slots.to_string(), budget.to_string());
    let mut command = kintsugi(&["run"]);
    command.arg(example()).args(["--agents", &agents, "--goal-count", &agents, "--slots", &slots]);
    command.args(["--memory-budget", &budget, "--chaos", chaos, "--quiet", "--format", "json"]);
    // Backtraces of the panics on purpose would be read from more debug information than all else takes.
    let output = command.arg("--data-dir").arg(folder).env("RUST_BACKTRACE", "0").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn check(told: &Value, agents: u64, budget: u64) {
    let count = |group: &str, name: &str| told[group][name].as_u64().unwrap();
    assert_eq!(count("goals", "submitted"), agents);
    let ended = ["completed", "partial", "failed"].map(|end| count("goals", end));
    assert_eq!(ended.iter().sum::<u64>(), agents);
    assert!(count("agents", "failed") * 1000 <= agents * 23, "{}", told["agents"]);
    let memory = |name: &str| count("memory", name);
    assert_eq!(memory("budget_bytes"), budget);
    assert!(memory("total_bytes_peak") <= budget, "{}", told["memory"]);
    assert!(memory("swaps") > 0 && memory("swaps_back") > 0, "{}", told["memory"]);
    let allowed = budget + memory("host_bytes_peak") + PROCESS_BESIDE;
    assert!(memory("process_bytes_peak") <= allowed, "{}", told["memory"]);
    assert!(told["memory"]["lease_wait_ms"]["max"].as_f64().unwrap() <= PATIENCE_MS, "{}", told["memory"]);
}

/// The picture is well-formed XML of few points, and its newest one says that nobody is left in memory.
fn check_picture(folder: &Path) {
    let svg = std::fs::read_to_string(folder.join("residency.svg")).unwrap();
    let mut open: Vec<&str> = Vec::new();
    for tag in svg.split('<').skip(1) {
        let (tag, text) = tag.split_once('>').unwrap();
        assert!(!text.contains('>'), "{text}");
        if let Some(closing) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(closing));
        } else if !tag.ends_with('/') {
            open.push(tag.split(' ').next().unwrap());
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
    }
    assert_eq!(open, Vec::<&str>::new());
    for course in ["resident", "swapped", "waiting", "dormant", "keys and values", "85 %"] {
        assert!(svg.contains(&format!(">{course}</text>")), "{course}");
    }
    let courses: Vec<&str> =
        svg.split("points=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert_eq!(courses.len(), 7);
    for course in courses {
        // A filled one goes along its upper edge and back along its lower one.
        assert!((2..=1200).contains(&course.split(' ').count()));
    }
}

#[test]
fn agents_whose_memory_exceeds_the_budget_are_swapped_and_all_come_to_their_end() {
    let folder = tempfile::tempdir().unwrap();
    let told = run(folder.path(), (200, 4), FOUR_AT_ONCE, "0.0");
    check(&told, 200, FOUR_AT_ONCE);
    check_picture(folder.path());
    assert_eq!(told["goals"]["failed"], 0);
}

#[test]
#[ignore = "takes some minutes; `cargo xtask prove` runs it"]
fn thousands_of_agents_come_to_their_end_in_little_memory_with_and_without_faults() {
    for chaos in ["0.0", "0.2"] {
        let folder = tempfile::tempdir().unwrap();
        let told = run(folder.path(), (4_882, 12), TWELVE_AT_ONCE, chaos);
        println!(
            "chaos {chaos}, {} s\n{}\n{}\n{}",
            told["wall_s"], told["goals"], told["agents"], told["memory"]
        );
        check(&told, 4_882, TWELVE_AT_ONCE);
        check_picture(folder.path());
        assert!(told["memory"]["swaps_back"].as_u64().unwrap() > 1_000);
        // Without the wait for its turn, which depends on who else uses the cores.
        assert!(told["memory"]["swap_in_ms"]["p99"].as_f64().unwrap() < 100.0);
    }
}
