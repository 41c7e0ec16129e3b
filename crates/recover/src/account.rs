//! The account of what was tried and what came of it: a fold over recovery events.

use std::collections::{BTreeMap, VecDeque};

use kintsugi_events::{FaultType, Recovery, RecoveryAction, RecoveryPhase, Subject};
use kintsugi_types::{GoalId, RecoveryId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cascade::Climb;

/// How many subjects are remembered. At the bound the eighth that was not mended for longest is forgotten, those
/// with an open recovery last, and these are abandoned; a forgotten subject's tries begin anew.
pub const SUBJECTS_MAX: usize = 16_384;

/// How many plans for one subject are remembered, to know an echo by; more are never under way at once.
const PLANS_REMEMBERED: usize = 8;

/// Parameter of a planned recovery: when it was planned.
pub(crate) const PLANNED_AT: &str = "planned_at";
/// Parameter of a planned recovery: when it counts as failed unless something came of it.
pub(crate) const DEADLINE: &str = "deadline";
/// Parameter of a circuit breaker: its pause from opening to the first probe.
pub(crate) const HALF_OPEN_MS: &str = "half_open_ms";

/// A recovery of which nothing final was heard yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpenRecovery {
    /// As it was planned.
    pub plan: Box<Recovery>,
    /// Whether somebody took it up.
    pub started: bool,
}

impl OpenRecovery {
    /// A time among its parameters.
    fn time(&self, name: &str) -> Option<Timestamp> {
        self.plan.parameters.get(name).and_then(Value::as_str).and_then(|text| text.parse().ok())
    }

    /// When it was planned; missing where whoever planned it did not say.
    pub fn planned_at(&self) -> Option<Timestamp> {
        self.time(PLANNED_AT)
    }

    /// When it counts as failed; missing where whoever planned it did not say.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.time(DEADLINE)
    }

    /// When a breaker lets its first probe through.
    pub(crate) fn probe_at(&self) -> Option<Timestamp> {
        let half_open_ms = self.plan.parameters.get(HALF_OPEN_MS).and_then(Value::as_u64)?;
        Some(crate::breaker::after(self.planned_at()?, half_open_ms))
    }
}

/// How often an action was carried to its end, and how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionCount {
    /// Completed or failed.
    pub tried: u64,
    /// Completed.
    pub succeeded: u64,
    /// Never carried out; not counted as tried.
    pub abandoned: u64,
}

/// How often one policy was used for one fault.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Tries {
    fault: FaultType,
    policy: Option<String>,
    action: RecoveryAction,
    count: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct SubjectAccount {
    /// What the tries belong to: another goal or step begins anew.
    goal: Option<GoalId>,
    step: u32,
    tries: Vec<Tries>,
    /// How far the cascade has come in this goal.
    climb: Climb,
    open: Option<OpenRecovery>,
    /// The newest plans, newest last: an echo of one of them changes nothing.
    plans: VecDeque<RecoveryId>,
    /// Number of the last event about it.
    touched: u64,
}

/// What was tried for whom, what is open, and how often each action helped.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Account {
    subjects: BTreeMap<Subject, SubjectAccount>,
    actions: BTreeMap<String, ActionCount>,
    events: u64,
}

impl Account {
    /// Takes in one phase of one recovery. The same phase twice counts once; a phase after the end counts nothing.
    pub fn observe(&mut self, recovery: &Recovery) {
        self.events += 1;
        match recovery.phase {
            RecoveryPhase::Planned => self.opened(recovery),
            RecoveryPhase::Started => {
                if let Some(open) = self.open_mut(recovery) {
                    open.started = true;
                }
            }
            RecoveryPhase::Completed | RecoveryPhase::Failed | RecoveryPhase::Abandoned => {
                self.closed(recovery);
            }
        }
    }

    /// The open recovery of `subject`.
    pub fn open(&self, subject: &Subject) -> Option<&OpenRecovery> {
        self.subjects.get(subject).and_then(|account| account.open.as_ref())
    }

    /// All open recoveries, by subject.
    pub fn all_open(&self) -> impl Iterator<Item = &OpenRecovery> {
        self.subjects.values().filter_map(|account| account.open.as_ref())
    }

    /// How often each action was carried out, by its name.
    pub fn actions(&self) -> &BTreeMap<String, ActionCount> {
        &self.actions
    }

    /// How many tries, of those that `is_counted` takes by policy and action, were made for this fault of `subject`
    /// in this step of this goal.
    pub(crate) fn tries(
        &self,
        subject: &Subject,
        (goal, step): (Option<&GoalId>, u32),
        fault: FaultType,
        is_counted: impl Fn(Option<&str>, RecoveryAction) -> bool,
    ) -> u32 {
        self.subjects
            .get(subject)
            .filter(|account| account.goal.as_ref() == goal && account.step == step)
            .into_iter()
            .flat_map(|account| &account.tries)
            .filter(|tries| tries.fault == fault && is_counted(tries.policy.as_deref(), tries.action))
            .fold(0, |sum, tries| sum.saturating_add(tries.count))
    }

    /// How far the cascade has come for `subject` in this goal.
    pub(crate) fn climb(&self, subject: &Subject, goal: Option<&GoalId>) -> Climb {
        self.subjects
            .get(subject)
            .filter(|account| account.goal.as_ref() == goal)
            .map(|account| account.climb)
            .unwrap_or_default()
    }

    /// The open recoveries that a new one for `subject` would crowd out.
    pub(crate) fn crowded_out(&self, subject: &Subject) -> Vec<OpenRecovery> {
        self.longest_untouched(subject).iter().filter_map(|crowded| self.open(crowded).cloned()).collect()
    }

    fn longest_untouched(&self, newcomer: &Subject) -> Vec<Subject> {
        if self.subjects.len() < SUBJECTS_MAX || self.subjects.contains_key(newcomer) {
            return Vec::new();
        }
        let mut subjects: Vec<_> = self
            .subjects
            .iter()
            .map(|(subject, account)| (account.open.is_some(), account.touched, subject))
            .collect();
        subjects.sort_unstable();
        subjects.into_iter().take(SUBJECTS_MAX.div_ceil(8)).map(|(_, _, subject)| subject.clone()).collect()
    }

    fn opened(&mut self, recovery: &Recovery) {
        for forgotten in self.longest_untouched(&recovery.agent) {
            self.subjects.remove(&forgotten);
        }
        let account = self.subjects.entry(recovery.agent.clone()).or_default();
        if account.plans.contains(&recovery.recovery) {
            return;
        }
        if account.plans.len() == PLANS_REMEMBERED {
            account.plans.pop_front();
        }
        account.plans.push_back(recovery.recovery);
        account.touched = self.events;
        if account.goal != recovery.goal {
            account.climb = Climb::default();
        }
        if let Some(rung) = recovery.rung {
            account.climb.try_rung(rung);
        }
        if account.goal != recovery.goal || account.step != recovery.step {
            account.goal.clone_from(&recovery.goal);
            account.step = recovery.step;
            account.tries.clear();
        }
        match account.tries.iter_mut().find(|tries| tries.are_of(recovery)) {
            Some(tries) => tries.count = tries.count.saturating_add(1),
            None => account.tries.push(Tries {
                fault: recovery.fault_type,
                policy: recovery.policy.clone(),
                action: recovery.action,
                count: 1,
            }),
        }
        account.open = Some(OpenRecovery { plan: Box::new(recovery.clone()), started: false });
    }

    fn open_mut(&mut self, recovery: &Recovery) -> Option<&mut OpenRecovery> {
        self.subjects
            .get_mut(&recovery.agent)
            .and_then(|account| account.open.as_mut())
            .filter(|open| open.plan.recovery == recovery.recovery)
    }

    fn closed(&mut self, recovery: &Recovery) {
        if self.open_mut(recovery).is_none() {
            self.healed_late(recovery);
            return;
        }
        let count = self.actions.entry(recovery.action.name().to_owned()).or_default();
        let Some(account) = self.subjects.get_mut(&recovery.agent) else { return };
        account.open = None;
        account.touched = self.events;
        match recovery.phase {
            RecoveryPhase::Completed => {
                count.tried += 1;
                count.succeeded += 1;
                account.climb = Climb::default();
                account.tries.retain(|tries| tries.fault != recovery.fault_type);
            }
            RecoveryPhase::Failed => count.tried += 1,
            // What was never carried out was no try.
            _ => {
                count.abandoned += 1;
                if let Some(rung) = recovery.rung {
                    account.climb.leave_rung(rung);
                }
                for tries in account.tries.iter_mut().filter(|tries| tries.are_of(recovery)) {
                    tries.count = tries.count.saturating_sub(1);
                }
            }
        }
    }
}

impl Account {
    /// A recovery that was given up at its deadline helped after all: its fault is over.
    fn healed_late(&mut self, recovery: &Recovery) {
        if recovery.phase == RecoveryPhase::Completed
            && let Some(account) = self.subjects.get_mut(&recovery.agent)
            && account.plans.contains(&recovery.recovery)
        {
            account.climb = Climb::default();
            account.tries.retain(|tries| tries.fault != recovery.fault_type);
        }
    }
}

impl Tries {
    fn are_of(&self, recovery: &Recovery) -> bool {
        self.fault == recovery.fault_type && self.policy == recovery.policy && self.action == recovery.action
    }
}
