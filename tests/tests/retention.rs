//! A node whose log is kept short: it stays short, and what is left is enough to come back from, with the cache or
//! without.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kintsugi_eventlog::embedded::{Options, ReadOnlyLog};
use kintsugi_eventlog::{EmbeddedLog, LogReader, Lsn, TopicPartition};
use kintsugi_events::{GoalStatus, Topic};
use kintsugi_runtime::store::Store;
use kintsugi_runtime::{Keep, Node};
use kintsugi_tests::audit::Audit;
use kintsugi_tests::counting_server::CountingServer;
use kintsugi_tests::scripted_node::{AGENTS, Wiring, goals_from, ledger, parts, prepare};
use kintsugi_types::{AgentId, ByteCount};

const SEGMENT_BYTES: u64 = 16 << 10;

/// So many of the newest bytes are kept.
const KEPT_BYTES: u64 = 128 << 10;

/// What a log at rest has at most: what is kept, and what would have to be written again to delete more, three times.
const BYTES_MAX: u64 = 1 << 20;

/// How long what was written is kept in a storm, so that whoever follows from outside misses nothing.
const KEPT_MS: u64 = 2_000;

const PATIENCE: Duration = Duration::from_mins(1);

fn server() -> CountingServer {
    CountingServer::start(Arc::new(|_| (200, r#"{"charged":true}"#.to_owned()))).unwrap()
}

fn open(folder: &Path) -> Arc<EmbeddedLog> {
    let options = Options { segment_bytes: ByteCount(SEGMENT_BYTES), ..Options::default() };
    Arc::new(EmbeddedLog::open(folder.join("log"), options).unwrap())
}

/// Everything that a log ever held, taken in before it is deleted.
#[derive(Default)]
struct Follower {
    audit: Audit,
    next: Lsn,
}

impl Follower {
    fn follow(&mut self, log: &dyn LogReader) {
        self.next = self.audit.follow(log, self.next).unwrap();
    }

    fn has_ended(&self, goals: usize) -> bool {
        self.audit.goals.len() == goals && self.audit.open_goals() == 0
    }

    fn hashes(&self) -> BTreeMap<AgentId, String> {
        self.audit.agents.iter().map(|(agent, state)| (agent.clone(), state.hash())).collect()
    }
}

/// Waits until `is_so`, looking again and again.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}: not in time");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// Starts a node on the log in `folder` without a cache, lets `during` use it, and returns the hashes of the states
/// that its cache holds then.
fn without_cache(folder: &Path, agents: &Follower, during: impl FnOnce(&Node)) -> BTreeMap<AgentId, String> {
    let store = folder.join("store");
    std::fs::remove_dir_all(&store).unwrap();
    let node = Node::start(parts(folder, open(folder), Wiring::default()).unwrap()).unwrap();
    during(&node);
    assert_eq!(node.invariants().total(), 0);
    node.stop();
    let store = Store::open(&store).unwrap();
    let state = |agent: &AgentId| store.agent(agent).unwrap().unwrap_or_else(|| panic!("{agent} is lost"));
    agents.audit.agents.keys().map(|agent| (agent.clone(), state(agent).hash())).collect()
}

#[test]
fn a_busy_nodes_log_stays_short_and_is_enough_to_come_back_from() {
    const BATCHES: usize = 5;
    const BATCH: usize = 60;
    let folder = tempfile::tempdir().unwrap();
    let server = server();
    prepare(folder.path(), &server.url()).unwrap();
    let log = open(folder.path());
    let node = Node::start(parts(folder.path(), log.clone(), Wiring::default()).unwrap()).unwrap();
    let mut seen = Follower::default();
    for batch in 0..BATCHES {
        let mut goals = goals_from(batch * BATCH + 1, BATCH).unwrap();
        if batch > 0 {
            // One of them had work once and rests from then on.
            for (number, goal) in (0..AGENTS - 1).cycle().zip(&mut goals) {
                goal.agent = Some(AgentId::new(format!("clerk-{number}")).unwrap());
            }
        }
        node.publish(&goals).unwrap();
        until("a batch ends and the log is short again", || {
            seen.follow(log.as_ref());
            let bytes_min = ByteCount(KEPT_BYTES);
            node.retain(&Keep { age_min: Duration::ZERO, bytes_min, from: seen.next }).unwrap();
            seen.has_ended((batch + 1) * BATCH) && log.size().bytes <= BYTES_MAX
        });
    }
    let resting = &seen.audit.agents["clerk-5"];
    assert!(resting.goals_ended > 0);
    assert!(log.start_lsn().0 * 2 > seen.next.0, "{} of {} events are gone", log.start_lsn(), seen.next);
    // The cache forgets with the log.
    let is_known = |number: usize| {
        let goal = goals_from(number, 1).unwrap().remove(0);
        let to =
            (number > BATCH).then(|| AgentId::new(format!("clerk-{}", (number - 1) % BATCH % 5)).unwrap());
        node.known_goal(&goal.tenant, to.as_ref(), &goal.id.unwrap()).unwrap().is_some()
    };
    assert_eq!([is_known(1), is_known(BATCH), is_known(BATCHES * BATCH)], [false, false, true]);
    assert_eq!(node.invariants().total(), 0);
    node.stop();
    seen.follow(log.as_ref());
    drop(log);

    assert_eq!(seen.audit.contradictions, Vec::<String>::new());
    assert!(seen.audit.goals.values().all(|results| results.len() == 1));
    // The newest goal is still in the log: its id is known without the cache.
    let last = BATCHES * BATCH;
    let restored = without_cache(folder.path(), &seen, |node| {
        let mut newest = goals_from(last, 1).unwrap();
        newest[0].agent = Some(AgentId::new(format!("clerk-{}", (BATCH - 1) % 5)).unwrap());
        node.publish(&newest).unwrap();
        // Whatever comes later is taken later: when this has ended, the one before was looked at.
        node.publish(&goals_from(last + 1, 1).unwrap()).unwrap();
        until("a goal ends", || node.status().goals_ended() == 1);
    });
    let log = open(folder.path());
    seen.follow(log.as_ref());
    assert_eq!(restored, seen.hashes(), "the states are those of the whole journal");
    assert!(seen.has_ended(last + 1));
    assert_eq!(seen.audit.contradictions, Vec::<String>::new());
    let goals = TopicPartition::new(Topic::Goals, 0);
    assert_eq!(log.position("partition", goals), Some(log.end_offset(goals)));
    assert_eq!(server.acts().len(), last + 1);
    assert!(server.acts().values().all(|charged| *charged == 1), "{:?}", server.acts());
}

/// A node of its own process that publishes `count` goals from number `first` on and keeps its log short.
fn spawn(folder: &Path, first: usize, count: usize) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_node-under-test"));
    command.arg(folder).arg(count.to_string()).args(["--first", &first.to_string()]);
    command.args(["--segment-bytes", &SEGMENT_BYTES.to_string()]);
    command.args(["--retain-bytes", &KEPT_BYTES.to_string(), "--retain-ms", &KEPT_MS.to_string()]);
    command.stderr(Stdio::inherit()).spawn().unwrap()
}

/// Kills a node whose log is kept short at moments of chance, over and over, and now and then takes its cache away.
fn storm(goals: usize, number: u64) {
    const BATCH: usize = 12;
    let folder = tempfile::tempdir().unwrap();
    let server = server();
    prepare(folder.path(), &server.url()).unwrap();
    // So that there is something to follow.
    drop(open(folder.path()));
    let log = ReadOnlyLog::open(folder.path().join("log")).unwrap();
    let mut seen = Follower::default();
    let mut chance = number;
    let mut kills = 0;
    let follow = |seen: &mut Follower| {
        log.refresh().unwrap();
        seen.follow(&log);
    };
    while !seen.has_ended(goals) {
        let published = seen.audit.goals.len();
        let count = if seen.audit.open_goals() == 0 { BATCH.min(goals - published) } else { 0 };
        let mut child = spawn(folder.path(), published + 1, count);
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let after = Duration::from_millis(40 + (chance >> 33) % 500);
        let begun = Instant::now();
        while begun.elapsed() < after {
            assert!(child.try_wait().unwrap().is_none(), "the node ended by itself");
            follow(&mut seen);
            std::thread::park_timeout(Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        follow(&mut seen);
        if kills % 3 == 0 {
            std::fs::remove_dir_all(folder.path().join("store")).unwrap();
        }
        assert!(kills < 20 * goals, "{} of {goals} goals have ended", goals - seen.audit.open_goals());
    }
    let mut child = spawn(folder.path(), 1, 0);
    until("the log is short", || {
        follow(&mut seen);
        log.size().bytes <= BYTES_MAX && log.start_lsn() > Lsn(0)
    });
    child.kill().unwrap();
    child.wait().unwrap();
    follow(&mut seen);
    check(folder.path(), &seen, &server, kills);
    assert_eq!(without_cache(folder.path(), &seen, |_| {}), seen.hashes());
}

fn check(folder: &Path, seen: &Follower, server: &CountingServer, kills: usize) {
    assert_eq!(seen.audit.contradictions, Vec::<String>::new());
    let (acts, recorded) = (server.acts(), ledger(folder).unwrap());
    let mut unsure = 0;
    for (goal, results) in &seen.audit.goals {
        let [result] = results.as_slice() else { panic!("goal {goal} has {} results", results.len()) };
        let number: i64 = goal.as_str().trim_start_matches("goal-").parse().unwrap();
        let charged = acts.get(&format!("/charge/{number}")).copied().unwrap_or(0);
        let rows = recorded.get(&number).copied().unwrap_or(0);
        if result.status == GoalStatus::Completed {
            assert_eq!((charged, rows), (1, 1), "goal {goal} completed");
        } else {
            // A crash in the middle of an unkeyed call: nobody can tell, so it is never made again.
            assert!(result.reason.as_ref().unwrap().contains("nobody can tell"), "{:?}", result.reason);
            assert!(charged <= 1 && rows == 0);
            unsure += 1;
        }
    }
    assert!(unsure <= 8 * kills, "{unsure} goals are unsure after {kills} kills");
}

#[test]
fn a_storm_of_kills_on_a_log_that_is_kept_short_loses_and_repeats_nothing() {
    storm(96, 1);
}

#[test]
#[ignore = "long: run by `cargo xtask prove`"]
fn many_storms_of_kills_on_a_log_that_is_kept_short_lose_and_repeat_nothing() {
    for number in 100..112 {
        storm(240, number);
    }
}
