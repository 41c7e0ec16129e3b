//! A whole node on a Kafka cluster beside the same node on the embedded log: durable steps a second with an instant
//! model and an instant tool, and the time from a goal to its result at light load. The broker is a real one, on the
//! same machine.

#[path = "support/instant.rs"]
mod instant;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use kintsugi_broker::Broker;
use kintsugi_eventlog::embedded;
use kintsugi_eventlog::kafka::topics::{self, TopicPlan};
use kintsugi_eventlog::kafka::{Connection, KafkaLog, Options};
use kintsugi_eventlog::{EmbeddedLog, EventLog};
use kintsugi_runtime::{Lanes, Node};
use kintsugi_tests::scripted_node::{Wiring, parts_with};
use kintsugi_types::ToolName;

use crate::instant::{answer, median, registry, runs};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Steps of one run, the last of which finishes.
const STEPS: usize = 10;

/// Rounds of which the median is taken.
const ROUNDS: usize = 3;

/// Goals of which the latency is measured, one after the other.
const GOALS_AT_LIGHT_LOAD: usize = 200;

const PATIENCE: Duration = Duration::from_secs(30);

/// A log to work on.
enum Log {
    Embedded,
    Kafka { partitions: u32 },
}

impl Log {
    fn name(&self) -> String {
        match self {
            Self::Embedded => "embedded".to_owned(),
            Self::Kafka { partitions } => format!("kafka, {partitions} lanes"),
        }
    }

    /// A node with `agents` agents whose runs have `steps` steps. `round` tells its topics from others.
    fn node(&self, folder: &Path, broker: &str, round: &str, agents: u32, steps: usize) -> Result<Node> {
        let act = ToolName::new("act")?;
        let model = move |request: &_| answer(steps, &act, request);
        match self {
            Self::Embedded => {
                let log = Arc::new(EmbeddedLog::open(folder.join("log"), embedded::Options::default())?);
                Ok(Node::start(parts_with(folder, log, registry()?, agents, model, Wiring::default())?)?)
            }
            Self::Kafka { partitions } => {
                let connection = Connection { prefix: round.into(), ..Connection::new(broker) };
                let plan = TopicPlan { partitions: *partitions, ..TopicPlan::default() };
                topics::create(&connection, &plan, PATIENCE)?;
                let open = Arc::new(move |number| {
                    let options = Options::new(connection.clone(), [number]);
                    let log: Arc<dyn EventLog> = Arc::new(KafkaLog::open(options)?);
                    Ok(log)
                });
                let lanes = Lanes::Shared { partitions: *partitions, open };
                let node =
                    Node::start(parts_with(folder, lanes, registry()?, agents, model, Wiring::default())?)?;
                let all: Vec<u32> = (0..*partitions).collect();
                node.gain_lanes(&all);
                let begun = Instant::now();
                while node.lanes().len() < all.len() {
                    if begun.elapsed() > PATIENCE {
                        bail!("only the lanes {:?} are open", node.lanes());
                    }
                    std::thread::park_timeout(Duration::from_millis(5));
                }
                Ok(node)
            }
        }
    }
}

fn wait_for(node: &Node, settled: usize) -> Result<()> {
    while node.status().goals_settled() < settled as u64 {
        if node.has_ended() {
            bail!("the node ended by itself");
        }
        std::thread::park_timeout(Duration::from_micros(100));
    }
    Ok(())
}

/// Steps a second of `count` runs with `agents` agents at once.
fn rate(log: &Log, broker: &str, round: &str, agents: u32, count: usize) -> Result<f64> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let node = log.node(folder.path(), broker, round, agents, STEPS)?;
    let goals = runs("run", count)?;
    let begun = Instant::now();
    node.publish(&goals)?;
    wait_for(&node, count)?;
    let took = begun.elapsed().as_secs_f64();
    node.stop();
    Ok((count * STEPS) as f64 / took)
}

/// From each goal to its result, in ms, ascending: goals of one step, each published when the one before has ended.
fn latencies(log: &Log, broker: &str, round: &str) -> Result<Vec<f64>> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let node = log.node(folder.path(), broker, round, 64, 1)?;
    let mut took = Vec::new();
    for (number, goal) in runs("goal", GOALS_AT_LIGHT_LOAD)?.into_iter().enumerate() {
        let begun = Instant::now();
        node.publish(&[goal])?;
        wait_for(&node, number + 1)?;
        took.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    node.stop();
    took.sort_by(f64::total_cmp);
    Ok(took)
}

/// The value below which so many of a hundred lie.
fn at(sorted: &[f64], percent: usize) -> f64 {
    sorted.get(sorted.len().saturating_sub(1) * percent / 100).copied().unwrap_or(f64::NAN)
}

#[expect(clippy::print_stdout, reason = "a bench prints its figures")]
fn main() -> Result<()> {
    let broker = Broker::start()?;
    let address = broker.bootstrap();
    let logs = [Log::Embedded, Log::Kafka { partitions: 4 }, Log::Kafka { partitions: 16 }];
    println!("{:<16} {:>8} {:>10} {:>12}", "log", "agents", "steps/s", "of embedded");
    for (agents, count) in [(16, 80), (128, 640)] {
        let mut embedded = f64::NAN;
        for (place, log) in logs.iter().enumerate() {
            let rounds = (0..ROUNDS)
                .map(|round| rate(log, &address, &format!("rate-{agents}-{place}-{round}"), agents, count))
                .collect::<Result<Vec<_>>>()?;
            let rate = median(rounds.into_iter());
            if matches!(log, Log::Embedded) {
                embedded = rate;
            }
            println!("{:<16} {agents:>8} {rate:>10.0} {:>12.2}", log.name(), rate / embedded);
        }
    }
    println!("\nfrom a goal to its result, one goal of one step at a time, ms");
    println!("{:<16} {:>8} {:>8} {:>8}", "log", "p50", "p99", "max");
    for (place, log) in logs.iter().enumerate() {
        let took = latencies(log, &address, &format!("latency-{place}"))?;
        println!("{:<16} {:>8.1} {:>8.1} {:>8.1}", log.name(), at(&took, 50), at(&took, 99), at(&took, 100));
    }
    println!("\nwanted: Kafka's share at p99 at most 100 ms");
    Ok(())
}
