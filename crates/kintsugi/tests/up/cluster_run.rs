//! The main job on a real Kafka: alone, beside others, interrupted, and while the broker is away.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use kintsugi_broker::{Broker, delete_below_with_java};
use serde_json::{Value, json};

use crate::cluster::{Cluster, wait_until_ready};
use crate::common::example;
use crate::node::{Node, PATIENCE, example_goals, refused};

/// A run that goes on by itself. It is killed with the test, however that ends.
struct Run {
    child: Child,
    said: Receiver<String>,
    heard: Vec<String>,
}

fn run_command(cluster: &Cluster, folder: &str, goals: usize) -> Command {
    let mut command = cluster.command(&["run"]);
    command.arg(example()).args(["--goal-count", &goals.to_string(), "--data-dir", folder]);
    command.args(["--format", "json"]);
    command
}

impl Run {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (tell, said) = channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Self { child, said, heard: Vec::new() }
    }

    /// Waits until it says something that fits.
    fn wait_for(&mut self, fits: impl Fn(&str) -> bool) {
        let begun = Instant::now();
        loop {
            // It tells its progress all the while.
            let left = PATIENCE.saturating_sub(begun.elapsed());
            let Ok(line) = self.said.recv_timeout(left) else { panic!("it only said {:?}", self.heard) };
            self.heard.push(line.clone());
            if fits(&line) {
                return;
            }
        }
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// Waits for its end, and returns status, document and what it said last.
    fn end(mut self) -> (Option<i32>, Value, String) {
        let begun = Instant::now();
        // What it writes to stdout at its end fits into the pipe.
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            self.heard.extend(self.said.try_iter());
            assert!(begun.elapsed() < PATIENCE, "it goes on and on: {:?}", self.heard);
            std::thread::park_timeout(Duration::from_millis(20));
        };
        let mut told = String::new();
        std::io::Read::read_to_string(&mut self.child.stdout.take().unwrap(), &mut told).unwrap();
        self.heard.extend(self.said.iter());
        let document = serde_json::from_str(&told).unwrap_or(Value::Null);
        (status.code(), document, self.heard.last().cloned().unwrap_or_default())
    }

    /// The document of a run that ended well.
    fn summary(self) -> Value {
        let (status, document, said) = self.end();
        assert_eq!(status, Some(0), "{said}");
        document
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until so many goals of the cluster have ended. A run tells its progress too seldom for whoever wants to be in
/// the midst of it: on a quick machine all of its goals end between two lines.
fn wait_for_results(cluster: &Cluster, count: usize) {
    let mut watch = cluster.command(&["watch", "results", "--from-beginning"]);
    let mut child = watch.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (tell, told) = channel();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|_| tell.send(())));
    let seen = (0..count).take_while(|_| told.recv_timeout(PATIENCE).is_ok()).count();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(seen, count, "so many goals have ended");
}

/// The goals of the run that `summary` tells of: so many, each with one result, each published once.
fn check(cluster: &Cluster, summary: &Value, goals: usize) {
    let run = summary["run"].as_str().unwrap();
    let counts = &summary["goals"];
    let count = |name: &str| usize::try_from(counts[name].as_u64().unwrap()).unwrap();
    assert_eq!((count("submitted"), count("failed"), count("refused")), (goals, 0, 0), "{counts}");
    assert_eq!(count("completed") + count("partial"), goals, "{counts}");
    assert!(count("correct") * 100 >= count("judged") * 80, "too few goals are correct: {counts}");
    assert_eq!(summary["log"]["kind"], "kafka");
    assert!(summary["log"]["events"].as_u64().unwrap() > goals as u64 * 5, "{}", summary["log"]);
    assert!(summary["log"]["bytes"].as_u64().unwrap() > 1000, "{}", summary["log"]);
    assert!(summary["steps"].as_u64().unwrap() >= goals as u64, "{summary}");
    let of_run = |topic: &str, goal: &dyn Fn(&Value) -> Option<String>| {
        let mut times = BTreeMap::new();
        for event in cluster.lines(&["watch", topic, "--from-beginning", "--until-end"]) {
            if let Some(goal) = goal(&event).filter(|goal| goal.starts_with(run)) {
                *times.entry(goal).or_insert(0) += 1;
            }
        }
        times
    };
    let published = of_run("goals", &|event| {
        // What a lane sends on to another is no second publication.
        let is_published = event["source"] == "/kintsugi/goals";
        is_published.then(|| event["data"]["id"].as_str().unwrap().to_owned())
    });
    let ended = of_run("results", &|event| event["data"]["goal"].as_str().map(str::to_owned));
    for times in [&published, &ended] {
        assert_eq!(times.len(), goals, "{times:?}");
        assert!(times.values().all(|times| *times == 1), "{times:?}");
    }
}

fn make_topics(cluster: &Cluster, partitions: &str) {
    assert!(cluster.ask(&["topics", "create", "--partitions", partitions]).status.success());
}

#[test]
fn a_run_on_fresh_topics_works_every_goal_once_and_a_second_one_is_not_confused_by_it() {
    let cluster = Cluster::new("run");
    let missing = run_command(&cluster, "run-0", 12).output().unwrap();
    refused(&missing, 3, &["does not exist", "kintsugi topics create --log kafka://"]);
    let there = || std::fs::read_dir(cluster.folder.path()).unwrap().map(|entry| entry.unwrap().path());
    assert_eq!(there().collect::<Vec<_>>(), Vec::<PathBuf>::new(), "a start that is refused leaves nothing");
    // In the folder that the run makes for itself, and with goals whose ids are too long only behind the run's.
    let mut unnamed = cluster.command(&["run"]);
    refused(&unnamed.arg(example()).output().unwrap(), 3, &["does not exist"]);
    assert_eq!(there().count(), 0);
    make_topics(&cluster, "16");
    let outside = tempfile::tempdir().unwrap();
    let goals = outside.path().join("goals.jsonl");
    std::fs::write(&goals, json!({"id": "x".repeat(250), "text": "Hi"}).to_string()).unwrap();
    let mut long = cluster.command(&["run"]);
    let long = long.arg(example()).arg("--goals").arg(&goals).output().unwrap();
    refused(&long, 2, &["with the run's id before it", "shorten it"]);
    // What is refused only when the folder is locked.
    std::fs::write(&goals, json!({"kind": "nobody", "text": "Hi"}).to_string()).unwrap();
    let mut odd = cluster.command(&["run"]);
    refused(&odd.arg(example()).arg("--goals").arg(&goals).output().unwrap(), 2, &["nobody"]);
    assert_eq!(there().count(), 0);
    let first = Run::start(run_command(&cluster, "run-1", 24)).summary();
    check(&cluster, &first, 24);
    assert_eq!((&first["resumed"], &first["agents"]["total"]), (&json!(false), &json!(48)));
    // The first one has left: nobody waits for its session to be over.
    let second = Run::start(run_command(&cluster, "run-2", 12)).summary();
    check(&cluster, &second, 12);
    assert_ne!(first["run"], second["run"]);
    let again = run_command(&cluster, "run-1", 24).output().unwrap();
    refused(&again, 2, &["holds the finished run"]);
    let listed = cluster.lines(&["goals", "list", "--format", "json"]);
    assert_eq!(listed.len(), 36, "both are there for whoever looks");
}

#[test]
fn a_run_that_is_interrupted_and_killed_publishes_nothing_twice_when_it_goes_on() {
    // All that there are, so that something is left whenever it is ended.
    const GOALS: usize = 300;
    let cluster = Cluster::new("resumed-run");
    make_topics(&cluster, "4");
    let start = || Run::start(run_command(&cluster, "run", GOALS));
    let interrupted = start();
    wait_for_results(&cluster, 5);
    interrupted.signal("INT");
    let (status, _, said) = interrupted.end();
    assert_eq!(status, Some(130), "{said}");
    assert!(
        said.starts_with("interrupted after ") && said.ends_with("the same command resumes the run"),
        "{said}"
    );
    // Another log is another run.
    let mut elsewhere = run_command(&cluster, "run", GOALS);
    elsewhere.env("KINTSUGI_KAFKA__PREFIX", "elsewhere");
    refused(&elsewhere.output().unwrap(), 2, &["of other goals, seed, example or log"]);
    let ended = cluster.lines(&["watch", "results", "--from-beginning", "--until-end"]).len();
    let killed = start();
    wait_for_results(&cluster, ended + 20);
    killed.signal("KILL");
    killed.end();
    let summary = start().summary();
    assert_eq!(summary["resumed"], true);
    check(&cluster, &summary, GOALS);
}

#[test]
fn a_run_whose_events_the_cluster_has_deleted_does_not_wait_for_them() {
    let cluster = Cluster::new("deleted-run");
    make_topics(&cluster, "1");
    let start = || Run::start(run_command(&cluster, "run", 300));
    let interrupted = start();
    wait_for_results(&cluster, 1);
    interrupted.signal("INT");
    assert_eq!(interrupted.end().0, Some(130));
    delete_below_with_java(&cluster.brokers, &format!("{}.goals", cluster.prefix), 0, 1).unwrap();
    let (status, _, said) = start().end();
    assert_eq!(status, Some(3), "{said}");
    assert!(said.contains("the cluster has deleted events of the run"), "{said}");
    assert!(said.contains("begin anew with another --data-dir"), "{said}");
}

#[test]
fn a_run_beside_a_node_shares_the_work_and_leaves_the_lanes_to_it() {
    let cluster = Cluster::new("shared-run");
    make_topics(&cluster, "4");
    // Longer than the test waits for anything: nothing comes of a session that ends.
    let session = (PATIENCE.as_millis() * 2).to_string();
    let patient = |mut command: Command| {
        command.env("KINTSUGI_KAFKA__SESSION_TIMEOUT_MS", &session);
        command
    };
    let node = Node::spawn(&mut patient(cluster.up_command("node")), None);
    wait_until_ready(&node);
    // The example's own ids, the run's are others; and one that nobody can take.
    let foreign = example_goals(12);
    cluster.publish(&foreign);
    cluster.publish(&[json!({"id": "odd", "kind": "nobody", "text": "Is anybody there?"})]);
    let summary = Run::start(patient(run_command(&cluster, "run", 40))).summary();
    check(&cluster, &summary, 40);
    let ids: Vec<String> = foreign.iter().map(|goal| goal["id"].as_str().unwrap().to_owned()).collect();
    node.wait_for(&ids);
    let begun = Instant::now();
    while !node.get("/metrics").text.contains("\nkintsugi_lanes 4") {
        assert!(begun.elapsed() < PATIENCE, "{}", node.get("/metrics").text);
        std::thread::park_timeout(Duration::from_millis(20));
    }
    let late = json!({"text": "Hi, where is my order 10482?", "id": "late"});
    assert_eq!(node.publish(&late), "late");
    node.wait_for(&["late".to_owned()]);
    assert_eq!(node.signal("TERM").0, Some(0));
}

#[test]
fn a_run_whose_goals_others_work_ends_all_the_same() {
    let cluster = Cluster::new("idle-run");
    make_topics(&cluster, "2");
    let nodes = ["node-1", "node-2"].map(|name| cluster.up(name));
    nodes.iter().for_each(wait_until_ready);
    // As many nodes as partitions, and the run: somebody has none.
    let summary = Run::start(run_command(&cluster, "run", 12)).summary();
    check(&cluster, &summary, 12);
}

/// A run works all goals of the example, and the broker goes away for at least `outage`.
fn outlasts(name: &str, outage: Duration) {
    const GOALS: usize = 300;
    let mut broker = Broker::start().unwrap();
    let cluster = Cluster::on(&broker.bootstrap(), name);
    make_topics(&cluster, "4");
    let mut run = Run::start(run_command(&cluster, "run", GOALS));
    wait_for_results(&cluster, 5);
    broker.kill().unwrap();
    let begun = Instant::now();
    run.wait_for(|line| {
        line.starts_with("Kafka has not answered for ") || line.starts_with("Kafka does not answer")
    });
    // How long it lasts is what is tested.
    std::thread::park_timeout(outage.saturating_sub(begun.elapsed()));
    broker.restart().unwrap();
    run.wait_for(|line| line == "Kafka answers again");
    // It fails where it has counted anything twice.
    check(&cluster, &run.summary(), GOALS);
}

#[test]
fn a_run_outlasts_a_broker_that_dies_and_says_so() {
    outlasts("outage", Duration::ZERO);
}

#[test]
#[ignore = "takes a minute; `cargo xtask prove` runs it"]
fn a_run_counts_nothing_twice_after_an_outage_that_no_reader_waits_for() {
    // Readers wait for half a minute, and begin some seconds earlier when they ask again.
    outlasts("long-outage", Duration::from_secs(45));
}
