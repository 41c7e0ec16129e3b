//! `kintsugi run DIR`: the main job.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kintsugi_eventlog::EmbeddedLog;
use kintsugi_eventlog::embedded::Options;
use kintsugi_events::Goal;
use kintsugi_gpu_scheduler::SchedulerStats;
use kintsugi_runtime::node::NodeParts;
use kintsugi_runtime::{Lanes, Node};
use kintsugi_types::{ModelName, TenantId};

use crate::cli::RunArguments;
use crate::cluster_run;
use crate::example::{self, Example};
use crate::failure::{Explain, Failure, when_full};
use crate::goals_file::GoalsFile;
use crate::log_choice::LogChoice;
use crate::model::{self, Backends, Probe};
use crate::node_parts::node_parts;
use crate::progress::Progress;
use crate::residency::{Point, Timeline};
use crate::residency_chart;
use crate::resolved::{self, Flags, Resolved};
use crate::run_folder::{RunFolder, Wanted, find_or_begin};
use crate::settings::Settings;
use crate::summary::{EMBEDDED, Ran, Summary};
use crate::terminal;
use crate::view::RunView;

/// How often progress is looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Goals that are appended at once.
pub(crate) const GOALS_AT_ONCE: usize = 64;

/// The picture of who was where, in the run's folder.
const RESIDENCY: &str = "residency.svg";

pub(crate) fn run(arguments: &RunArguments) -> Result<(), Failure> {
    let prepared = Prepared::new(arguments)?;
    match &arguments.node.log {
        LogChoice::Embedded => on_own_log(prepared),
        LogChoice::Kafka(brokers) => cluster_run::run(brokers, prepared),
    }
}

/// What a run is made of before its log is opened.
pub(crate) struct Prepared<'a> {
    pub(crate) arguments: &'a RunArguments,
    pub(crate) resolved: Resolved,
    pub(crate) goals: GoalsFile,
    backends: Backends,
    probe: Probe,
    pub(crate) folder: RunFolder,
}

/// A run whose folder is this process's alone, and which stays from now on.
pub(crate) struct Begun {
    pub(crate) example: Example,
    pub(crate) goals: GoalsFile,
    pub(crate) backends: Backends,
    pub(crate) folder: RunFolder,
}

impl<'a> Prepared<'a> {
    fn new(arguments: &'a RunArguments) -> Result<Self, Failure> {
        let dir = arguments.dir.as_path();
        let name = example::name_of(dir)?;
        let resolved = resolved::resolve(&dir.join("kintsugi.toml"), &Flags::from(&arguments.node))?;
        let settings = &resolved.settings;
        let goals_file = arguments.goals.clone().unwrap_or_else(|| dir.join("goals.jsonl"));
        let goals = GoalsFile::read(&goals_file, arguments.goal_count, &TenantId::default())?;
        // First of all, for it settles how many threads compute, and finds a broken model before anything is written.
        let (backends, probe) = model::factory(&resolved)?;
        let wanted = Wanted {
            example: &name,
            goals_hash: hash(goals.goals()),
            goals: goals.goals().len(),
            seed: settings.node.seed,
            cluster: match &arguments.node.log {
                LogChoice::Embedded => None,
                LogChoice::Kafka(_) => Some(&settings.kafka.prefix),
            },
        };
        let folder = find_or_begin(arguments.node.data_dir.as_deref(), &wanted)?;
        Ok(Self { arguments, resolved, goals, backends, probe, folder })
    }

    /// Begins the run, or goes on with it. Every other process has to be kept out of the folder by now, and for as long
    /// as what is returned lives: what a refused start takes away, it takes away under the lock.
    pub(crate) fn begin(self) -> Result<Begun, Failure> {
        let Self { arguments, resolved, goals, backends, mut probe, mut folder } = self;
        let (dir, settings) = (arguments.dir.as_path(), &resolved.settings);
        folder.check_unchanged()?;
        let files = folder.files();
        example::copy_data(dir, &files, folder.is_resumed)?;
        let example = example::load(dir, &files, settings, arguments.node.agents, &mut probe)?;
        // Its memory is the engine's that works.
        drop(probe);
        goals.check(&example.roster)?;
        agree_on_config(&mut folder, &example)?;
        say(arguments, &opening(&folder, &example, settings));
        Ok(Begun { example, goals, backends, folder })
    }
}

/// A run on a log of its own, in its folder.
fn on_own_log(prepared: Prepared<'_>) -> Result<(), Failure> {
    let (arguments, settings) = (prepared.arguments, prepared.resolved.settings.clone());
    // Its lock keeps every other process out of the folder from here on.
    let log = Arc::new(EmbeddedLog::open(RunFolder::log(&prepared.folder.path), Options::default())?);
    let Begun { mut example, goals, backends, folder } = prepared.begin()?;
    let tenant = folder.tenant()?;
    let goals: Vec<Goal> = goals
        .goals()
        .zip(0..)
        .map(|(goal, index)| Goal { tenant: tenant.clone(), index: Some(index), ..goal.clone() })
        .collect();
    let begun = Instant::now();
    let lanes = Lanes::Only(log.clone());
    let parts =
        node_parts(&settings, &example, (folder.store(), tenant), lanes, backends, arguments.node.chaos);
    let outcome = work(arguments, parts, &goals, &log, &mut example)?;
    let view = RunView::read(log.as_ref())?;
    finish(arguments, folder, &example, &view, &outcome, (EMBEDDED, log.size().bytes, begun))
}

/// Tells what came of a run that was worked to its end. `log` says of which kind its log is, how large, and when the
/// run was begun or gone on with.
pub(crate) fn finish(
    arguments: &RunArguments,
    mut folder: RunFolder,
    example: &Example,
    view: &RunView,
    outcome: &Outcome,
    (log_kind, log_bytes, begun): (&'static str, u64, Instant),
) -> Result<(), Failure> {
    draw_residency(&folder, outcome)?;
    let summary = Summary::new(
        view,
        &Ran {
            folder: &folder,
            wall_s: begun.elapsed().as_secs_f64(),
            agents_total: example.agents_total(),
            log_kind,
            log_bytes,
            stats: &outcome.stats,
            smaller: outcome.smaller.as_ref(),
            tools: &example.tools,
        },
    );
    folder.manifest.is_finished = true;
    folder.save()?;
    outcome.progress.last(&summary);
    summary.write(arguments.node.format)?;
    judge(view, outcome)
}

/// What is left of a node when it has stopped.
pub(crate) struct Outcome {
    pub(crate) stats: SchedulerStats,
    /// The smaller model's own part of them, where there is one.
    pub(crate) smaller: Option<(ModelName, SchedulerStats)>,
    pub(crate) violations: u64,
    pub(crate) timeline: Timeline,
    pub(crate) progress: Progress,
}

fn work(
    arguments: &RunArguments,
    parts: NodeParts,
    goals: &[Goal],
    log: &Arc<EmbeddedLog>,
    example: &mut Example,
) -> Result<Outcome, Failure> {
    let agents_total = example.agents_total();
    let before = RunView::read(log.as_ref())?;
    let published: HashSet<_> = before.goals.keys().cloned().collect();
    let mut done_before = before.goals.len() - before.open_goals();
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = interrupted.clone();
    ctrlc::set_handler(move || flag.store(true, Ordering::SeqCst))
        .outside(|| "listen for Ctrl-C".to_owned())?;
    let store = parts.config.store_dir.clone();
    let node = Node::start(parts).outside(|| format!("start the node on {}", store.display()))?;
    let missing: Vec<Goal> = goals
        .iter()
        .filter(|goal| goal.id.as_ref().is_none_or(|id| !published.contains(id)))
        .cloned()
        .collect();
    for batch in missing.chunks(GOALS_AT_ONCE) {
        node.publish(batch).outside(|| "publish goals".to_owned())?;
    }
    let mut progress = Progress::new(goals.len(), agents_total, arguments.node.quiet);
    let begun = Instant::now();
    let mut timeline = Timeline::default();
    loop {
        let status = node.status();
        timeline.take(Point::of(begun.elapsed(), agents_total, &status, &node.scheduler_stats()));
        let done = done_before + usize::try_from(status.goals_settled()).unwrap_or(usize::MAX);
        progress.show(done, &status);
        if let Some(reason) = &status.log_failure {
            progress.finish();
            return Err(Failure::outside(format_args!(
                "the node stopped: {reason}; what was acknowledged is safe{}; the same command resumes the run",
                when_full(reason)
            )));
        }
        if node.has_ended() {
            progress.finish();
            return Err(Failure::job("the node ended by itself; the same command resumes the run"));
        }
        if let Some(said) = example.policies.follow(Instant::now()) {
            progress.note(&said);
        }
        if done >= goals.len() {
            // The counters are for display; the log has the last word.
            let open = RunView::read(log.as_ref())?.open_goals();
            if open == 0 {
                break;
            }
            done_before = done_before.saturating_sub(open);
        }
        if interrupted.load(Ordering::SeqCst) {
            progress.finish();
            node.stop();
            return Err(Failure::interrupted(format_args!(
                "interrupted after {done} of {} goals; the same command resumes the run",
                goals.len()
            )));
        }
        std::thread::park_timeout(LOOK_EVERY);
    }
    progress.finish();
    let (stats, smaller) = (node.scheduler_stats(), node.smaller_stats());
    let violations = node.invariants().total();
    node.stop();
    Ok(Outcome { stats, smaller, violations, timeline, progress })
}

/// Leaves a picture in the run's folder of who was where, and what that took.
fn draw_residency(folder: &RunFolder, outcome: &Outcome) -> Result<(), Failure> {
    let Outcome { stats, timeline, .. } = outcome;
    let name = format!("{}, {}", folder.manifest.example, folder.manifest.run);
    let svg = residency_chart::draw(&name, timeline.points(), stats.memory_budget, stats.memory_peak);
    let file = folder.path.join(RESIDENCY);
    std::fs::write(&file, svg).outside(|| format!("write {}", file.display()))
}

/// A resumed run must have the configuration that it began with.
fn agree_on_config(folder: &mut RunFolder, example: &Example) -> Result<(), Failure> {
    if !folder.is_resumed {
        folder.manifest.config_hash.clone_from(&example.config_hash);
        folder.manifest.roster = Some(example.roster.clone());
        return folder.save();
    }
    if folder.manifest.config_hash == example.config_hash {
        return Ok(());
    }
    Err(Failure::usage(format_args!(
        "{} holds an unfinished run with another configuration: take the change back to resume it, or begin anew with --data-dir NEW",
        folder.path.display()
    )))
}

fn hash<'a>(goals: impl Iterator<Item = &'a Goal>) -> String {
    let mut hasher = blake3::Hasher::new();
    for goal in goals {
        hasher.update(&serde_json::to_vec(goal).unwrap_or_default());
    }
    hasher.finalize().to_hex().to_string()
}

fn opening(folder: &RunFolder, example: &Example, settings: &Settings) -> String {
    let agents = example.agents_total();
    let verb = if folder.is_resumed { "resuming" } else { "running" };
    format!(
        "{verb} {}: {} goals, {agents} agents, {} at a time on {}, in {}",
        example.name,
        folder.manifest.goals,
        settings.node.slots,
        settings.model.named(),
        folder.path.display()
    )
}

fn say(arguments: &RunArguments, line: &str) {
    if !arguments.node.quiet {
        terminal::say(line);
    }
}

/// The promises, checked on the log that is left.
fn judge(view: &RunView, outcome: &Outcome) -> Result<(), Failure> {
    let open = view.open_goals();
    if open > 0 {
        return Err(Failure::job(format_args!("{open} goals have no result")));
    }
    if let Some((id, reason)) = view.refused_goals().next() {
        let refused = view.refused_goals().count();
        return Err(Failure::usage(format_args!(
            "{refused} of {} goals could not be taken, the first: {id}: {reason}; mend it and run them \
             in a new folder",
            view.goals.len()
        )));
    }
    if let Some(first) = view.contradictions.first() {
        return Err(Failure::job(format_args!(
            "{} contradictions in the log, the first: {first}",
            view.contradictions.len()
        )));
    }
    if outcome.violations > 0 {
        return Err(Failure::job(format_args!("{} invariants were broken, see the log", outcome.violations)));
    }
    Ok(())
}
