//! Durable steps a second, with an instant model and an instant tool: what the runtime itself costs.
//!
//! A run is ten steps; each is a model call and a tool call, both durable before the next: two commits. The
//! reference, in the same run, is a bare write of 512 bytes and one `fdatasync`.

#[path = "support/instant.rs"]
mod instant;
#[path = "support/sync.rs"]
mod sync;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use kintsugi_eventlog::EmbeddedLog;
use kintsugi_eventlog::embedded::Options;
use kintsugi_runtime::{Node, Stages};
use kintsugi_tests::scripted_node::{Wiring, parts_with};
use kintsugi_types::ToolName;
use serde_json::Value;

use crate::instant::{answer, median, registry};
use crate::sync::sync_time;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Steps of one run, the last of which finishes.
const STEPS: usize = 10;

/// Rounds of which the median is taken: the time of a sync differs from second to second.
const ROUNDS: usize = 5;

/// When the tool was called last, and how long after the call before it each call of a run came: with one agent that
/// is a step.
#[derive(Default)]
struct Calls {
    last: Option<Instant>,
    gaps: Vec<Duration>,
}

impl Calls {
    fn note(&mut self, is_first_of_run: bool) {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now)
            && !is_first_of_run
        {
            self.gaps.push(now.duration_since(last));
        }
    }
}

/// Works `runs` runs with `agents` agents at once, and returns how long it took, and the times between calls.
fn work(folder: &Path, agents: u32, runs: usize, stages: Stages) -> Result<(Duration, Vec<Duration>)> {
    let log = Arc::new(EmbeddedLog::open(folder.join("log"), Options::default())?);
    let act = ToolName::new("act")?;
    let calls = Arc::new(Mutex::new(Calls::default()));
    let noted = calls.clone();
    let tools = registry(move |call| {
        if agents == 1 {
            noted
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .note(call.args.get("n").and_then(Value::as_u64) == Some(0));
        }
    })?;
    let parts = parts_with(
        folder,
        log,
        tools,
        agents,
        move |request| answer(STEPS, &act, request),
        Wiring { stages, ..Wiring::default() },
    )?;
    let node = Node::start(parts)?;
    let goals = instant::runs("run", runs)?;
    let begun = Instant::now();
    node.publish(&goals)?;
    while node.status().goals_settled() < runs as u64 {
        if node.has_ended() {
            bail!("the node ended by itself");
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
    let took = begun.elapsed();
    let broken = node.invariants().total();
    node.stop();
    if broken > 0 {
        bail!("{broken} invariants were broken");
    }
    let gaps = std::mem::take(&mut calls.lock().unwrap_or_else(PoisonError::into_inner).gaps);
    Ok((took, gaps))
}

#[expect(clippy::print_stdout, reason = "a bench prints its figures")]
fn main() -> Result<()> {
    println!("{:>7} {:>6} {:>10} {:>14} {:>14}", "agents", "runs", "steps/s", "ms per step", "in fdatasyncs");
    for (agents, runs) in [(1, 40), (16, 320), (128, 1_280)] {
        let rounds = (0..ROUNDS).map(|_| round(agents, runs, Stages::ALL)).collect::<Result<Vec<_>>>()?;
        let steps_a_second = median(rounds.iter().map(|round| round.steps_a_second));
        let step_ms = median(rounds.iter().map(|round| round.step_ms));
        let step_syncs = median(rounds.iter().map(|round| round.step_syncs));
        println!("{agents:>7} {runs:>6} {steps_a_second:>10.0} {step_ms:>14.2} {step_syncs:>14.1}");
        if agents == 1 {
            let p50_ms = median(rounds.iter().map(|round| round.p50_ms));
            let p50_syncs = median(rounds.iter().map(|round| round.p50_syncs));
            println!("{:>7} {:>6} {:>10} {p50_ms:>14.2} {p50_syncs:>14.1}", "", "", "p50");
        }
    }
    healing_costs(128, 1_280)
}

/// What the healing stages take of the rate, where nothing is to be healed: the same work with them and without, in
/// turn.
#[expect(clippy::print_stdout, reason = "a bench prints its figures")]
fn healing_costs(agents: u32, runs: usize) -> Result<()> {
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        with.push(round(agents, runs, Stages::ALL)?.steps_a_second);
        without.push(round(agents, runs, Stages::NONE)?.steps_a_second);
    }
    let (with, without) = (median(with.into_iter()), median(without.into_iter()));
    println!(
        "\nhealing stages, {agents} agents: {with:.0} steps/s with, {without:.0} without, ratio {:.2}",
        with / without
    );
    Ok(())
}

/// What one round measured.
struct Round {
    steps_a_second: f64,
    /// With one agent the steps follow one another; with many this is what each waits for its turn as well.
    step_ms: f64,
    /// The same in times of a sync, measured just before.
    step_syncs: f64,
    /// The median step within a run, without the beginning and the end of one; with one agent only.
    p50_ms: f64,
    p50_syncs: f64,
}

fn round(agents: u32, runs: usize, stages: Stages) -> Result<Round> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let sync = sync_time(folder.path())?;
    let (took, gaps) = work(folder.path(), agents, runs, stages)?;
    let (took, p50) = (took.as_secs_f64(), median(gaps.iter().map(Duration::as_secs_f64)));
    let steps = (runs * STEPS) as f64;
    let step = took * f64::from(agents) / steps;
    let sync = sync.as_secs_f64();
    Ok(Round {
        steps_a_second: steps / took,
        step_ms: step * 1e3,
        step_syncs: step / sync,
        p50_ms: p50 * 1e3,
        p50_syncs: p50 / sync,
    })
}
