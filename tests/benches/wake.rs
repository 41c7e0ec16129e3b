//! Waking a dormant agent: from the decision to bring it into memory to its state being there.
//!
//! The agents of a scripted node work one goal each and come to rest: no actor, no place in the partition,
//! only a snapshot in the store. It is their newest state, for the partition lets an agent go only when its
//! snapshot is stored: there is no tail of the log to fold. Then all are woken, in another random order
//! each round:
//!
//! - `state rebuilt`: `rebuild_agent`, what the partition does first, over a store restored from the log;
//! - `and its actor up`: what it does in all, until the actor around that state has answered;
//! - `through the node`: the same by the partition of the node that worked the goals, from
//!   `Node::resume_agent` (which leaves an agent that is well as it is, so nothing is appended) until the
//!   agent is about to decide. Two mailboxes and the waking of the node's thread are part of it.
//!
//! The reference, in the same run and store, is a bare point read of the state's JSON under the same key.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

#[path = "support/settle.rs"]
mod settle;
#[path = "support/spread.rs"]
mod spread;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use actix::{Actor as _, System};
use anyhow::{Context as _, Result, ensure};
use kintsugi_agent::Command;
use kintsugi_agent::prompt::{Action, decision_text};
use kintsugi_eventlog::embedded::Options;
use kintsugi_eventlog::{EmbeddedLog, EventLog};
use kintsugi_events::Goal;
use kintsugi_runtime::agent_actor::{AgentActor, DeathGuard, Deliver};
use kintsugi_runtime::config::CommandProbe;
use kintsugi_runtime::node::NodeParts;
use kintsugi_runtime::restore::{rebuild_agent, restore};
use kintsugi_runtime::store::Store;
use kintsugi_runtime::{LaneContext, LanePlace, Node, NodeConfig, NodeContext};
use kintsugi_tests::scripted_node::{Wiring, parts_with};
use kintsugi_tools::Registry;
use kintsugi_types::AgentId;
use serde_json::json;

use crate::settle::settle;
use crate::spread::Spread;

/// Agents that are woken, each once a round.
const AGENTS: u32 = 2_000;

/// Rounds that count; one more goes before them to warm up.
const ROUNDS: u64 = 5;

/// The longest that anything may be waited for.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<()> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let log = Arc::new(EmbeddedLog::open(folder.path().join("log"), Options::default())?);
    let through_node = through_node(&folder.path().join("node"), log.clone())?;
    let Apart { state_bytes, read, rebuilt, started } = apart(&folder.path().join("apart"), log)?;
    let wakes = rebuilt.len();
    println!("{AGENTS} dormant agents, a snapshot of {state_bytes} bytes of JSON, {wakes} wakes each way\n");
    println!("{:<32} {:>8} {:>8} {:>8}", "µs", "p50", "p99", "max");
    let rows = [
        ("bare read of the JSON", read),
        ("state rebuilt", rebuilt),
        ("and its actor up", started),
        ("through the node", through_node),
    ];
    for (name, times) in rows {
        let Spread { p50, p99, max } = Spread::of(times)?;
        let [p50, p99, max] = [p50, p99, max].map(|time| time.as_secs_f64() * 1e6);
        println!("{name:<32} {p50:>8.1} {p99:>8.1} {max:>8.1}");
    }
    println!("\nwanted: p99 at most 200");
    Ok(())
}

/// A node whose model finishes every goal in its first step.
fn scripted(folder: &Path, log: Arc<dyn EventLog>, wiring: Wiring) -> Result<NodeParts> {
    let answer = decision_text("all is done", &Action::Finish { answer: "done".to_owned() });
    parts_with(folder, log, Registry::default(), AGENTS, move |_| answer.clone(), wiring)
}

fn everyone(config: &NodeConfig) -> Result<Vec<AgentId>> {
    let population = config.population.first().context("the node has no agents")?;
    (0..population.count).map(|number| Ok(population.agent(number)?)).collect()
}

/// One goal for each agent.
fn goals(agents: &[AgentId]) -> Result<Vec<Goal>> {
    let goal = |agent: &AgentId| {
        let (id, text) = (format!("goal-of-{agent}"), format!("work of {agent}"));
        json!({"id": id, "agent": agent, "text": text})
    };
    agents.iter().map(|agent| Ok(serde_json::from_value(goal(agent))?)).collect()
}

/// Lets a node's agents work their goals and come to rest, and times how it wakes them.
fn through_node(folder: &Path, log: Arc<dyn EventLog>) -> Result<Vec<Duration>> {
    let (told, woken) = mpsc::channel();
    let before_decide = CommandProbe(Arc::new(move |_, command| {
        if matches!(command, Command::Resume { .. }) {
            // Who asked gives up only together with the bench.
            let _ = told.send(Instant::now());
        }
    }));
    let parts = scripted(folder, log, Wiring { before_decide: Some(before_decide), ..Wiring::default() })?;
    let agents = everyone(&parts.config)?;
    let node = Node::start(parts)?;
    node.publish(&goals(&agents)?)?;
    settle(&node, u64::from(AGENTS))?;
    come_to_rest(&node)?;
    let times = timed(&agents, |agent| {
        let (agent, by) = (agent.clone(), "bench".to_owned());
        let asked = Instant::now();
        node.resume_agent(agent, by);
        let woken = woken.recv_timeout(PATIENCE).context("the agent was not woken")?;
        Ok(woken.duration_since(asked))
    })?;
    node.stop();
    Ok(times)
}

/// Waits until the node holds no agent in memory. It counts them four times a second.
fn come_to_rest(node: &Node) -> Result<()> {
    let begun = Instant::now();
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let awake: u64 = node.status().agents.values().sum();
        if awake == 0 {
            return Ok(());
        }
        ensure!(begun.elapsed() < PATIENCE, "{awake} agents do not come to rest");
    }
}

/// What was measured apart from a node, with nothing else running.
struct Apart {
    /// The median of the states' JSON.
    state_bytes: usize,
    read: Vec<Duration>,
    rebuilt: Vec<Duration>,
    started: Vec<Duration>,
}

/// Times each part of waking by itself, over what a restart makes of the log.
fn apart(folder: &Path, log: Arc<dyn EventLog>) -> Result<Apart> {
    let system = System::new();
    let node = Arc::new(system.block_on(async {
        let NodeParts { config, tools, scheduler, backend, clock, .. } =
            scripted(folder, log.clone(), Wiring::default())?;
        let engine = (&scheduler, backend);
        anyhow::Ok(NodeContext::open(config, tools, clock, engine, None, |_, _| {})?)
    })?);
    let store_dir = node.config.store_dir.clone();
    let (lane, _) = LaneContext::open(node.clone(), LanePlace::ONLY, log, &store_dir, Box::new(|_| {}))?;
    let restored = restore(&lane)?;
    ensure!(restored.agents.is_empty(), "{} agents are not at rest", restored.agents.len());
    let agents = everyone(&node.config)?;
    let state_bytes = put_references(&lane.core.store, &agents)?;
    let read = timed(&agents, |agent| {
        let begun = Instant::now();
        let bytes = lane.core.store.stage(agent.as_str())?;
        let took = begun.elapsed();
        ensure!(bytes.is_some(), "the reference of {agent} is missing");
        Ok(took)
    })?;
    let rebuilt = timed(&agents, |agent| {
        let begun = Instant::now();
        let state = rebuild_agent(&lane, agent, node.kind_of(agent).cloned(), None)?;
        let took = begun.elapsed();
        ensure!(state.goals_ended == 1, "{agent} came back without its goal");
        Ok(took)
    })?;
    let started = timed(&agents, |agent| system.block_on(start_actor(&lane, agent)))?;
    system.block_on(node.scheduler.shutdown());
    let broken = node.invariants.total();
    ensure!(broken == 0, "{broken} invariants were broken");
    Ok(Apart { state_bytes, read, rebuilt, started })
}

/// Puts each agent's state, unpacked, under its own name into another keyspace. Returns their median length.
fn put_references(store: &Store, agents: &[AgentId]) -> Result<usize> {
    let mut batch = store.batch();
    let mut lengths = Vec::with_capacity(agents.len());
    for agent in agents {
        let state = store.agent(agent)?.with_context(|| format!("{agent} has no snapshot"))?;
        let json = serde_json::to_vec(&state)?;
        lengths.push(json.len());
        batch.put_stage(agent.as_str(), &json);
    }
    batch.commit()?;
    lengths.sort_unstable();
    lengths.get(lengths.len() / 2).copied().context("there are no agents")
}

/// What the partition does to bring an agent into memory, until its actor has answered what it waits for.
async fn start_actor(lane: &Arc<LaneContext>, agent: &AgentId) -> Result<Duration> {
    let begun = Instant::now();
    let state = rebuild_agent(lane, agent, lane.node.kind_of(agent).cloned(), None)?;
    let config = lane.node.kind(&state.kind).cloned().context("the agent's kind has no configuration")?;
    let source = format!("/kintsugi/agents/{}", state.kind).into();
    let sequence = state.sequence;
    let (decided, guard) = (Box::new(|_| {}), DeathGuard::new(|| {}));
    let actor = AgentActor::new(lane.clone(), config, source, state, sequence, decided, guard).start();
    actor.send(Deliver { command: None }).await?;
    let took = begun.elapsed();
    drop(actor);
    // The actor ends in its turn, which comes before that of what is spawned now: not in the next one's time.
    actix::spawn(async {}).await?;
    Ok(took)
}

/// Lets `wake` time each agent once a round. The first round only warms up.
fn timed(agents: &[AgentId], mut wake: impl FnMut(&AgentId) -> Result<Duration>) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for round in 0..=ROUNDS {
        for agent in in_random_order(agents, round) {
            let took = wake(agent)?;
            if round > 0 {
                times.push(took);
            }
        }
    }
    Ok(times)
}

/// Another order each round, the same in each run.
fn in_random_order(agents: &[AgentId], round: u64) -> Vec<&AgentId> {
    let mut order: Vec<&AgentId> = agents.iter().collect();
    order.sort_by_cached_key(|agent| {
        let mut hasher = DefaultHasher::new();
        (round, agent.as_str()).hash(&mut hasher);
        hasher.finish()
    });
    order
}
