//! Several nodes on a real Kafka share the work: nodes and the broker are killed and frozen while they do, and every
//! goal still ends once, and nothing is done twice.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test fails by panicking and tells what it measured"
)]

#[path = "cluster/outside.rs"]
mod outside;
#[path = "cluster/recovery.rs"]
mod recovery;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kintsugi_broker::Broker;
use kintsugi_eventlog::kafka::topics::{self, TopicPlan};
use kintsugi_eventlog::kafka::{Connection, Publisher, ReadOnly};
use kintsugi_eventlog::{LogReader as _, NewRecord, partition_of};
use kintsugi_events::{Goal, GoalStatus, Payload, Topic};
use kintsugi_runtime::publish::goal_event;
use kintsugi_tests::audit::Audit;
use kintsugi_tests::counting_server::CountingServer;
use kintsugi_tests::scripted_node::{goals, goals_from, ledger, prepare};
use kintsugi_types::SystemClock;

/// The longest that one storm may take after its last blow.
const CALM_WITHIN: Duration = Duration::from_secs(90);

/// Agents that share the work.
const AGENTS: u32 = 100;

/// Goals that a scripted node has in progress at the same time.
const IN_PROGRESS_MAX: usize = 32;

const PATIENCE: Duration = Duration::from_secs(30);

/// So long a node that was killed or frozen keeps its lanes.
const SESSION: Duration = Duration::from_secs(6);

/// The same where nobody is killed: a node that a busy machine keeps from work for a while loses no lane by it.
const LONG_SESSION: Duration = Duration::from_mins(1);

/// What a storm does.
struct Storm {
    partitions: u32,
    nodes: usize,
    goals: usize,
    node_kills: usize,
    broker_kills: usize,
    freezes: usize,
    seed: u64,
}

/// Chance that can be repeated.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

struct Scene {
    folder: tempfile::TempDir,
    broker: Broker,
    connection: Connection,
    server: CountingServer,
    agents: u32,
    session: Duration,
    nodes: Vec<Child>,
}

impl Scene {
    fn begin(storm: &Storm, session: Duration) -> Self {
        Self::begin_with(storm, AGENTS, session)
    }

    fn begin_with(storm: &Storm, agents: u32, session: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let broker = Broker::start().unwrap();
        let connection = Connection { prefix: "storm".into(), ..Connection::new(broker.bootstrap()) };
        let plan = TopicPlan { partitions: storm.partitions, ..TopicPlan::default() };
        topics::create(&connection, &plan, PATIENCE).unwrap();
        let server = CountingServer::start(Arc::new(|_| (200, r#"{"charged":true}"#.to_owned()))).unwrap();
        prepare(folder.path(), &server.url()).unwrap();
        let mut scene = Self { folder, broker, connection, server, agents, session, nodes: Vec::new() };
        for number in 0..storm.nodes {
            let node = scene.spawn(number);
            scene.nodes.push(node);
        }
        scene
    }

    fn spawn(&self, number: usize) -> Child {
        let data = self.folder.path().join(format!("node-{number}"));
        std::fs::create_dir_all(&data).unwrap();
        Command::new(env!("CARGO_BIN_EXE_cluster-node"))
            .arg(self.folder.path())
            .arg(data)
            .args(["--brokers", &self.connection.brokers, "--prefix", &self.connection.prefix])
            .args(["--member", &format!("node-{number}"), "--agents", &self.agents.to_string()])
            .args(["--session-timeout-ms", &self.session.as_millis().to_string()])
            .stdin(Stdio::piped())
            .stderr(
                std::fs::File::options()
                    .create(true)
                    .append(true)
                    .open(self.folder.path().join(format!("node-{number}.log")))
                    .unwrap(),
            )
            .spawn()
            .unwrap()
    }

    /// Publishes portion `number`, from 0, of so many that share `goals` goals.
    fn publish_portion(&self, goals: usize, portions: usize, number: usize) {
        let (first, next) = (goals * number / portions, goals * (number + 1) / portions);
        self.publish_these(&goals_from(first + 1, next - first).unwrap());
    }

    fn publish_these(&self, goals: &[Goal]) {
        let publisher = Publisher::open(self.connection.clone(), PATIENCE).unwrap();
        let records: Vec<NewRecord> = goals
            .iter()
            .map(|goal| {
                let event = goal_event(goal, &SystemClock).unwrap();
                let key = event.envelope.subject.to_string();
                let partition = partition_of(key.as_bytes(), publisher.partition_count());
                NewRecord::from_event(&event, partition).unwrap()
            })
            .collect();
        publisher.publish(&records).unwrap();
    }

    fn kill(&mut self, number: usize) {
        self.nodes[number].kill().unwrap();
        self.nodes[number].wait().unwrap();
        self.nodes[number] = self.spawn(number);
    }

    /// What a node said so far.
    fn log_of(&self, number: usize) -> String {
        std::fs::read_to_string(self.folder.path().join(format!("node-{number}.log"))).unwrap_or_default()
    }

    /// What the nodes said, for whoever looks for what went wrong.
    fn tell_logs(&self) {
        for number in 0..self.nodes.len() {
            eprintln!("node {number}:\n{}", self.log_of(number));
        }
    }

    fn signal(&self, number: usize, signal: &str) {
        let pid = self.nodes[number].id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell_logs();
        }
        for node in &mut self.nodes {
            // They may be gone already.
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

/// Follows results until `wanted` is reached, calling `during` with how many there are.
fn follow_results(reader: &ReadOnly, wanted: usize, during: &mut dyn FnMut(usize)) -> usize {
    let mut results = 0;
    let mut next = reader.start_lsn();
    let mut progressed = Instant::now();
    while results < wanted {
        let before = results;
        next = reader
            .replay_topics(&[Topic::Results], next, &mut |_| {
                results += 1;
                ControlFlow::Continue(())
            })
            .unwrap();
        if results > before {
            progressed = Instant::now();
        }
        during(results);
        assert!(progressed.elapsed() < CALM_WITHIN, "{results} of {wanted} goals ended, then nothing more");
        reader.wait_past(next, Duration::from_millis(50));
    }
    results
}

/// Whether half of the portion that has so many before it has ended, so that the next one is due: there is work all the
/// time, and the run is not over before the last portion has come.
fn is_due(results: usize, goals: usize, portions: usize, before: usize) -> bool {
    results * 2 * portions >= goals * (2 * before + 1)
}

/// Every promise, checked by reading the topics once more: with our own code, and with a client that shares none of it.
fn check_twice(scene: &Scene, goals: usize, blows: usize) -> BTreeMap<&'static str, usize> {
    let ended = check(scene, goals, blows);
    let reader = ReadOnly::open(scene.connection.clone(), PATIENCE).unwrap();
    outside::count(&scene.connection, &Audit::of(&reader).unwrap());
    ended
}

/// Every promise, checked on the topics.
fn check(scene: &Scene, goals: usize, blows: usize) -> BTreeMap<&'static str, usize> {
    let reader = ReadOnly::open(scene.connection.clone(), PATIENCE).unwrap();
    let audit = Audit::of(&reader).unwrap();
    assert_eq!(audit.contradictions, Vec::<String>::new());
    assert_eq!((audit.goals.len(), audit.open_goals()), (goals, 0));
    assert!(audit.checkpoints > 0);
    let acts = scene.server.acts();
    let recorded = ledger(scene.folder.path()).unwrap();
    let mut ended = BTreeMap::new();
    for (goal, results) in &audit.goals {
        let [result] = results.as_slice() else { panic!("goal {goal} has {} results", results.len()) };
        let number: i64 = goal.as_str().trim_start_matches("goal-").parse().unwrap();
        let charged = acts.get(&format!("/charge/{number}")).copied().unwrap_or(0);
        let rows = recorded.get(&number).copied().unwrap_or(0);
        assert!(charged <= 1, "goal {goal} was charged {charged} times");
        assert!(rows <= 1, "goal {goal} was recorded {rows} times");
        let status = match result.status {
            GoalStatus::Completed => {
                assert_eq!((charged, rows), (1, 1), "goal {goal} completed");
                "completed"
            }
            // A kill in the middle of an unkeyed call: nobody can tell, so it is never made again.
            GoalStatus::Partial => {
                assert!(result.reason.as_ref().unwrap().contains("nobody can tell"), "{:?}", result.reason);
                "unsure"
            }
            GoalStatus::Failed => panic!("goal {goal} failed: {:?}", result.reason),
        };
        *ended.entry(status).or_default() += 1;
    }
    let unsure = ended.get("unsure").copied().unwrap_or(0);
    // Only calls that were wished for at a blow can be unsure, begun or not: at most one for each goal in progress.
    assert!(unsure <= IN_PROGRESS_MAX * blows, "{unsure} goals are unsure after {blows} blows");
    ended
}

fn storm(storm: &Storm) {
    let mut scene = Scene::begin(storm, SESSION);
    let blows = storm.node_kills + storm.broker_kills + storm.freezes;
    // One more with each blow: however quick the nodes are, each falls into work.
    let portions = blows + 1;
    scene.publish_portion(storm.goals, portions, 0);
    let reader = ReadOnly::open(scene.connection.clone(), PATIENCE).unwrap();
    let mut chance = Chance(storm.seed);
    let mut struck = 0;
    let mut frozen: Option<(usize, Instant)> = None;
    let begun = Instant::now();
    follow_results(&reader, storm.goals, &mut |results| {
        if let Some((number, since)) = frozen
            && since.elapsed() > Duration::from_secs(9)
        {
            // Past its session: it finds that others have its lanes.
            scene.signal(number, "-CONT");
            frozen = None;
        }
        if struck < blows && is_due(results, storm.goals, portions, struck) {
            let number = chance.below(storm.nodes);
            let kills_node = struck >= storm.freezes + storm.broker_kills;
            if kills_node && frozen.is_some_and(|(frozen, _)| frozen == number) {
                return;
            }
            scene.publish_portion(storm.goals, portions, struck + 1);
            if kills_node {
                scene.kill(number);
            } else if struck < storm.freezes {
                scene.signal(number, "-STOP");
                frozen = Some((number, Instant::now()));
            } else {
                scene.broker.kill().unwrap();
                scene.broker.restart().unwrap();
            }
            struck += 1;
        }
    });
    assert_eq!(struck, blows);
    let took = begun.elapsed();
    if let Some((number, _)) = frozen {
        scene.signal(number, "-CONT");
    }
    // What is read twice has to stay the same meanwhile.
    leave_in_order(&mut scene);
    let ended = check_twice(&scene, storm.goals, blows);
    eprintln!("{} goals, {blows} blows, {took:?}: {ended:?}", storm.goals);
}

/// Closes each node's stdin and waits for its end.
fn leave_in_order(scene: &mut Scene) {
    for node in &mut scene.nodes {
        drop(node.stdin.take());
    }
    for node in &mut scene.nodes {
        assert!(node.wait().unwrap().success());
    }
}

#[test]
fn two_nodes_share_the_work_and_survive_kills() {
    storm(&Storm {
        partitions: 4,
        nodes: 2,
        goals: 200,
        node_kills: 3,
        broker_kills: 0,
        freezes: 0,
        seed: 11,
    });
}

#[test]
#[ignore = "takes minutes; `cargo xtask prove` runs it"]
fn three_nodes_survive_a_storm() {
    storm(&Storm {
        partitions: 16,
        nodes: 3,
        goals: 5_000,
        node_kills: 30,
        broker_kills: 3,
        freezes: 1,
        seed: 7,
    });
}

#[test]
fn nodes_that_are_replaced_in_order_lose_no_call() {
    let shape =
        Storm { partitions: 4, nodes: 2, goals: 200, node_kills: 0, broker_kills: 0, freezes: 0, seed: 1 };
    let mut scene = Scene::begin(&shape, LONG_SESSION);
    let portions = shape.nodes + 1;
    scene.publish_portion(shape.goals, portions, 0);
    let reader = ReadOnly::open(scene.connection.clone(), PATIENCE).unwrap();
    let mut replaced = 0;
    follow_results(&reader, shape.goals, &mut |results| {
        if replaced < shape.nodes && is_due(results, shape.goals, portions, replaced) {
            scene.publish_portion(shape.goals, portions, replaced + 1);
            drop(scene.nodes[replaced].stdin.take());
            assert!(scene.nodes[replaced].wait().unwrap().success());
            scene.nodes[replaced] = scene.spawn(replaced);
            replaced += 1;
        }
    });
    assert_eq!(replaced, shape.nodes);
    let ended = check(&scene, shape.goals, 0);
    assert_eq!(ended, BTreeMap::from([("completed", shape.goals)]));
    leave_in_order(&mut scene);
}

#[test]
fn goals_come_to_their_lane_wherever_they_were_published() {
    let shape =
        Storm { partitions: 4, nodes: 1, goals: 40, node_kills: 0, broker_kills: 0, freezes: 0, seed: 1 };
    let mut scene = Scene::begin(&shape, LONG_SESSION);
    let publisher = Publisher::open(scene.connection.clone(), PATIENCE).unwrap();
    // Twice each, on two partitions: one copy at least has to be sent on, and is then known.
    for round in 0..2 {
        let records: Vec<NewRecord> = goals(shape.goals)
            .unwrap()
            .iter()
            .zip(round..)
            .map(|(goal, number)| {
                let event = goal_event(goal, &SystemClock).unwrap();
                NewRecord::from_event(&event, number % shape.partitions).unwrap()
            })
            .collect();
        publisher.publish(&records).unwrap();
    }
    let reader = ReadOnly::open(scene.connection.clone(), PATIENCE).unwrap();
    follow_results(&reader, shape.goals, &mut |_| {});
    let ended = check(&scene, shape.goals, 0);
    assert_eq!(ended, BTreeMap::from([("completed", shape.goals)]));
    let mut accepted = BTreeMap::new();
    reader
        .replay_topics(&[Topic::Agents], reader.start_lsn(), &mut |record| {
            let event = record.to_event().unwrap();
            if let Payload::Agent(journal) = &event.payload
                && let kintsugi_events::AgentEvent::GoalAccepted { goal } = &**journal
            {
                let home = partition_of(
                    format!("{}/{}", goal.tenant, goal.id.as_ref().unwrap()).as_bytes(),
                    shape.partitions,
                );
                assert_eq!(record.partition, home);
                *accepted.entry(goal.id.clone()).or_insert(0) += 1;
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(accepted.values().all(|times| *times == 1), "{accepted:?}");
    leave_in_order(&mut scene);
}
