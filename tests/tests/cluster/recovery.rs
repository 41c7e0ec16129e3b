//! How long a killed node's agents are without one, where there are many.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use kintsugi_eventlog::kafka::ReadOnly;
use kintsugi_eventlog::{LogReader as _, partition_of};
use kintsugi_events::Topic;
use kintsugi_tests::scripted_node::goals_from;
use kintsugi_types::{AgentId, Timestamp};

use super::{PATIENCE, SESSION, Scene, Storm, check, follow_results};

const AGENTS: u32 = 10_000;

const PARTITIONS: u32 = 16;

/// Goals that are under way when the node is killed, and as many that come then: each lane has some of them.
const LATER: usize = 2_000;

/// How long lanes may take to be somebody else's, the session included.
const RECOVERED_WITHIN: Duration = Duration::from_mins(1);

/// When the node said `what` of each lane last.
fn said(log: &str, what: &str) -> BTreeMap<u32, Timestamp> {
    let of_line = |line: &str| {
        let (time, rest) = line.split_once(' ')?;
        let lane = rest.split_once(what)?.1.split_once("lane=")?.1.split_whitespace().next()?.parse().ok()?;
        Some((lane, time.parse().ok()?))
    };
    log.lines().filter_map(of_line).collect()
}

#[test]
#[ignore = "takes minutes; `cargo xtask prove` runs it"]
fn ten_thousand_agents_go_on_elsewhere_when_their_node_is_killed() {
    let shape = Storm {
        partitions: PARTITIONS,
        nodes: 2,
        goals: 0,
        node_kills: 0,
        broker_kills: 0,
        freezes: 0,
        seed: 1,
    };
    let mut scene = Scene::begin_with(&shape, AGENTS, SESSION);
    let reader = ReadOnly::open(scene.connection.clone(), PATIENCE).unwrap();
    // Each agent has a journal: who never did anything costs nothing to bring back.
    let mut goals = goals_from(1, AGENTS as usize).unwrap();
    for (goal, number) in goals.iter_mut().zip(0..AGENTS) {
        goal.agent = Some(AgentId::new(format!("clerk-{number}")).unwrap());
    }
    scene.publish_these(&goals);
    follow_results(&reader, goals.len(), &mut |_| {});
    scene.publish_these(&goals_from(goals.len() + 1, LATER).unwrap());
    follow_results(&reader, goals.len() + LATER / 4, &mut |_| {});
    // Whoever was there first had all of them for a while.
    let log = scene.log_of(0);
    let closed = said(&log, "lane closed");
    let is_open = |(lane, opened): &(u32, Timestamp)| closed.get(lane).is_none_or(|closed| closed < opened);
    let theirs = said(&log, "lane opened").into_iter().filter(is_open);
    let lost: Vec<u32> = theirs.map(|(lane, _)| lane).collect();
    assert!(!lost.is_empty(), "the node that is killed has lanes of its own");
    let seen = reader.refresh().unwrap();
    let killed_at = Instant::now();
    let killed = kintsugi_types::Clock::now(&kintsugi_types::SystemClock);
    scene.nodes[0].kill().unwrap();
    scene.nodes[0].wait().unwrap();
    scene.publish_these(&goals_from(goals.len() + LATER + 1, LATER).unwrap());
    // The first event of a journal in each of the lanes that the other node has now.
    let mut working: BTreeMap<u32, Timestamp> = BTreeMap::new();
    let mut next = seen;
    while working.len() < lost.len() {
        assert!(killed_at.elapsed() < RECOVERED_WITHIN, "only the lanes {working:?} of {lost:?} go on");
        let mut opened = said(&scene.log_of(1), "lane opened");
        opened.retain(|_, at| *at > killed);
        next = reader
            .replay_topics(&[Topic::Agents], next, &mut |record| {
                let is_back = opened.get(&record.partition).zip(record.envelope.as_ref());
                if let Some((_, envelope)) = is_back.filter(|(opened, envelope)| envelope.time >= **opened)
                    && lost.contains(&record.partition)
                {
                    working.entry(record.partition).or_insert(envelope.time);
                }
                ControlFlow::Continue(())
            })
            .unwrap();
        reader.wait_past(next, Duration::from_millis(50));
    }
    let log = scene.log_of(1);
    let opened = said(&log, "lane opened");
    let gained = log.lines().rev().find(|line| line.contains("gained lanes")).unwrap();
    let gained: Timestamp = gained.split_once(' ').unwrap().0.parse().unwrap();
    let last_opened = lost.iter().map(|lane| opened[lane]).max().unwrap();
    let last_working = working.values().copied().max().unwrap();
    let agents = (0..AGENTS)
        .filter(|number| lost.contains(&partition_of(format!("clerk-{number}").as_bytes(), PARTITIONS)))
        .count();
    let seconds = |from: Timestamp, to: Timestamp| to.signed_duration_since(from).as_seconds_f64();
    let restoring = seconds(gained, last_opened);
    eprintln!(
        "{agents} agents in {} lanes: handed over {:.2} s after the kill, opened and restored in {restoring:.2} s ({:.0} agents/s), \
         all lanes at work {:.2} s after they were handed over",
        lost.len(),
        seconds(killed, gained),
        agents as f64 / restoring,
        seconds(gained, last_working),
    );
    let goals = goals.len() + 2 * LATER;
    follow_results(&reader, goals, &mut |_| {});
    check(&scene, goals, 1);
    drop(scene.nodes[1].stdin.take());
    assert!(scene.nodes[1].wait().unwrap().success());
}
