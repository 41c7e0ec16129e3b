//! A scripted node in a process of its own: publishes its goals, works them to the end, and exits 0. It can be told
//! to die at a boundary, without any clean-up, as in a power cut of the process.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Parser;
use kintsugi_eventlog::embedded::{Boundary, Options};
use kintsugi_eventlog::{EmbeddedLog, LogReader as _, Lsn};
use kintsugi_gpu_scheduler::scripted;
use kintsugi_runtime::config::{EffectBoundary, EffectProbe};
use kintsugi_runtime::{AskSettings, Keep, Node, Stages};
use kintsugi_tests::audit::Audit;
use kintsugi_tests::diagnosing;
use kintsugi_tests::scripted_node::{Wiring, goals, goals_from, parts};
use kintsugi_tests::smaller_model;
use kintsugi_types::{ByteCount, Clock as _, Score, SystemClock};

#[derive(Parser)]
struct Arguments {
    /// Where the node lives.
    folder: PathBuf,
    /// How many goals it works.
    goals: usize,
    /// Where it dies: `BOUNDARY:COUNT`.
    #[arg(long)]
    die_at: Option<String>,
    /// The number of its first goal.
    #[arg(long, default_value_t = 1)]
    first: usize,
    /// Files of so many bytes make its log, of which it keeps about `--retain-bytes` and what is younger than
    /// `--retain-ms`. It then runs until it is killed, whatever its goals are at.
    #[arg(long, requires_all = ["retain_bytes", "retain_ms"])]
    segment_bytes: Option<u64>,
    #[arg(long)]
    retain_bytes: Option<u64>,
    #[arg(long)]
    retain_ms: Option<u64>,
    /// Finds so many anomalies of which the rules are not sure, unless an earlier life has, and asks the model about
    /// each. It then ends as soon as all have a diagnosis, whatever its goals are at.
    #[arg(long)]
    anomalies: Option<u32>,
    /// Its model says nonsense to who is not on lighter work.
    #[arg(long, conflicts_with = "segment_bytes")]
    ill: bool,
    /// It has a smaller model as well.
    #[arg(long, requires = "ill")]
    smaller: bool,
}

/// Counts the passes of one boundary down and aborts at the last.
struct Fuse {
    boundary: String,
    left: AtomicI64,
}

impl Fuse {
    fn pass(&self, boundary: &str) {
        if self.boundary == boundary && self.left.fetch_sub(1, Ordering::SeqCst) <= 1 {
            std::process::abort();
        }
    }
}

/// Lets go of the log's oldest again and again, until the process is killed.
fn keep_short(node: &Node, bytes: u64, age_ms: u64) -> Result<()> {
    let keep =
        Keep { age_min: Duration::from_millis(age_ms), bytes_min: ByteCount(bytes), from: Lsn(u64::MAX) };
    while !node.has_ended() {
        node.retain(&keep)?;
        std::thread::park_timeout(Duration::from_millis(5));
    }
    bail!("the node ended by itself")
}

/// Has the anomalies diagnosed by a model that dies with the fuse.
fn diagnose(
    folder: &Path,
    log: &Arc<EmbeddedLog>,
    wiring: Wiring,
    count: u32,
    fuse: Arc<Fuse>,
) -> Result<()> {
    let has_begun = log.end_lsn() > log.start_lsn();
    let ask = AskSettings { below: Score::new(0.7), deadline: Duration::from_mins(1), tokens_max: 64 };
    let stages = Stages { diagnose: true, ..Stages::NONE };
    let mut parts = parts(folder, log.clone(), Wiring { ask: Some(ask), stages, ..wiring })?;
    parts.backend = scripted::instant(move |request| {
        fuse.pass("ask");
        diagnosing::answer(request)
    });
    if !has_begun {
        let anomalies = (0..count).map(|number| diagnosing::slow_call(number, &format!("tool-{number}")));
        diagnosing::append(log.as_ref(), &anomalies.collect::<Result<Vec<_>>>()?, SystemClock.now())?;
    }
    let node = Node::start(parts)?;
    while diagnosing::diagnoses(log.as_ref())?.len() < usize::try_from(count)? {
        if node.has_ended() {
            bail!("the node ended by itself");
        }
        std::thread::park_timeout(Duration::from_millis(2));
    }
    node.stop();
    Ok(())
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let (boundary, count) =
        arguments.die_at.as_deref().and_then(|text| text.split_once(':')).unwrap_or(("", "0"));
    let fuse = Arc::new(Fuse { boundary: boundary.to_owned(), left: AtomicI64::new(count.parse()?) });
    let smaller_fuse = fuse.clone();
    let mut options = Options::default();
    let mut wiring = Wiring::default();
    if arguments.die_at.is_some() {
        let log_fuse = fuse.clone();
        options.probe = Some(Arc::new(move |boundary: Boundary| {
            log_fuse.pass(boundary.name());
            Ok(())
        }));
        let effect_fuse = fuse.clone();
        wiring.effect_probe = Some(EffectProbe(Arc::new(move |boundary| {
            effect_fuse.pass(match boundary {
                EffectBoundary::BeforeStart => "effect-start",
                EffectBoundary::AfterEnd => "effect-end",
            });
        })));
    }
    if let Some(bytes) = arguments.segment_bytes {
        options.segment_bytes = ByteCount(bytes);
    }
    let log = Arc::new(EmbeddedLog::open(arguments.folder.join("log"), options)?);
    if let Some(count) = arguments.anomalies {
        return diagnose(&arguments.folder, &log, wiring, count, fuse);
    }
    if let (Some(bytes), Some(age_ms)) = (arguments.retain_bytes, arguments.retain_ms) {
        let node = Node::start(parts(&arguments.folder, log, wiring)?)?;
        node.publish(&goals_from(arguments.first, arguments.goals)?)?;
        return keep_short(&node, bytes, age_ms);
    }
    let before = Audit::of(log.as_ref())?;
    let ended_before = before.goals.len() - before.open_goals();
    let node = Node::start(if arguments.ill {
        let answer = move |request: &_| {
            smaller_fuse.pass("smaller-asked");
            smaller_model::sound(request)
        };
        let parts = smaller_model::ill_parts(&arguments.folder, log, wiring)?;
        if arguments.smaller { smaller_model::with_smaller(parts, answer)? } else { parts }
    } else {
        parts(&arguments.folder, log, wiring)?
    })?;
    // A goal that is there already is acknowledged again and not worked again.
    let goals = goals(arguments.goals)?;
    node.publish(&goals)?;
    while ended_before + usize::try_from(node.status().goals_ended())? < goals.len() {
        if node.has_ended() {
            bail!("the node ended by itself");
        }
        std::thread::park_timeout(Duration::from_millis(2));
    }
    let violations = node.invariants().total();
    node.stop();
    if violations > 0 {
        bail!("{violations} invariants were broken");
    }
    Ok(())
}
