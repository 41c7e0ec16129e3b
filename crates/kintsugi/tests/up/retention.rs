//! A node that keeps little of its log: what is left tells the same of its agents, and what is not is told.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::kintsugi;
use crate::node::{Node, PATIENCE, example_goals, refused, up_command};

const GOALS: usize = 60;

fn start(folder: &Path) -> Node {
    let mut command = up_command(folder);
    command.env("KINTSUGI_LOG__RETENTION_HOURS", "0").env("KINTSUGI_LOG__RETENTION_BYTES", "32KiB");
    Node::spawn(command.env("KINTSUGI_LOG__SEGMENT_BYTES", "16KiB"), None)
}

/// What a node tells of its agents, but for what only their newest metrics and recoveries tell.
fn agents(node: &Node) -> BTreeMap<String, Value> {
    let told = node.get("/v1/agents?limit=1000").document();
    let known = told["agents"].as_array().unwrap().iter().filter(|agent| agent["sequence"] != 0);
    known
        .map(|agent| {
            let members = ["kind", "goal", "queued", "goals_ended", "sequence", "quarantined"];
            let told = members.map(|member| (member.to_owned(), agent[member].clone()));
            (agent["agent"].as_str().unwrap().to_owned(), told.into_iter().collect())
        })
        .collect()
}

/// A count that a node tells in `/metrics`.
fn metric(node: &Node, name: &str) -> u64 {
    let metrics = node.get("/metrics").text;
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = line.unwrap_or_else(|| panic!("no {name} in {metrics}"));
    value.split('.').next().unwrap().parse().unwrap()
}

/// Waits until no goal is open and nothing was written for a while: what the node tells then stays so.
fn wait_until_quiet(node: &Node) {
    const LOOKS: usize = 20;
    let begun = Instant::now();
    let (mut end, mut unchanged) = (0, 0);
    while unchanged < LOOKS {
        assert!(begun.elapsed() < PATIENCE, "the node goes on writing");
        std::thread::park_timeout(Duration::from_millis(50));
        let before = std::mem::replace(&mut end, metric(node, "kintsugi_log_end_lsn"));
        let is_quiet = end == before && metric(node, "kintsugi_goals_open") == 0;
        unchanged = if is_quiet { unchanged + 1 } else { 0 };
    }
}

#[test]
fn a_node_that_keeps_little_of_its_log_knows_its_agents_and_says_what_is_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path());
    let goals: Vec<String> = example_goals(GOALS).iter().map(|goal| node.publish(goal)).collect();
    node.wait_for(&goals);
    let begun = Instant::now();
    while metric(&node, "kintsugi_log_start_lsn") == 0 {
        assert!(begun.elapsed() < PATIENCE, "nothing is deleted");
        std::thread::park_timeout(Duration::from_millis(50));
    }
    wait_until_quiet(&node);
    let before = agents(&node);
    assert!(!before.is_empty());
    node.get_with("/v1/events", &[("last-event-id", "0")]).is_problem(410, None);
    node.kill();
    // The cache is only a cache.
    std::fs::remove_dir_all(folder.path().join("data/store")).unwrap();

    let node = start(folder.path());
    assert_eq!(agents(&node), before);
    assert_eq!(metric(&node, "kintsugi_contradictions"), 0);
    assert_eq!(metric(&node, "kintsugi_goals_open"), 0);
    assert_eq!(metric(&node, "kintsugi_invariant_violations_total"), 0);
    let oldest = metric(&node, "kintsugi_log_start_lsn");
    let (first, _) = node.events("from=beginning", None).next().unwrap();
    assert!(first >= oldest);

    let ask = |arguments: &[&str]| {
        let mut command = kintsugi(arguments);
        command.args(["--data-dir", "data"]).current_dir(folder.path()).output().unwrap()
    };
    let watched = ask(&["watch", "agents", "--from-beginning", "--until-end"]);
    assert!(watched.status.success());
    let said = String::from_utf8_lossy(&watched.stderr).into_owned();
    assert!(said.contains("events before") && said.contains("are deleted"), "{said}");
    let (agent, told) = before.first_key_value().unwrap();
    let newest = told["sequence"].to_string();
    refused(&ask(&["agents", "show", agent, "--at", "1"]), 2, &["deleted"]);
    assert!(ask(&["agents", "show", agent, "--at", &newest]).status.success());
    assert!(ask(&["goals", "list"]).status.success());

    // It goes on to work.
    let more = node.publish(&serde_json::json!({"text": "hello"}));
    node.wait_for(&[more]);
}
