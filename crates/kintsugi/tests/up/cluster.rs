//! Nodes on a real Kafka, through the program that a user runs.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use kintsugi_broker::delete_group_with_java;
use kintsugi_types::{Clock as _, SystemClock};
use serde_json::{Value, json};

use crate::common::{example, kintsugi};
use crate::node::{Node, PATIENCE, example_goals, refused};

/// Topics of a test's own on the broker that tests share.
pub(crate) struct Cluster {
    pub(crate) brokers: String,
    log: String,
    pub(crate) prefix: String,
    pub(crate) folder: tempfile::TempDir,
}

impl Cluster {
    pub(crate) fn new(name: &str) -> Self {
        Self::on(&kintsugi_broker::shared::up().unwrap(), name)
    }

    /// The same on a broker of the test's own.
    pub(crate) fn on(broker: &str, name: &str) -> Self {
        let log = format!("kafka://{broker}");
        let now = SystemClock.now().timestamp_micros();
        let brokers = broker.to_owned();
        Self { brokers, log, prefix: format!("{name}-{now}"), folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = kintsugi(arguments);
        command
            .args(["--log", &self.log])
            .env("KINTSUGI_KAFKA__PREFIX", &self.prefix)
            .env("KINTSUGI_KAFKA__SESSION_TIMEOUT_MS", "6000")
            .env_remove("KINTSUGI_HTTP_TOKEN")
            .current_dir(self.folder.path());
        command
    }

    pub(crate) fn ask(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub(crate) fn lines(&self, arguments: &[&str]) -> Vec<Value> {
        let output = self.ask(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let told = String::from_utf8(output.stdout).unwrap();
        told.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(crate) fn up_command(&self, name: &str) -> Command {
        let mut command = self.command(&["up"]);
        command.arg(example()).args(["--data-dir", name, "--listen", "127.0.0.1:0", "--format", "json"]);
        command
    }

    pub(crate) fn up(&self, name: &str) -> Node {
        Node::spawn(&mut self.up_command(name), None)
    }

    pub(crate) fn publish(&self, goals: &[Value]) {
        let mut child = self
            .command(&["goals", "publish"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        for goal in goals {
            writeln!(stdin, "{goal}").unwrap();
        }
        drop(stdin);
        let told = child.wait_with_output().unwrap();
        assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    }
}

pub(crate) fn wait_until_ready(node: &Node) {
    let begun = Instant::now();
    while node.get("/readyz").status != 200 {
        assert!(begun.elapsed() < PATIENCE, "{:?}", node.get("/readyz"));
        std::thread::park_timeout(std::time::Duration::from_millis(20));
    }
}

#[test]
fn topics_are_made_once_and_a_node_without_them_says_how() {
    let cluster = Cluster::new("topics");
    let missing = cluster.up_command("data").output().unwrap();
    refused(&missing, 3, &["does not exist", "kintsugi topics create --log kafka://"]);
    assert!(!cluster.folder.path().join("data").exists(), "a start that is refused leaves nothing");
    let create =
        |partitions: &str| cluster.ask(&["topics", "create", "--partitions", partitions, "--format", "json"]);
    for is_new in [true, false] {
        let made = create("2");
        let told = String::from_utf8(made.stdout).unwrap();
        let topics: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(topics.len(), kintsugi_events::Topic::ALL.len());
        assert!(topics.iter().all(|topic| topic["is_new"] == is_new), "{topics:?}");
    }
    refused(&create("3"), 3, &["has 2 partitions, and 3 are wanted", "spread over two"]);
    let wrong = kintsugi(&["topics", "create", "--log", "kafka://nowhere"]).output().unwrap();
    refused(&wrong, 2, &["is no HOST:PORT"]);
}

#[test]
fn two_nodes_share_the_goals_and_one_goes_on_with_what_a_killed_one_leaves() {
    let cluster = Cluster::new("nodes");
    assert!(cluster.ask(&["topics", "create", "--partitions", "4"]).status.success());
    let (stays, dies) = (cluster.up("stays"), cluster.up("dies"));
    wait_until_ready(&stays);
    wait_until_ready(&dies);
    let goals = example_goals(24);
    let ids: Vec<String> = goals.iter().map(|goal| goal["id"].as_str().unwrap().to_owned()).collect();
    cluster.publish(&goals[..16]);
    for goal in &goals[16..] {
        assert_eq!(dies.publish(goal), goal["id"].as_str().unwrap());
    }
    dies.kill();
    // Whoever has the lanes after the session knows them all, and works each once.
    cluster.publish(&goals);
    stays.wait_for(&ids);
    let listed = cluster.lines(&["goals", "list", "--format", "json"]);
    assert_eq!(listed.len(), 24);
    for goal in &listed {
        assert_eq!(goal["state"], "completed", "{goal}");
    }
    let results = cluster.lines(&["watch", "results", "--from-beginning", "--until-end"]);
    let mut ended: Vec<&str> = results.iter().map(|event| event["data"]["goal"].as_str().unwrap()).collect();
    ended.sort_unstable();
    assert_eq!(ended, ids, "each goal once");
    // The goals may all have ended before the group gave up the one that was killed.
    let begun = Instant::now();
    let metrics = loop {
        let metrics = stays.get("/metrics").text;
        if metrics.contains("\nkintsugi_lanes 4") {
            break metrics;
        }
        assert!(begun.elapsed() < PATIENCE, "{metrics}");
        std::thread::park_timeout(std::time::Duration::from_millis(50));
    };
    assert!(metrics.contains("\nkintsugi_log_up 1"), "{metrics}");
    assert_eq!(stays.signal("TERM").0, Some(0));
}

#[test]
fn what_no_node_can_take_is_a_dead_letter_that_can_be_looked_at_and_sent_again() {
    let cluster = Cluster::new("letters");
    assert!(cluster.ask(&["topics", "create", "--partitions", "2"]).status.success());
    let node = cluster.up("data");
    wait_until_ready(&node);
    let goal = json!({"id": "odd", "kind": "nobody", "text": "Is anybody there?"});
    // As an outside producer sends it: no header, and on whatever partition.
    let topic = format!("{}.goals", cluster.prefix);
    let bare = [("nobody".to_owned(), goal.to_string()), ("nobody".to_owned(), "no goal".to_owned())];
    kintsugi_broker::send_with_java(cluster.log.strip_prefix("kafka://").unwrap(), &topic, &bare).unwrap();
    let letters = |count: usize| {
        let begun = Instant::now();
        loop {
            let letters = cluster.lines(&["dead-letters", "list", "--format", "json"]);
            if letters.len() >= count {
                return letters;
            }
            assert!(begun.elapsed() < PATIENCE, "{letters:?}");
        }
    };
    let first = letters(2);
    let find = |words: &str| first.iter().find(|letter| letter["reason"].as_str().unwrap().contains(words));
    assert_eq!(find("goal is not readable").unwrap()["original"], "no goal");
    let first = find("there is no kind of agent").unwrap();
    assert_eq!(cluster.lines(&["goals", "list", "--format", "json"])[0]["state"], "refused");
    let seen = cluster.lines(&["watch", "goals", "--from-beginning", "--until-end"]);
    assert!(seen.iter().any(|event| event["data"] == "no goal" && event["offset"].is_u64()), "{seen:?}");
    assert!(seen.iter().any(|event| event["data"] == goal), "{seen:?}");
    let original: Value = serde_json::from_str(first["original"].as_str().unwrap()).unwrap();
    assert_eq!(original["text"], goal["text"]);
    let id = first["id"].as_str().unwrap();
    let shown = cluster.ask(&["dead-letters", "show", id]);
    assert!(String::from_utf8(shown.stdout).unwrap().contains("Is anybody there?"));
    let replayed = cluster.ask(&["dead-letters", "replay", id]);
    assert_eq!(String::from_utf8(replayed.stdout).unwrap(), "odd published\n");
    // Nobody can take it yet.
    assert_eq!(letters(3).len(), 3);
    assert_eq!(node.signal("TERM").0, Some(0));
}

#[test]
fn a_cluster_that_nobody_used_for_long_knows_what_was_done() {
    let cluster = Cluster::new("forgotten");
    assert!(cluster.ask(&["topics", "create", "--partitions", "2"]).status.success());
    let goals = example_goals(9);
    let ids: Vec<String> = goals.iter().map(|goal| goal["id"].as_str().unwrap().to_owned()).collect();
    let before = cluster.up("before");
    cluster.publish(&goals[..8]);
    before.wait_for(&ids[..8]);
    assert_eq!(before.signal("TERM").0, Some(0));
    // After a week without a sign of life the broker forgets how far everybody had come; and the machine is another.
    delete_group_with_java(&cluster.brokers, &cluster.prefix).unwrap();
    let after = cluster.up("after");
    wait_until_ready(&after);
    cluster.publish(&goals[8..]);
    after.wait_for(&ids);
    // What comes after all that was there is refused when the lanes have looked at the rest.
    let again: Vec<Value> =
        goals.iter().map(|goal| json!({"id": goal["id"], "text": "Another text."})).collect();
    cluster.publish(&again);
    let begun = Instant::now();
    let letters = || cluster.lines(&["dead-letters", "list", "--format", "json"]);
    while letters().len() < again.len() {
        assert!(begun.elapsed() < PATIENCE, "{:?}", letters());
    }
    assert!(letters().iter().all(|letter| letter["reason"].to_string().contains("was taken before")));
    let results = cluster.lines(&["watch", "results", "--from-beginning", "--until-end"]);
    let mut ended: Vec<&str> = results.iter().map(|event| event["data"]["goal"].as_str().unwrap()).collect();
    ended.sort_unstable();
    assert_eq!(ended, ids, "each goal once");
    let mut last = std::collections::BTreeMap::new();
    for event in cluster.lines(&["watch", "agents", "--from-beginning", "--until-end"]) {
        let agent = event["subject"].to_string();
        let sequence = event["sequence"].as_u64().unwrap();
        assert_eq!(last.insert(agent, sequence).unwrap_or(0) + 1, sequence, "{event}");
    }
    let metrics = after.get("/metrics").text;
    assert!(metrics.contains("kintsugi_invariant_violations_total 0"), "{metrics}");
    let (status, said) = after.signal("TERM");
    assert_eq!(status, Some(0));
    assert_eq!(said.matches("Kafka has forgotten how far this lane had come").count(), 2, "{said}");
}
