//! How much of the disk's own speed the embedded log keeps.
//!
//! 400,000 events of 512 bytes, in batches of 64 with one `fdatasync` each, through the log and as plain writes of
//! just as many bytes, in turns of 10,000 events and in one directory, so that both meet the same neighbours.
//!
//! `cargo bench -p kintsugi-eventlog`; a number as argument takes that many events.
#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use kintsugi_eventlog::embedded::Options;
use kintsugi_eventlog::{Append, EmbeddedLog, EventLog as _, LogError, NewRecord};
use kintsugi_events::{Envelope, Subject, Topic};
use kintsugi_types::{AgentId, GoalId, SeededIds, Timestamp};

const EVENTS: u64 = 400_000;
const EVENT_BYTES: usize = 512;
const BATCH: u64 = 64;
const ROUNDS: u64 = 40;
/// Where an agent's event goes, as in a node.
const PARTITIONS: u64 = 16;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let events = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(EVENTS);
    let batches = (events / ROUNDS / BATCH).max(1);
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let appends = appends()?;

    let folder = |name: &str| directory.path().join(name);
    // Batches are queued ahead and the log may not join them: one sync for each.
    let one_each = Options { group_records_max: 64, ..Options::default() };

    let mut pipelined = Vec::new();
    let mut raw = Vec::new();
    let mut waiting = Vec::new();
    let mut grouped = Vec::new();
    for _ in 0..ROUNDS {
        let (run, bytes) = through_log(&folder("log"), one_each.clone(), &appends, batches)?;
        pipelined.push(run);
        raw.push(plain_writes(&folder("raw"), bytes / batches, batches)?);
        waiting.push(one_by_one(&folder("waiting"), &appends, batches)?);
        grouped.push(through_log(&folder("grouped"), Options::default(), &appends, batches)?.0);
    }
    println!(
        "{} events of {EVENT_BYTES} B in batches of {BATCH}, {ROUNDS} rounds, medians\n",
        batches * BATCH * ROUNDS
    );
    println!(
        "| | events/s | of raw in the same round | CPU µs an event, user + system | commit p50 / p99 ms |"
    );
    println!("|---|---|---|---|---|");
    row("raw write + fdatasync of the same bytes", &raw, &raw);
    row("log, one fdatasync a batch", &pipelined, &raw);
    row("log, each batch waited for", &waiting, &raw);
    row("log, up to 1024 events a commit", &grouped, &raw);
    println!("\nratio {:.2} (goal: at least 0.70)", ratio(&pipelined, &raw));
    Ok(())
}

#[derive(Debug, Clone)]
struct Run {
    events_per_s: f64,
    /// Of this process: its own, and the kernel's on its behalf.
    cpu_us_per_event: (f64, f64),
    /// From asking to being told, ascending; empty where batches are queued ahead.
    commits: Vec<Duration>,
}

fn row(name: &str, runs: &[Run], raw: &[Run]) {
    // The kernel counts in hundredths of a second: only the sum over the rounds says something.
    let mean = |of: fn(&Run) -> f64| runs.iter().map(of).sum::<f64>() / runs.len() as f64;
    let (user, system) = (mean(|run| run.cpu_us_per_event.0), mean(|run| run.cpu_us_per_event.1));
    let mut commits: Vec<Duration> = runs.iter().flat_map(|run| run.commits.iter().copied()).collect();
    commits.sort_unstable();
    let at = |share: usize| commits.get(commits.len() * share / 100).map(|time| time.as_secs_f64() * 1e3);
    let times =
        at(50).zip(at(99)).map_or_else(|| "–".to_owned(), |(p50, p99)| format!("{p50:.2} / {p99:.2}"));
    let speed = middle(runs.iter().map(|run| run.events_per_s));
    println!("| {name} | {speed:.0} | {:.2} | {user:.2} + {system:.2} | {times} |", ratio(runs, raw));
}

/// The median over the rounds: both of a round meet about the same neighbours.
fn ratio(runs: &[Run], raw: &[Run]) -> f64 {
    middle(runs.iter().zip(raw).map(|(run, raw)| run.events_per_s / raw.events_per_s))
}

fn middle(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// A few batches of journal events, to be appended in turn.
fn appends() -> Result<Vec<Append>, Failure> {
    let mut ids = SeededIds::new(7);
    let mut batch = |first: u64| -> Result<Append, Failure> {
        let mut records = Vec::new();
        for number in first..first + BATCH {
            let subject = Subject::Agent(AgentId::new(format!("support-{number}"))?);
            let time = Timestamp::from_timestamp_millis(1_767_225_600_000).unwrap_or_default();
            let mut envelope =
                Envelope::new(&mut ids, "/kintsugi/node-1/agents".into(), subject.clone(), time);
            envelope.sequence = Some(number);
            envelope.goal = Some(GoalId::new(format!("goal-{number}"))?);
            records.push(NewRecord {
                topic: Topic::Agents,
                partition: u32::try_from(number % PARTITIONS)?,
                envelope: Some(envelope),
                event_type: "dev.kintsugi.observation.recorded.v1".into(),
                key: subject.to_string(),
                value: vec![b'x'; EVENT_BYTES],
            });
        }
        Ok(Append { records, positions: Vec::new() })
    };
    (0..16).map(|place| batch(place * BATCH)).collect()
}

/// Queues batches as fast as the log takes them.
fn through_log(
    directory: &Path,
    options: Options,
    appends: &[Append],
    batches: u64,
) -> Result<(Run, u64), Failure> {
    let log = EmbeddedLog::open(directory, options)?;
    let before = log.size().bytes;
    let committed = Arc::new(AtomicU64::new(0));
    let (told, room) = mpsc::channel();
    let meter = Meter::start()?;
    for append in appends.iter().cycle().take(usize::try_from(batches)?) {
        loop {
            let (committed, told) = (Arc::clone(&committed), told.clone());
            let on_commit = move |outcome: Result<_, LogError>| {
                committed.fetch_add(u64::from(outcome.is_ok()), Ordering::Relaxed);
                // Whoever waits for room is told of each commit.
                let _ = told.send(());
            };
            match log.append(append, Box::new(on_commit)) {
                Ok(()) => break,
                Err(LogError::Full { .. }) => room.recv()?,
                Err(other) => return Err(other.into()),
            }
        }
    }
    log.flush()?;
    let run = meter.stop(batches, Vec::new())?;
    assert_eq!(committed.load(Ordering::Relaxed), batches, "every batch is durable");
    let bytes = log.size().bytes - before;
    Ok((run, bytes))
}

/// Waits for each batch before the next is made, as a single agent does.
fn one_by_one(directory: &Path, appends: &[Append], batches: u64) -> Result<Run, Failure> {
    let log = EmbeddedLog::open(directory, Options::default())?;
    let mut commits = Vec::new();
    let meter = Meter::start()?;
    for append in appends.iter().cycle().take(usize::try_from(batches)?) {
        let begun = Instant::now();
        log.append_wait(append)?;
        commits.push(begun.elapsed());
    }
    meter.stop(batches, commits)
}

fn plain_writes(path: &Path, batch_bytes: u64, batches: u64) -> Result<Run, Failure> {
    let bytes = vec![b'x'; usize::try_from(batch_bytes)?];
    let mut file = File::options().create(true).append(true).open(path)?;
    let mut commits = Vec::new();
    let meter = Meter::start()?;
    for _ in 0..batches {
        let begun = Instant::now();
        file.write_all(&bytes)?;
        file.sync_data()?;
        commits.push(begun.elapsed());
    }
    meter.stop(batches, commits)
}

struct Meter {
    begun: Instant,
    cpu_ticks: (f64, f64),
}

impl Meter {
    fn start() -> Result<Self, Failure> {
        Ok(Self { begun: Instant::now(), cpu_ticks: cpu_ticks()? })
    }

    fn stop(self, batches: u64, commits: Vec<Duration>) -> Result<Run, Failure> {
        let events = (batches * BATCH) as f64;
        let events_per_s = events / self.begun.elapsed().as_secs_f64();
        let (user, system) = cpu_ticks()?;
        let us = |ticks: f64| ticks * 10_000.0 / events;
        let cpu_us_per_event = (us(user - self.cpu_ticks.0), us(system - self.cpu_ticks.1));
        Ok(Run { events_per_s, cpu_us_per_event, commits })
    }
}

/// User and system time of this process, in hundredths of a second; 0 where there is no `/proc`.
fn cpu_ticks() -> Result<(f64, f64), Failure> {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return Ok((0.0, 0.0)) };
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let tick = |place: usize| fields.get(place).map_or(Ok(0.0), |field| field.parse::<f64>());
    Ok((tick(11)?, tick(12)?))
}
