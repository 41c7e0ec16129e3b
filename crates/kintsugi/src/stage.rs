//! `kintsugi stage STAGE`: a healing stage as a process of its own, beside nodes that leave it alone.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kintsugi_runtime::{StageKind, StageName, StageNode, StageNodeParts, StatusSnapshot};
use kintsugi_types::SystemClock;
use serde_json::json;

use crate::cli::{Format, StageArguments};
use crate::cluster::StageCluster;
use crate::diagnose_settings::ByModel;
use crate::failure::{Explain as _, Failure};
use crate::log_choice::LogChoice;
use crate::policies::PolicyFolder;
use crate::resolved::{self, Flags, Resolved};
use crate::settings_shown;
use crate::signals::{Ending, Signals};
use crate::stage_folder::StageFolder;
use crate::terminal;

/// How often the command looks at signals and at the stage.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How often it is told how much was written, at most.
const TELL_EVERY: Duration = Duration::from_secs(1);

pub(crate) fn stage(arguments: &StageArguments) -> Result<(), Failure> {
    let name = StageName::from(arguments.stage);
    let dir = arguments.dir.as_path();
    if !dir.is_dir() {
        return Err(Failure::usage(format_args!("{} is no folder: name that of the nodes", dir.display())));
    }
    let flags = Flags { seed: arguments.seed, mode: arguments.mode, ..Flags::default() };
    let resolved = resolved::resolve(&dir.join("kintsugi.toml"), &flags)?;
    if arguments.print_config {
        return settings_shown::show(&resolved, arguments.format);
    }
    let LogChoice::Kafka(brokers) = &arguments.log else {
        return Err(Failure::usage(format_args!(
            "a stage by itself reads what nodes write to a cluster, and the embedded log is one process's: name the \
             cluster with --log kafka://HOST:PORT, or leave {name} to the node"
        )));
    };
    let settings = &resolved.settings;
    let (kind, mut policies) = kind_of(name, &resolved, dir)?;
    let signals = Signals::listen()?;
    // Before a folder is begun: a start that is refused leaves none behind.
    let cluster = StageCluster::open(brokers, settings, dir, name)?;
    let folder = StageFolder::open(arguments.data_dir.as_deref(), name)?;
    let parts = StageNodeParts {
        stage: kind,
        partitions: cluster.partitions,
        open: cluster.opener(),
        store_dir: folder.store(),
        clock: Arc::new(SystemClock),
    };
    let node = StageNode::start(parts).outside(|| format!("start the stage {name}"))?;
    let node = Arc::new(node);
    let membership = cluster.join(&node, &folder.member)?;
    announce(arguments, name, &folder.path)?;
    if settings.stages.inside().has(name) {
        terminal::say(&format!(
            "the nodes have to leave the stage alone: `{name} = \"external\"` in the section [stages] of their settings"
        ));
    }
    let ending = look_after(&node, &cluster, &signals, policies.as_mut(), (name, arguments.quiet));
    // Its partitions are closed in order before anybody else has them.
    membership.leave();
    if let Some(node) = Arc::into_inner(node) {
        node.stop();
    }
    let last_words = "stopped; the same command goes on";
    match ending? {
        Ending::Interrupted => Err(Failure::interrupted(last_words)),
        Ending::Terminated => {
            say(arguments.quiet, last_words);
            Ok(())
        }
    }
}

/// The stage with what it goes by. Only the recoverer has policies.
fn kind_of(
    name: StageName,
    resolved: &Resolved,
    dir: &Path,
) -> Result<(StageKind, Option<PolicyFolder>), Failure> {
    let settings = &resolved.settings;
    Ok(match name {
        StageName::Monitor => (StageKind::Monitor(settings.healing.monitor_settings()), None),
        StageName::Diagnose if settings.healing.diagnose.by_model != ByModel::Off => {
            let key = "healing.diagnose.by_model";
            let failure = Failure::usage(format_args!(
                "a stage by itself has no model to ask, and `{key}` is {}: set it to off, or leave the stage to the nodes",
                settings.healing.diagnose.by_model.name()
            ));
            return Err(resolved.at(key, failure));
        }
        StageName::Diagnose => (StageKind::Diagnose(None), None),
        StageName::Recover => {
            let folder = PolicyFolder::open(dir.join("policies"))?;
            let (policies, mode, seed) = (folder.shared(), settings.healing.mode, settings.node.seed);
            (StageKind::Recover { policies, mode, seed }, Some(folder))
        }
    })
}

fn announce(arguments: &StageArguments, name: StageName, path: &Path) -> Result<(), Failure> {
    let log = arguments.log.to_string();
    if arguments.format == Format::Json {
        let announced = json!({"stage": name.name(), "log": log, "data_dir": path});
        // Whoever started the stage may not read what it says: it works all the same.
        terminal::line_if_read(&announced.to_string())?;
    }
    say(arguments.quiet, &format!("{name}: taking part on {log}, in {}", path.display()));
    Ok(())
}

/// Looks after the stage until it shall end.
fn look_after(
    node: &StageNode,
    cluster: &StageCluster,
    signals: &Signals,
    mut policies: Option<&mut PolicyFolder>,
    (name, is_quiet): (StageName, bool),
) -> Result<Ending, Failure> {
    let mut told = Told { name, is_quiet, lanes: BTreeSet::new(), written: 0, last: None };
    let mut is_away = false;
    loop {
        let status = node.status();
        told.follow(node, &status);
        if node.has_ended() {
            return Err(Failure::job(format_args!("{name} ended by itself; the same command goes on")));
        }
        let away = cluster.away();
        if away.is_some() != is_away {
            is_away = away.is_some();
            say(is_quiet, &away.map_or_else(|| "Kafka answers again".to_owned(), |away| away.to_string()));
        }
        if let Some(said) = policies.as_mut().and_then(|policies| policies.follow(Instant::now())) {
            terminal::say(&said);
        }
        if let Some(ending) = signals.heard() {
            return Ok(ending);
        }
        std::thread::park_timeout(LOOK_EVERY);
    }
}

/// What was told of a stage's progress.
struct Told {
    name: StageName,
    is_quiet: bool,
    lanes: BTreeSet<u32>,
    written: u64,
    last: Option<Instant>,
}

impl Told {
    /// Tells what is new: which partitions are open, when all are that are to be, and how much was written.
    fn follow(&mut self, node: &StageNode, status: &StatusSnapshot) {
        let (name, is_quiet) = (self.name, self.is_quiet);
        let open: BTreeSet<u32> = node.lanes().into_iter().collect();
        if open != self.lanes && open.iter().copied().eq(node.lanes_wanted()) {
            let numbers: Vec<String> = open.iter().map(u32::to_string).collect();
            let words = if open.is_empty() {
                format!("{name}: no partitions")
            } else {
                format!("{name}: partitions {}", numbers.join(", "))
            };
            say(is_quiet, &words);
            self.lanes = open;
        }
        let (written, what) = match name {
            StageName::Monitor => (status.anomalies, "anomalies found"),
            StageName::Diagnose => (status.diagnoses, "diagnoses made"),
            StageName::Recover => (status.plans, "recoveries planned"),
        };
        if written != self.written && self.last.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            say(is_quiet, &format!("{name}: {written} {what}"));
            self.written = written;
            self.last = Some(Instant::now());
        }
    }
}

fn say(is_quiet: bool, line: &str) {
    if !is_quiet {
        terminal::say(line);
    }
}
