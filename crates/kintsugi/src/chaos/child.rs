//! One run of a suite: a process of its own, whose crash ends nothing but itself.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::ValueEnum as _;
use serde::Deserialize;

use crate::cli::ModeArgument;
use crate::failure::{Explain, Failure, FailureKind};
use crate::summary::{AgentCounts, GoalCounts};

/// So often a run that crashed is begun again; then what it has not done is lost.
const RESUMES_MAX: u64 = 3;

/// What a run is to do.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) example: &'a Path,
    /// Where it lives. A run that was begun there goes on.
    pub(super) folder: &'a Path,
    pub(super) seed: u64,
    pub(super) goal_count: Option<usize>,
    pub(super) chaos: Option<f64>,
    pub(super) mode: ModeArgument,
}

/// What is needed of a run's own summary.
#[derive(Debug, Deserialize)]
pub(super) struct Told {
    pub(super) goals: GoalCounts,
    pub(super) agents: AgentCounts,
    pub(super) wall_s: f64,
}

/// A run that is over.
#[derive(Debug)]
pub(super) struct Ran {
    /// Missing where it crashed again and again.
    pub(super) told: Option<Told>,
    /// How often its process came to an end that it did not choose.
    pub(super) crashes: u64,
    /// What it has to say against itself.
    pub(super) complaint: Option<String>,
}

/// Runs to the end, over crashes. Fails where the run cannot be done at all.
pub(super) fn run(wanted: &Wanted<'_>) -> Result<Ran, Failure> {
    let mut ran = Ran { told: None, crashes: 0, complaint: None };
    std::fs::create_dir_all(wanted.folder).outside(|| format!("create {}", wanted.folder.display()))?;
    let said_in = said_in(wanted.folder);
    while ran.crashes <= RESUMES_MAX {
        let child = command(wanted, &said_in)?.spawn().outside(|| "start a run".to_owned())?;
        let output = child.wait_with_output().outside(|| "wait for a run".to_owned())?;
        ran.told = serde_json::from_slice(&output.stdout).ok();
        let status = output.status.code();
        let failed = |kind: FailureKind| status == Some(kind as i32);
        let said = || last_words(&said_in);
        if failed(FailureKind::Interrupted) {
            return Err(Failure::interrupted("interrupted: a suite begins anew"));
        } else if failed(FailureKind::Usage) {
            return Err(Failure::usage(said()));
        } else if failed(FailureKind::Outside) {
            return Err(Failure::outside(said()));
        } else if ran.told.is_some() {
            ran.complaint = failed(FailureKind::Job).then(said);
            break;
        }
        ran.crashes += 1;
    }
    Ok(ran)
}

fn command(wanted: &Wanted<'_>, said_in: &Path) -> Result<Command, Failure> {
    let program = std::env::current_exe().outside(|| "find this program".to_owned())?;
    let said = File::options().create(true).append(true).open(said_in);
    let said = said.outside(|| format!("open {}", said_in.display()))?;
    let mut command = Command::new(program);
    command.arg("run").arg(wanted.example).args(["--format", "json", "--quiet"]);
    command.arg("--data-dir").arg(wanted.folder).args(["--seed", &wanted.seed.to_string()]);
    command.args(["--mode", &mode_name(wanted.mode)]);
    if let Some(count) = wanted.goal_count {
        command.args(["--goal-count", &count.to_string()]);
    }
    if let Some(probability) = wanted.chaos {
        command.args(["--chaos", &probability.to_string()]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(said);
    Ok(command)
}

/// How a mode is typed.
pub(super) fn mode_name(mode: ModeArgument) -> String {
    mode.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Where a run's stderr goes: beside its folder, which is the run's own.
fn said_in(folder: &Path) -> PathBuf {
    folder.with_extension("stderr")
}

/// The last line that a run wrote to stderr.
fn last_words(said_in: &Path) -> String {
    let said = std::fs::read(said_in).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let said = said.unwrap_or_default();
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("a run said nothing");
    last.trim_start_matches("error: ").to_owned()
}
