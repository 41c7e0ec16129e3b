//! A node without a broker for long: it says so, refuses goals, keeps its memory, and goes on by itself.

use std::time::{Duration, Instant};

use kintsugi_broker::Broker;
use serde_json::json;

use crate::cluster::{Cluster, wait_until_ready};
use crate::node::{Node, PATIENCE, example_goals};

/// How much larger the node may grow while nothing that it has to say can be written, in bytes. What waits is bounded
/// by the queue of each lane, and agents stand still long before that.
const GROWTH_MAX: u64 = 64 << 20;

/// How often the node is looked at while the broker is away.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The memory that a process has, in bytes.
fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Looks until `is_so`, for as long as anything may take.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// The node says that the log is away, wherever it says so, and takes no goal.
fn is_away(node: &Node) {
    let ready = node.get("/readyz");
    assert_eq!(ready.status, 503, "{ready:?}");
    assert!(ready.text.contains("Kafka has not answered for"), "{ready:?}");
    assert_eq!(node.get("/healthz").status, 200, "it is alive");
    let metrics = node.get("/metrics").text;
    assert!(metrics.contains("\nkintsugi_log_up 0"), "{metrics}");
    let refused = node.post("/v1/goals", &json!({"text": "Where is my order 10482?"}).to_string());
    refused.is_problem(503, None);
    let detail = refused.document()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("Kafka has not answered for"), "{detail}");
}

/// A node works goals, and the broker goes away for at least `outage`.
fn outage(name: &str, outage: Duration) {
    let mut broker = Broker::start().unwrap();
    let cluster = Cluster::on(&broker.bootstrap(), name);
    assert!(cluster.ask(&["topics", "create", "--partitions", "4"]).status.success());
    let node = cluster.up("node");
    wait_until_ready(&node);
    // So many that the node still has work when the broker dies, however quick it is.
    let goals = example_goals(300);
    let ids: Vec<String> = goals.iter().map(|goal| goal["id"].as_str().unwrap().to_owned()).collect();
    cluster.publish(&goals);
    node.wait_for(&ids[..1]);
    let before = resident_bytes(node.pid());
    broker.kill().unwrap();
    let begun = Instant::now();
    until("the node says that it is not ready", || node.get("/readyz").status == 503);
    let noticed = begun.elapsed();
    let mut most = before;
    loop {
        is_away(&node);
        most = most.max(resident_bytes(node.pid()));
        if begun.elapsed() >= outage {
            break;
        }
        std::thread::park_timeout(LOOK_EVERY);
    }
    let away = begun.elapsed();
    broker.restart().unwrap();
    let begun = Instant::now();
    wait_until_ready(&node);
    let ready = begun.elapsed();
    assert_eq!(node.publish(&json!({"id": "after", "text": "Where is my order 10482?"})), "after");
    node.wait_for(&ids);
    node.wait_for(&["after".to_owned()]);
    most = most.max(resident_bytes(node.pid()));
    let results = cluster.lines(&["watch", "results", "--from-beginning", "--until-end"]);
    assert_eq!(results.len(), ids.len() + 1, "each goal once, and none that was refused");
    let metrics = node.get("/metrics").text;
    assert!(metrics.contains("\nkintsugi_log_up 1"), "{metrics}");
    assert!(
        metrics.contains("\nkintsugi_contradictions 0"),
        "what was read once more is not counted again: {metrics}"
    );
    // A node that has nothing to write notices it too.
    broker.kill().unwrap();
    until("the idle node says that it is not ready", || node.get("/readyz").status == 503);
    is_away(&node);
    broker.restart().unwrap();
    wait_until_ready(&node);
    println!(
        "away for {away:?}, noticed after {noticed:?}, ready {ready:?} after the broker was started; resident {} MiB \
         before, {} MiB at most",
        before >> 20,
        most >> 20
    );
    assert!(most < before + GROWTH_MAX, "it grew from {before} to {most} bytes");
    let (status, said) = node.signal("TERM");
    assert_eq!(status, Some(0), "{said}");
    for words in ["Kafka has not answered for", "Kafka answers again"] {
        assert_eq!(said.matches(words).count(), 2, "{words:?} is to be said once for each outage: {said}");
    }
}

#[test]
fn a_node_without_a_broker_says_so_takes_no_goals_and_goes_on_by_itself() {
    outage("outage-short", Duration::from_secs(22));
}

#[test]
#[ignore = "takes some minutes; `cargo xtask prove` runs it"]
fn a_node_is_two_minutes_without_a_broker() {
    outage("outage-long", Duration::from_mins(2));
}
