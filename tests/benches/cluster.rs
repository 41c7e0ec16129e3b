//! A whole node on a Kafka cluster beside the same node on the embedded log: durable steps a second with an instant
//! model and an instant tool, and the time from a goal to its result at light load. The broker is a real one, on the
//! same machine.

#[path = "support/instant.rs"]
mod instant;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use kintsugi_broker::Broker;
use kintsugi_eventlog::embedded;
use kintsugi_eventlog::kafka::topics::{self, TopicPlan};
use kintsugi_eventlog::kafka::{Connection, KafkaLog, Options, Transactions};
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

/// The lanes that a node opened.
type Opened = Arc<Mutex<Vec<Arc<KafkaLog>>>>;

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

    /// A node with `agents` agents whose runs have `steps` steps, and its lanes on Kafka. `round` tells its topics from
    /// others.
    fn node(
        &self,
        folder: &Path,
        broker: &str,
        round: &str,
        agents: u32,
        steps: usize,
    ) -> Result<(Node, Opened)> {
        let opened = Opened::default();
        let act = ToolName::new("act")?;
        let model = move |request: &_| answer(steps, &act, request);
        match self {
            Self::Embedded => {
                let log = Arc::new(EmbeddedLog::open(folder.join("log"), embedded::Options::default())?);
                let parts = parts_with(folder, log, registry(|_| ())?, agents, model, Wiring::default())?;
                Ok((Node::start(parts)?, opened))
            }
            Self::Kafka { partitions } => {
                let connection = Connection { prefix: round.into(), ..Connection::new(broker) };
                let plan = TopicPlan { partitions: *partitions, ..TopicPlan::default() };
                topics::create(&connection, &plan, PATIENCE)?;
                let known = Arc::clone(&opened);
                let open = Arc::new(move |number| {
                    let log = Arc::new(KafkaLog::open(Options::new(connection.clone(), [number]))?);
                    known.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&log));
                    let log: Arc<dyn EventLog> = log;
                    Ok(log)
                });
                let lanes = Lanes::Shared { partitions: *partitions, open };
                let node = Node::start(parts_with(
                    folder,
                    lanes,
                    registry(|_| ())?,
                    agents,
                    model,
                    Wiring::default(),
                )?)?;
                let all: Vec<u32> = (0..*partitions).collect();
                node.gain_lanes(&all);
                let begun = Instant::now();
                while node.lanes().len() < all.len() {
                    if begun.elapsed() > PATIENCE {
                        bail!("only the lanes {:?} are open", node.lanes());
                    }
                    std::thread::park_timeout(Duration::from_millis(5));
                }
                Ok((node, opened))
            }
        }
    }
}

fn wait_for(node: &Node, settled: usize) -> Result<()> {
    while node.status().goals_settled() < settled as u64 {
        if node.has_ended() {
            bail!("the node ended by itself");
        }
        // Looking costs time of the two cores that everything runs on.
        std::thread::park_timeout(Duration::from_millis(1));
    }
    Ok(())
}

/// Transactions of all lanes together.
fn transactions(opened: &Opened) -> Transactions {
    let opened = opened.lock().unwrap_or_else(PoisonError::into_inner);
    opened.iter().map(|log| log.transactions()).fold(Transactions::default(), |sum, one| Transactions {
        count: sum.count + one.count,
        records: sum.records + one.records,
        partitions: sum.partitions + one.partitions,
        sending: sum.sending + one.sending,
        delivering: sum.delivering + one.delivering,
        storing: sum.storing + one.storing,
        committing: sum.committing + one.committing,
    })
}

/// What a round came to. Times are those of one transaction.
struct Round {
    steps_per_s: f64,
    transactions_per_s: f64,
    records: f64,
    partitions: f64,
    sending_ms: f64,
    storing_ms: f64,
    delivering_ms: f64,
    committing_ms: f64,
}

/// Steps a second of `count` runs with `agents` agents at once.
fn rate(log: &Log, broker: &str, round: &str, agents: u32, count: usize) -> Result<Round> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let (node, opened) = log.node(folder.path(), broker, round, agents, STEPS)?;
    let goals = runs("run", count)?;
    let begun = Instant::now();
    node.publish(&goals)?;
    wait_for(&node, count)?;
    let took = begun.elapsed().as_secs_f64();
    let all = transactions(&opened);
    node.stop();
    let each = |sum: f64| sum / all.count.max(1) as f64;
    let each_ms = |phase: Duration| each(phase.as_secs_f64() * 1e3);
    Ok(Round {
        steps_per_s: (count * STEPS) as f64 / took,
        transactions_per_s: all.count as f64 / took,
        records: each(all.records as f64),
        partitions: each(all.partitions as f64),
        sending_ms: each_ms(all.sending),
        storing_ms: each_ms(all.storing),
        delivering_ms: each_ms(all.delivering),
        committing_ms: each_ms(all.committing),
    })
}

/// From each goal to its result, in ms, ascending: goals of one step, each published when the one before has ended.
fn latencies(log: &Log, broker: &str, round: &str) -> Result<Vec<f64>> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let (node, _) = log.node(folder.path(), broker, round, 64, 1)?;
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
    println!(
        "steps a second; of one transaction: records, partitions, and ms until its records are sent, its positions"
    );
    println!("stored, its records delivered, and it is committed");
    println!(
        "{:<16} {:>8} {:>10} {:>12} {:>8} {:>8} {:>10} {:>6} {:>6} {:>8} {:>7}",
        "log",
        "agents",
        "steps/s",
        "of embedded",
        "txns/s",
        "records",
        "partitions",
        "send",
        "store",
        "deliver",
        "commit"
    );
    for (agents, count) in [(16, 80), (128, 640)] {
        let mut embedded = f64::NAN;
        for (place, log) in logs.iter().enumerate() {
            let rounds = (0..ROUNDS)
                .map(|round| rate(log, &address, &format!("rate-{agents}-{place}-{round}"), agents, count))
                .collect::<Result<Vec<_>>>()?;
            let middle = |of: fn(&Round) -> f64| median(rounds.iter().map(of));
            let rate = middle(|round| round.steps_per_s);
            if matches!(log, Log::Embedded) {
                embedded = rate;
            }
            println!(
                "{:<16} {agents:>8} {rate:>10.0} {:>12.2} {:>8.0} {:>8.1} {:>10.1} {:>6.1} {:>6.1} {:>8.1} {:>7.1}",
                log.name(),
                rate / embedded,
                middle(|round| round.transactions_per_s),
                middle(|round| round.records),
                middle(|round| round.partitions),
                middle(|round| round.sending_ms),
                middle(|round| round.storing_ms),
                middle(|round| round.delivering_ms),
                middle(|round| round.committing_ms),
            );
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
