//! Healing stages as processes of their own, beside nodes on a real Kafka.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{Cluster, wait_until_ready};
use crate::common::{example, kintsugi};
use crate::node::{Node, PATIENCE, example_goals, refused};

/// So many steps are broken on purpose that there is enough to heal.
const CHAOS: &str = "0.5";

/// A running stage. It is killed with the test, however that ends.
struct Stage {
    child: Child,
    said: Receiver<String>,
}

impl Stage {
    fn start(cluster: &Cluster, stage: &str, data_dir: &str) -> Self {
        let mut command = cluster.command(&["stage", stage]);
        command.arg(example()).args(["--data-dir", data_dir]).env(external(stage), "external");
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (tell, said) = channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Self { child, said }
    }

    /// Starts it and waits until it has all of so many partitions.
    fn start_with_all(cluster: &Cluster, stage: &str, data_dir: &str, partitions: u32) -> Self {
        let stage = Self::start(cluster, stage, data_dir);
        stage.wait_for_partitions(|count| count == partitions as usize);
        stage
    }

    /// Waits until it says that it has a number of partitions that fits.
    fn wait_for_partitions(&self, fits: impl Fn(usize) -> bool) {
        let mut heard = Vec::new();
        loop {
            let Ok(line) = self.said.recv_timeout(PATIENCE) else { panic!("it only said {heard:?}") };
            let numbers = line.split_once(": partitions ").map(|(_, numbers)| numbers.split(", ").count());
            if numbers.is_some_and(&fits) {
                return;
            }
            heard.push(line);
        }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it by a signal, and returns its status and what it said last.
    fn signal(mut self, name: &str) -> (Option<i32>, String) {
        let sent =
            std::process::Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
        let status = self.child.wait().unwrap();
        (status.code(), self.said.iter().last().unwrap_or_default())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The variable that says where a stage runs.
fn external(stage: &str) -> String {
    format!("KINTSUGI_STAGES__{}", stage.to_uppercase())
}

/// A node whose steps are broken, and which leaves these stages alone.
fn node_without(cluster: &Cluster, name: &str, stages: &[&str]) -> Node {
    let mut command = cluster.up_command(name);
    command.args(["--chaos", CHAOS, "--seed", "3"]);
    for stage in stages {
        command.env(external(stage), "external");
    }
    let node = Node::spawn(&mut command, None);
    wait_until_ready(&node);
    node
}

fn ids(goals: &[Value]) -> Vec<String> {
    goals.iter().map(|goal| goal["id"].as_str().unwrap().to_owned()).collect()
}

/// Everything that is committed on a topic.
fn all(cluster: &Cluster, topic: &str) -> Vec<Value> {
    cluster.lines(&["watch", topic, "--from-beginning", "--until-end"])
}

/// Looks again and again until what `topic` holds fits, and returns it.
fn wait_for(cluster: &Cluster, topic: &str, fits: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let begun = Instant::now();
    loop {
        let events = all(cluster, topic);
        if fits(&events) {
            return events;
        }
        assert!(begun.elapsed() < PATIENCE, "{} {topic}: {:?}", events.len(), events.last());
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// Waits until every anomaly that is there now has a diagnosis, and checks that it has one alone, in its partition and
/// because of it. Returns the diagnoses.
fn each_anomaly_has_one_diagnosis(cluster: &Cluster) -> Vec<Value> {
    let anomalies = all(cluster, "anomalies");
    let is_diagnosed = |diagnoses: &[Value], anomaly: &Value| {
        diagnoses.iter().any(|diagnosis| diagnosis["data"]["anomalies"][0] == anomaly["data"]["anomaly"])
    };
    let diagnoses = wait_for(cluster, "diagnoses", |diagnoses| {
        anomalies.iter().all(|anomaly| is_diagnosed(diagnoses, anomaly))
    });
    let mut of: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for diagnosis in &diagnoses {
        of.entry(diagnosis["data"]["anomalies"][0].as_str().unwrap()).or_default().push(diagnosis);
    }
    for anomaly in &anomalies {
        let id = anomaly["data"]["anomaly"].as_str().unwrap();
        let found = &of[id];
        assert_eq!(found.len(), 1, "{anomaly} {found:?}");
        assert_eq!(found[0]["causationid"], anomaly["id"]);
        assert_eq!(found[0]["partition"], anomaly["partition"]);
        assert_eq!(found[0]["source"], "/kintsugi/diagnose");
        assert_eq!(found[0]["data"]["diagnosed_by"], "rules");
    }
    // Whatever came since.
    assert!(of.values().all(|found| found.len() == 1), "{of:?}");
    diagnoses
}

#[test]
fn a_diagnoser_that_is_killed_diagnoses_every_anomaly_once() {
    let cluster = Cluster::new("diagnoser");
    assert!(cluster.ask(&["topics", "create", "--partitions", "2"]).status.success());
    let node = node_without(&cluster, "node", &["diagnose"]);
    let goals = example_goals(24);
    cluster.publish(&goals[..8]);
    wait_for(&cluster, "anomalies", |anomalies| !anomalies.is_empty());
    assert_eq!(all(&cluster, "diagnoses"), Vec::<Value>::new(), "the node leaves the stage alone");

    let stage = Stage::start_with_all(&cluster, "diagnose", "stage", 2);
    wait_for(&cluster, "recoveries", |recoveries| !recoveries.is_empty());
    let seen = all(&cluster, "diagnoses").len();
    cluster.publish(&goals[8..16]);
    wait_for(&cluster, "diagnoses", |diagnoses| diagnoses.len() > seen);
    stage.kill();
    let seen = all(&cluster, "anomalies").len();
    cluster.publish(&goals[16..]);
    wait_for(&cluster, "anomalies", |anomalies| anomalies.len() > seen);

    let stage = Stage::start_with_all(&cluster, "diagnose", "stage", 2);
    node.wait_for(&ids(&goals));
    each_anomaly_has_one_diagnosis(&cluster);
    assert_eq!(stage.signal("TERM"), (Some(0), "stopped; the same command goes on".to_owned()));
    assert_eq!(node.signal("TERM").0, Some(0));
    let recoveries = all(&cluster, "recoveries");
    // Anew: some may have come after the last look.
    let diagnoses = all(&cluster, "diagnoses");
    let healed = recoveries.iter().filter(|recovery| recovery["data"]["phase"] == "completed");
    let mut because = healed.map(|recovery| &recovery["data"]["diagnosis"]);
    assert!(because.clone().count() > 0, "{recoveries:?}");
    assert!(because.all(|id| diagnoses.iter().any(|diagnosis| diagnosis["data"]["diagnosis"] == *id)));
}

#[test]
fn a_stage_that_moves_out_of_the_node_and_back_leaves_nothing_out_and_repeats_nothing() {
    let cluster = Cluster::new("mover");
    assert!(cluster.ask(&["topics", "create", "--partitions", "2"]).status.success());
    let goals = example_goals(24);
    let work = |node: &Node, goals: &[Value]| {
        cluster.publish(goals);
        node.wait_for(&ids(goals));
    };
    let node = node_without(&cluster, "node", &[]);
    work(&node, &goals[..8]);
    let inside = each_anomaly_has_one_diagnosis(&cluster).len();
    assert!(inside > 0, "the node had something to diagnose");
    assert_eq!(node.signal("TERM").0, Some(0));

    let node = node_without(&cluster, "node", &["diagnose"]);
    cluster.publish(&goals[8..16]);
    // Found while nobody diagnoses.
    wait_for(&cluster, "anomalies", |anomalies| anomalies.len() > inside);
    let stage = Stage::start_with_all(&cluster, "diagnose", "stage", 2);
    node.wait_for(&ids(&goals[8..16]));
    let outside = each_anomaly_has_one_diagnosis(&cluster).len();
    assert!(outside > inside, "{outside} {inside}");
    assert_eq!(stage.signal("INT").0, Some(130));
    assert_eq!(node.signal("TERM").0, Some(0));

    let node = node_without(&cluster, "node", &[]);
    work(&node, &goals[16..]);
    assert!(each_anomaly_has_one_diagnosis(&cluster).len() > outside);
}

#[test]
fn two_diagnosers_share_the_partitions_and_one_takes_over_what_a_killed_one_leaves() {
    let cluster = Cluster::new("diagnosers");
    assert!(cluster.ask(&["topics", "create", "--partitions", "4"]).status.success());
    let node = node_without(&cluster, "node", &["diagnose"]);
    let dies = Stage::start_with_all(&cluster, "diagnose", "dies", 4);
    let stays = Stage::start(&cluster, "diagnose", "stays");
    stays.wait_for_partitions(|count| count == 2);
    dies.wait_for_partitions(|count| count == 2);
    let goals = example_goals(12);
    cluster.publish(&goals[..6]);
    wait_for(&cluster, "diagnoses", |diagnoses| !diagnoses.is_empty());
    dies.kill();
    cluster.publish(&goals[6..]);
    stays.wait_for_partitions(|count| count == 4);
    node.wait_for(&ids(&goals));
    each_anomaly_has_one_diagnosis(&cluster);
}

#[test]
fn all_three_stages_work_by_themselves() {
    let cluster = Cluster::new("stages");
    assert!(cluster.ask(&["topics", "create", "--partitions", "2"]).status.success());
    let names = ["monitor", "diagnose", "recover"];
    let node = node_without(&cluster, "node", &names);
    let stages = names.map(|name| Stage::start_with_all(&cluster, name, name, 2));
    let goals = example_goals(12);
    cluster.publish(&goals);
    node.wait_for(&ids(&goals));
    each_anomaly_has_one_diagnosis(&cluster);
    let seams = cluster.lines(&["seams", "--format", "json"]);
    assert!(!seams.is_empty(), "something was healed");
    for stage in stages {
        assert_eq!(stage.signal("TERM").0, Some(0));
    }
}

#[test]
fn a_stage_that_cannot_begin_says_why_and_leaves_nothing_behind() {
    let cluster = Cluster::new("nothing");
    let missing = cluster.ask(&["stage", "diagnose"]);
    refused(&missing, 3, &["does not exist", "kintsugi topics create --log kafka://"]);
    assert!(!cluster.folder.path().join(".kintsugi").exists());
    let embedded = kintsugi(&["stage", "diagnose", "--log", "embedded"]).output().unwrap();
    refused(&embedded, 2, &["--log kafka://HOST:PORT", "leave diagnose to the node"]);
    let unknown = kintsugi(&["stage", "heal"]).output().unwrap();
    refused(&unknown, 2, &["monitor", "diagnose", "recover"]);
}
