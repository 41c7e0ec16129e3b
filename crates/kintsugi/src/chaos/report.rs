//! What a suite found, over all of its runs. Its form is an outside contract.

use std::collections::{BTreeMap, BTreeSet};

use kintsugi_events::{FaultKind, GoalStatus, RecoveryPhase};
use kintsugi_types::GoalId;
use serde::Serialize;

use super::join::{Case, Heal, Joined};
use super::trace::{Trace, end, is_tried};
use crate::summary::{Percentiles, percentiles};

/// What heals took, on average.
#[derive(Debug, Default, Serialize)]
pub(super) struct Cost {
    pub(super) steps: f64,
    pub(super) tokens: f64,
    pub(super) ms: f64,
}

impl Cost {
    fn of<'a>(heals: &(impl Iterator<Item = &'a Heal> + Clone)) -> Self {
        let count = heals.clone().count().max(1) as f64;
        let mean = |part: fn(&Heal) -> f64| rounded(heals.clone().map(part).sum::<f64>() / count);
        Self {
            steps: mean(|heal| heal.steps as f64),
            tokens: mean(|heal| heal.tokens as f64),
            ms: mean(|heal| heal.ms),
        }
    }
}

/// What an action did about faults of one kind.
#[derive(Debug, Default, Serialize)]
pub(super) struct ActionReport {
    /// Recoveries that were taken up.
    pub(super) tried: u64,
    /// Of these, those that completed.
    pub(super) succeeded: u64,
    /// Faults that it mended.
    pub(super) mended: u64,
    /// From the fault to the end of the recovery that mended it.
    pub(super) cost: Cost,
    /// How often it was entered at which rung of the cascade.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) rungs: BTreeMap<u8, u64>,
    #[serde(skip)]
    heals: Vec<Heal>,
}

/// What became of the faults of one kind.
#[derive(Debug, Default, Serialize)]
pub(super) struct KindReport {
    /// Faults that struck.
    pub(super) runs: u64,
    /// Their goals completed.
    pub(super) survived: u64,
    /// A recovery mended them, whatever became of their goals later.
    pub(super) healed: u64,
    /// Their goals did not complete, and nobody was told.
    pub(super) failed: u64,
    /// Their goals ended with a person being told.
    pub(super) reached_a_person: u64,
    /// They showed by an anomaly.
    pub(super) found: u64,
    pub(super) missed: u64,
    /// Of those missed, after how many the agent measured nothing more of the goal.
    pub(super) missed_unmeasured: u64,
    /// Found, and no recovery came to an end.
    pub(super) unended: u64,
    /// Their goals were right in the run without faults, and are not.
    pub(super) spoiled: u64,
    /// By which anomaly they showed first.
    pub(super) found_by: BTreeMap<&'static str, u64>,
    /// From the fault to the end of the recovery that mended it.
    pub(super) heal_ms: Percentiles,
    pub(super) cost: Cost,
    pub(super) actions: BTreeMap<&'static str, ActionReport>,
}

impl KindReport {
    fn take(&mut self, case: &Case<'_>, right_before: &BTreeSet<GoalId>) {
        self.runs += 1;
        match (case.became.map(|became| became.status), case.is_told) {
            (Some(GoalStatus::Completed), _) => self.survived += 1,
            (_, true) => self.reached_a_person += 1,
            _ => self.failed += 1,
        }
        let was_right = case.fault.goal.as_ref().is_some_and(|goal| right_before.contains(goal));
        let is_right = case.became.is_some_and(|became| became.is_correct == Some(true));
        self.spoiled += u64::from(was_right && !is_right);
        if let Some(first) = case.anomalies.first() {
            self.found += 1;
            self.unended += u64::from(!case.is_ended);
            *self.found_by.entry(first.anomaly.kind.name()).or_default() += 1;
        } else {
            self.missed += 1;
            self.missed_unmeasured += u64::from(!case.is_measured);
        }
        for phases in &case.recoveries {
            let Some((_, last)) = phases.last().filter(|_| is_tried(phases)) else { continue };
            let action = self.actions.entry(last.action.name()).or_default();
            action.tried += 1;
            let is_completed = end(phases).is_some_and(|(_, end)| end.phase == RecoveryPhase::Completed);
            action.succeeded += u64::from(is_completed);
            if let Some(rung) = last.rung {
                *action.rungs.entry(rung).or_default() += 1;
            }
        }
        if let Some(heal) = case.heal {
            self.healed += 1;
            let action = self.actions.entry(heal.action.name()).or_default();
            action.mended += 1;
            action.heals.push(heal);
        }
    }

    fn close(&mut self) {
        let heals = self.actions.values().flat_map(|action| &action.heals);
        self.cost = Cost::of(&heals);
        self.heal_ms = percentiles(heals.map(|heal| rounded(heal.ms)).collect());
        for action in self.actions.values_mut() {
            action.cost = Cost::of(&action.heals.iter());
        }
    }
}

/// The run without faults.
#[derive(Debug, Default, Serialize)]
pub(super) struct CleanReport {
    pub(super) correct: usize,
    pub(super) steps: u64,
    /// What a step takes that nothing disturbs.
    pub(super) step: Cost,
    pub(super) false_alarms_per_1000_steps: f64,
}

impl CleanReport {
    pub(super) fn of(trace: &Trace, joined: &Joined<'_>) -> Self {
        let tries = trace.tries.values().map(Vec::len).sum::<usize>();
        let ms: f64 = trace.tries.values().flatten().map(|measured| measured.ms).sum();
        let tokens: u64 = trace.thoughts.values().flatten().map(|(_, tokens)| tokens).sum();
        let mean = |sum: f64| rounded(sum / tries.max(1) as f64);
        Self {
            correct: trace.correct().len(),
            steps: joined.clean_steps,
            step: Cost { steps: 1.0, tokens: mean(tokens as f64), ms: mean(ms) },
            false_alarms_per_1000_steps: per_1000(joined.false_alarms.len(), joined.clean_steps),
        }
    }
}

/// One seed.
#[derive(Debug, Default, Serialize)]
pub(super) struct SeedReport {
    pub(super) seed: u64,
    pub(super) faults: usize,
    pub(super) correct: usize,
    /// `correct` as a share of the run without faults.
    pub(super) of_clean: f64,
    /// Correct goals of the same seed in the mode that it is compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) compared_correct: Option<usize>,
    pub(super) wall_s: f64,
}

/// The whole suite.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) example: String,
    pub(super) seed: u64,
    pub(super) runs: u64,
    pub(super) chaos: f64,
    pub(super) mode: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) compared_mode: Option<String>,
    pub(super) goals: usize,
    pub(super) kinds: BTreeMap<&'static str, KindReport>,
    pub(super) process_crashes: u64,
    pub(super) goals_lost: usize,
    pub(super) agents_failed_share: f64,
    pub(super) false_alarms_per_1000_steps: f64,
    pub(super) false_alarms: BTreeMap<&'static str, u64>,
    pub(super) after_effects: BTreeMap<&'static str, u64>,
    pub(super) clean: CleanReport,
    pub(super) seeds: Vec<SeedReport>,
    /// What was not kept of the promises, in words.
    pub(super) broken: Vec<String>,
}

/// Counts over the runs of a suite.
#[derive(Debug, Default)]
pub(super) struct Tally {
    kinds: BTreeMap<&'static str, KindReport>,
    false_alarms: BTreeMap<&'static str, u64>,
    after_effects: BTreeMap<&'static str, u64>,
    clean_steps: u64,
}

impl Tally {
    /// Every kind is told, also one that did not strike.
    pub(super) fn new() -> Self {
        let kinds = FaultKind::ALL.iter().map(|kind| (kind.name(), KindReport::default())).collect();
        Self { kinds, ..Self::default() }
    }

    /// Takes in a run with faults. `right_before` are the goals that the run without had right.
    pub(super) fn take(&mut self, joined: &Joined<'_>, right_before: &BTreeSet<GoalId>) {
        for case in &joined.cases {
            self.kinds.entry(case.fault.kind.name()).or_default().take(case, right_before);
        }
        for kind in &joined.false_alarms {
            *self.false_alarms.entry(kind.name()).or_default() += 1;
        }
        for kind in &joined.after_effects {
            *self.after_effects.entry(kind.name()).or_default() += 1;
        }
        self.clean_steps += joined.clean_steps;
    }

    /// Writes the counts into a report.
    pub(super) fn close(mut self, report: &mut Report) {
        self.kinds.values_mut().for_each(KindReport::close);
        let false_alarms = self.false_alarms.values().sum::<u64>();
        report.false_alarms_per_1000_steps =
            per_1000(usize::try_from(false_alarms).unwrap_or(usize::MAX), self.clean_steps);
        report.kinds = self.kinds;
        report.false_alarms = self.false_alarms;
        report.after_effects = self.after_effects;
    }
}

fn per_1000(count: usize, steps: u64) -> f64 {
    rounded(count as f64 * 1000.0 / steps.max(1) as f64)
}

/// A number to the hundredth, for people and programs. The sum of nothing is a negative zero, which is told as zero.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0 + 0.0
}
