//! From each fault that was injected to what became of it. Pure: `docs/chaos.md` tells what each word means.

use std::collections::BTreeSet;

use kintsugi_events::{
    AnomalyKind, FaultKind, InjectedFault, Recovery, RecoveryAction, RecoveryPhase, Subject,
};

use super::signs::{is_sign, steps_after};
use super::trace::{At, Became, Found, Trace, Work, end, is_tried};

/// What a heal took, from the fault to the recovery's end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heal {
    pub(super) action: RecoveryAction,
    pub(super) ms: f64,
    /// Measured tries of steps.
    pub(super) steps: u64,
    /// Tokens of inferences.
    pub(super) tokens: u64,
}

/// One fault and what became of it.
#[derive(Debug)]
pub(super) struct Case<'a> {
    pub(super) fault: &'a InjectedFault,
    at: At,
    /// What it showed itself by, in order; missed where there is nothing.
    pub(super) anomalies: Vec<&'a Found>,
    /// Whether the agent measured anything of the goal after it, while it could show.
    pub(super) is_measured: bool,
    /// Whether every anomaly of it came to a recovery with an end.
    pub(super) is_ended: bool,
    /// What was decided on for it.
    pub(super) recoveries: Vec<&'a [(At, Recovery)]>,
    pub(super) heal: Option<Heal>,
    /// Whether a person was told of its goal.
    pub(super) is_told: bool,
    /// What became of its goal; nothing where the goal was lost.
    pub(super) became: Option<Became>,
}

/// A run's faults and anomalies, held against each other.
#[derive(Debug)]
pub(super) struct Joined<'a> {
    pub(super) cases: Vec<Case<'a>>,
    /// Anomalies in the wake of a fault that are no sign of it.
    pub(super) after_effects: Vec<AnomalyKind>,
    /// Anomalies that no fault explains.
    pub(super) false_alarms: Vec<AnomalyKind>,
    /// Steps that no fault struck.
    pub(super) clean_steps: u64,
}

/// Holds a run's faults against what came after them.
pub(super) fn join(trace: &Trace) -> Joined<'_> {
    let mut cases: Vec<Case<'_>> = trace.faults.iter().map(|(at, fault)| Case::new(*at, fault)).collect();
    let (mut after_effects, mut false_alarms) = (Vec::new(), Vec::new());
    for found in &trace.anomalies {
        if !attribute(found, &mut cases) {
            let in_a_wake =
                cases.iter().any(|case| case.is_in_wake(found) || case.is_in_window(found, trace));
            if in_a_wake { &mut after_effects } else { &mut false_alarms }.push(found.anomaly.kind);
        }
    }
    for case in &mut cases {
        case.follow(trace);
    }
    let struck: BTreeSet<(Work, u32)> =
        cases.iter().filter_map(|case| Some((case.work()?, case.fault.step))).collect();
    let steps: BTreeSet<(Work, u32)> = trace
        .tries
        .iter()
        .flat_map(|(work, tries)| tries.iter().map(|measured| (work.clone(), measured.step)))
        .collect();
    Joined { cases, after_effects, false_alarms, clean_steps: steps.difference(&struck).count() as u64 }
}

/// Whether it is about an engine: the main one, or the smaller model's.
const fn is_engine(subject: &Subject) -> bool {
    matches!(subject, Subject::Engine | Subject::Model(_))
}

/// Gives an anomaly to the fault that it shows: the newest that is not found yet, else the newest that is. An engine's
/// stands for all panics since the last, for they may break one engine together. Returns whether there is one.
fn attribute<'a>(found: &'a Found, cases: &mut [Case<'a>]) -> bool {
    if is_engine(&found.anomaly.agent) {
        let is_new = |case: &&mut Case<'_>| case.shows_by(found) && case.anomalies.is_empty();
        let mut is_any = false;
        for case in cases.iter_mut().filter(is_new) {
            case.anomalies.push(found);
            is_any = true;
        }
        return is_any;
    }
    let shown = |case: &Case<'_>| case.is_in_wake(found) && case.shows_by(found);
    let unfound = cases.iter().rposition(|case| shown(case) && case.anomalies.is_empty());
    let chosen = unfound.or_else(|| cases.iter().rposition(shown));
    let Some(case) = chosen.and_then(|place| cases.get_mut(place)) else { return false };
    case.anomalies.push(found);
    true
}

impl<'a> Case<'a> {
    const fn new(at: At, fault: &'a InjectedFault) -> Self {
        Self {
            fault,
            at,
            anomalies: Vec::new(),
            is_measured: false,
            is_ended: false,
            recoveries: Vec::new(),
            heal: None,
            is_told: false,
            became: None,
        }
    }

    fn work(&self) -> Option<Work> {
        let goal = self.fault.goal.clone()?;
        Some(Work { agent: self.fault.agent.clone(), goal })
    }

    /// Whether an anomaly after it is what it looks like.
    fn shows_by(&self, found: &Found) -> bool {
        self.at < found.at && is_sign(self.fault.kind, found.anomaly.kind)
    }

    /// Whether an anomaly came up where the fault struck, or in the steps after it.
    fn is_in_wake(&self, found: &Found) -> bool {
        let Some((work, step)) = &found.place else { return false };
        self.at < found.at
            && self.fault.agent == work.agent
            && self.fault.goal.as_ref() == Some(&work.goal)
            && self.covers(*step)
    }

    /// Whether an anomaly is told of a level that a try struck by the fault is among.
    fn is_in_window(&self, found: &Found, trace: &Trace) -> bool {
        let Some((work, _)) = &found.place else { return false };
        let (from, to) = (self.at, found.at);
        if found.anomaly.window < 2 || self.fault.agent != work.agent || from > to {
            return false;
        }
        let of_agent = trace.tries.iter().filter(|(work, _)| work.agent == self.fault.agent);
        let since = of_agent.flat_map(|(_, tries)| tries).filter(|tried| tried.at > from && tried.at <= to);
        since.count() <= found.anomaly.window as usize
    }

    fn covers(&self, step: u32) -> bool {
        (self.fault.step..=self.fault.step.saturating_add(steps_after(self.fault.kind))).contains(&step)
    }

    /// Follows the fault from its anomalies to its end.
    fn follow(&mut self, trace: &'a Trace) {
        let Some(work) = self.work() else { return };
        let tries = trace.tries.get(&work).map_or(&[][..], Vec::as_slice);
        self.is_measured = tries.iter().any(|measured| measured.at > self.at && self.covers(measured.step));
        self.became = trace.became(&work.goal);
        self.is_told = trace.recoveries.values().any(|phases| {
            let is_of_the_goal = phases.iter().any(|(at, recovery)| {
                *at > self.at
                    && recovery.action == RecoveryAction::NotifyHuman
                    && recovery.agent.agent() == Some(&work.agent)
                    && recovery.goal.as_ref() == Some(&work.goal)
            });
            is_of_the_goal && is_tried(phases)
        });
        let mut is_ended = true;
        for found in &self.anomalies {
            let before = self.recoveries.len();
            self.recoveries.extend(trace.recoveries_for(found.anomaly.anomaly));
            let decided = self.recoveries.get(before..).unwrap_or_default();
            is_ended &= decided.iter().any(|phases| end(phases).is_some());
        }
        self.is_ended = is_ended;
        self.heal = self.mended_by(trace).map(|(at, recovery)| {
            // The try that proves it is measured in the same commit, after it.
            let is_within = |other: At| other > self.at && other.time <= at.time;
            let thoughts = trace.thoughts.get(&work).map_or(&[][..], Vec::as_slice);
            Heal {
                action: recovery.action,
                ms: at.time.signed_duration_since(self.at.time).as_seconds_f64() * 1000.0,
                steps: tries.iter().filter(|measured| is_within(measured.at)).count() as u64,
                tokens: thoughts.iter().filter(|(at, _)| is_within(*at)).map(|(_, tokens)| tokens).sum(),
            }
        });
    }

    /// The recovery that mended it: of those decided on for it the first that completed, the agent's own before those
    /// of shared parts; else, for a try that a second fault met, the first that completed for the same steps.
    fn mended_by(&self, trace: &'a Trace) -> Option<(At, &'a Recovery)> {
        let own = self.recoveries.iter().filter_map(|phases| mended(phases));
        let own = own.min_by_key(|(at, recovery)| (recovery.agent.agent().is_none(), *at));
        let last = self.anomalies.last()?;
        let last_step = last.place.as_ref().map_or(self.fault.step, |(_, step)| *step);
        own.or_else(|| {
            let of_the_same =
                trace.recoveries.values().filter_map(|phases| mended(phases)).filter(|(at, recovery)| {
                    let is_same = if self.fault.kind == FaultKind::EnginePanic {
                        is_engine(&recovery.agent)
                    } else {
                        recovery.agent.agent() == Some(&self.fault.agent)
                            && recovery.goal == self.fault.goal
                            && (self.fault.step..=last_step).contains(&recovery.step)
                    };
                    is_same && *at > last.at
                });
            of_the_same.min_by_key(|(at, _)| *at)
        })
    }
}

/// A recovery that completed and changed something: who watches or tells a person has mended nothing.
fn mended(phases: &[(At, Recovery)]) -> Option<(At, &Recovery)> {
    let (at, recovery) = end(phases)?;
    let is_mending = !matches!(recovery.action, RecoveryAction::Monitor | RecoveryAction::NotifyHuman);
    (recovery.phase == RecoveryPhase::Completed && is_mending).then_some((*at, recovery))
}
