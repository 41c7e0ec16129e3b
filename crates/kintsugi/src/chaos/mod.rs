//! `kintsugi chaos DIR`: an example broken on purpose, again and again, and what became of each fault.

mod child;
mod join;
mod report;
mod signs;
mod table;
#[cfg(test)]
mod tests;
mod trace;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kintsugi_eventlog::embedded::ReadOnlyLog;
use kintsugi_types::{GoalId, RunId, SystemIds};

use self::child::{Ran, Wanted, mode_name};
use self::join::join;
use self::report::{CleanReport, Report, SeedReport, Tally, rounded};
use self::trace::Trace;
use crate::cli::{ChaosArguments, Format, ModeArgument};
use crate::example;
use crate::failure::{Explain, Failure, FailureKind};
use crate::run_folder::{RUNS_DIR, RunFolder};
use crate::terminal;

pub(crate) fn chaos(arguments: &ChaosArguments) -> Result<(), Failure> {
    let name = example::name_of(&arguments.dir)?;
    let run = RunId::new(&mut SystemIds);
    let folder = Path::new(RUNS_DIR).join(&name).join(format!("chaos-{run}"));
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = interrupted.clone();
    // The run under way is interrupted as well, and ends by itself.
    ctrlc::set_handler(move || flag.store(true, Ordering::SeqCst))
        .outside(|| "listen for Ctrl-C".to_owned())?;
    let mut suite = Suite { arguments, folder: &folder, interrupted, broken: Vec::new(), crashes: 0 };
    let outcome = suite.run(name);
    let is_broken = match &outcome {
        Ok(report) => !report.broken.is_empty(),
        Err(failure) => failure.kind == FailureKind::Job,
    };
    if is_broken || arguments.keep {
        say(&format!("the runs are kept in {}", folder.display()));
    } else if folder.is_dir() {
        std::fs::remove_dir_all(&folder).outside(|| format!("remove {}", folder.display()))?;
    }
    let report = outcome?;
    match arguments.format {
        Format::Json => terminal::document(&report)?,
        Format::Text => table::lines(&report).iter().try_for_each(|line| terminal::line(line))?,
    }
    match report.broken.first() {
        None => Ok(()),
        Some(first) => Err(Failure::job(format_args!(
            "{} promises were broken, the first: {first}",
            report.broken.len()
        ))),
    }
}

/// A suite under way.
struct Suite<'a> {
    arguments: &'a ChaosArguments,
    folder: &'a Path,
    interrupted: Arc<AtomicBool>,
    broken: Vec<String>,
    crashes: u64,
}

impl Suite<'_> {
    fn run(&mut self, example: String) -> Result<Report, Failure> {
        let ChaosArguments { runs, chaos, mode, compare, .. } = *self.arguments;
        let first = self.arguments.seed;
        let (clean, folder) = self.run_one("clean", first, None, mode)?;
        let trace = read(&folder)?;
        let joined = join(&trace);
        let right: BTreeSet<GoalId> = trace.correct().into_iter().cloned().collect();
        let Some(goals) = clean.told.map(|told| told.goals.submitted).filter(|_| self.broken.is_empty())
        else {
            let why = self.broken.first().map_or("it crashed", String::as_str);
            return Err(Failure::job(format_args!("the run without faults failed already: {why}")));
        };
        let mut report = Report {
            example,
            seed: first,
            runs,
            chaos,
            mode: mode_name(mode),
            compared_mode: compare.map(mode_name),
            goals,
            kinds: BTreeMap::new(),
            process_crashes: 0,
            goals_lost: 0,
            agents_failed_share: 0.0,
            false_alarms_per_1000_steps: 0.0,
            false_alarms: BTreeMap::new(),
            after_effects: BTreeMap::new(),
            clean: CleanReport::of(&trace, &joined),
            seeds: Vec::new(),
            broken: Vec::new(),
        };
        say(&format!("without faults: {} of {goals} goals correct", report.clean.correct));
        let mut tally = Tally::new();
        let (mut agents, mut agents_failed) = (0, 0);
        for seed in (0..runs).map(|number| first.wrapping_add(number)) {
            let (ran, folder) = self.run_one(&format!("seed-{seed}"), seed, Some(chaos), mode)?;
            let trace = read(&folder)?;
            let joined = join(&trace);
            let unended = joined.cases.iter().filter(|case| !case.anomalies.is_empty() && !case.is_ended);
            self.breaks(seed, unended.count(), "faults were found and no recovery came to an end");
            tally.take(&joined, &right);
            report.goals_lost += self.lost(seed, goals, &trace);
            if let Some(told) = &ran.told {
                agents += told.agents.total;
                agents_failed += told.agents.failed;
            }
            let compared_correct = match compare {
                None => None,
                Some(other) => {
                    let name = format!("seed-{seed}-{}", mode_name(other));
                    let (_, folder) = self.run_one(&name, seed, Some(chaos), other)?;
                    let trace = read(&folder)?;
                    report.goals_lost += self.lost(seed, goals, &trace);
                    Some(trace.correct().len())
                }
            };
            let correct = trace.correct().len();
            let told = SeedReport {
                seed,
                faults: joined.cases.len(),
                correct,
                of_clean: rounded(correct as f64 * 100.0 / report.clean.correct.max(1) as f64) / 100.0,
                compared_correct,
                wall_s: ran.told.map_or(0.0, |told| told.wall_s),
            };
            say(&table::seed_line(&told, report.compared_mode.as_deref()));
            report.seeds.push(told);
        }
        tally.close(&mut report);
        report.agents_failed_share = f64::from(agents_failed) / f64::from(agents.max(1));
        report.process_crashes = self.crashes;
        report.broken = std::mem::take(&mut self.broken);
        Ok(report)
    }

    fn run_one(
        &mut self,
        name: &str,
        seed: u64,
        chaos: Option<f64>,
        mode: ModeArgument,
    ) -> Result<(Ran, PathBuf), Failure> {
        if self.interrupted.load(Ordering::SeqCst) {
            return Err(Failure::interrupted("interrupted: a suite begins anew"));
        }
        let folder = self.folder.join(name);
        let ChaosArguments { dir, goal_count, .. } = self.arguments;
        let wanted = Wanted { example: dir, folder: &folder, seed, goal_count: *goal_count, chaos, mode };
        let ran = child::run(&wanted)?;
        self.crashes += ran.crashes;
        self.breaks(seed, usize::try_from(ran.crashes).unwrap_or(usize::MAX), "crashes of the process");
        if let Some(complaint) = &ran.complaint {
            self.broken.push(format!("seed {seed}: {complaint}"));
        }
        Ok((ran, folder))
    }

    fn lost(&mut self, seed: u64, goals: usize, trace: &Trace) -> usize {
        let lost = goals.saturating_sub(trace.results.len());
        self.breaks(seed, lost, "goals have no result");
        lost
    }

    fn breaks(&mut self, seed: u64, count: usize, what: &str) {
        if count > 0 {
            self.broken.push(format!("seed {seed}: {count} {what}"));
        }
    }
}

fn read(folder: &Path) -> Result<Trace, Failure> {
    Trace::read(&ReadOnlyLog::open(RunFolder::log(folder))?)
}

#[expect(clippy::print_stderr, reason = "this is the command line")]
fn say(line: &str) {
    eprintln!("{line}");
}
