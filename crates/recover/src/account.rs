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

/// How many plans for one subject are remembered, to know an echo by.
const PLANS_REMEMBERED: usize = 8;

/// How many plans that others took the place of may wait for their end.
pub(crate) const REPLACED_MAX: usize = PLANS_REMEMBERED;

/// Parameter of a planned recovery: when it was planned.
pub(crate) const PLANNED_AT: &str = "planned_at";
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
    fn is(&self, recovery: &Recovery) -> bool {
        self.plan.recovery == recovery.recovery
    }

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
        self.time(Recovery::DEADLINE)
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
    /// What the tries belong to: another goal begins anew.
    goal: Option<GoalId>,
    /// The step of the newest plan. A call that failed is not there any more in another step, and its tries neither.
    step: u32,
    tries: Vec<Tries>,
    /// How far the cascade has come in this goal.
    climb: Climb,
    open: Option<OpenRecovery>,
    /// What `open` took the place of, oldest first: whoever was handed it still owes its end.
    #[serde(default)]
    replaced: Vec<OpenRecovery>,
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

    /// All recoveries of which an end is owed, by subject.
    pub fn all_open(&self) -> impl Iterator<Item = &OpenRecovery> {
        self.subjects.values().flat_map(SubjectAccount::owed)
    }

    /// What the open recovery of `subject` took the place of and has no end yet, oldest first.
    pub(crate) fn replaced(&self, subject: &Subject) -> &[OpenRecovery] {
        self.subjects.get(subject).map_or(&[], |account| &account.replaced)
    }

    /// How often each action was carried out, by its name.
    pub fn actions(&self) -> &BTreeMap<String, ActionCount> {
        &self.actions
    }

    /// How many tries, of those that `is_counted` takes by policy and action, were made for this fault of `subject`
    /// in this goal; those of a tool's failure in this step alone.
    pub(crate) fn tries(
        &self,
        subject: &Subject,
        (goal, step): (Option<&GoalId>, u32),
        fault: FaultType,
        is_counted: impl Fn(Option<&str>, RecoveryAction) -> bool,
    ) -> u32 {
        self.subjects
            .get(subject)
            .filter(|account| account.goal.as_ref() == goal)
            .filter(|account| account.step == step || fault != FaultType::ToolFailure)
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
        let crowded = self.longest_untouched(subject);
        crowded
            .iter()
            .filter_map(|subject| self.subjects.get(subject))
            .flat_map(SubjectAccount::owed)
            .cloned()
            .collect()
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
            account.tries.clear();
        } else if account.step != recovery.step {
            account.tries.retain(|tries| tries.fault != FaultType::ToolFailure);
        }
        account.goal.clone_from(&recovery.goal);
        account.step = recovery.step;
        if let Some(rung) = recovery.rung {
            account.climb.try_rung(rung);
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
        let open = OpenRecovery { plan: Box::new(recovery.clone()), started: false };
        account.replaced.extend(account.open.replace(open));
    }

    fn open_mut(&mut self, recovery: &Recovery) -> Option<&mut OpenRecovery> {
        let account = self.subjects.get_mut(&recovery.agent)?;
        account.open.iter_mut().chain(&mut account.replaced).find(|open| open.is(recovery))
    }

    fn closed(&mut self, recovery: &Recovery) {
        if self.open_mut(recovery).is_none() {
            self.healed_late(recovery);
            return;
        }
        let count = self.actions.entry(recovery.action.name().to_owned()).or_default();
        let Some(account) = self.subjects.get_mut(&recovery.agent) else { return };
        account.open.take_if(|open| open.is(recovery));
        account.replaced.retain(|open| !open.is(recovery));
        account.touched = self.events;
        match recovery.phase {
            RecoveryPhase::Completed => {
                count.tried += 1;
                count.succeeded += 1;
                account.helped(recovery);
            }
            RecoveryPhase::Failed => count.tried += 1,
            _ => {
                count.abandoned += 1;
                account.take_back(recovery);
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
            account.helped(recovery);
        }
    }
}

impl SubjectAccount {
    /// Recoveries of which an end is owed.
    fn owed(&self) -> impl Iterator<Item = &OpenRecovery> {
        self.replaced.iter().chain(&self.open)
    }

    /// The fault is over: what was tried for it counts no more. To watch mends nothing, and what another policy mended
    /// is not what the cascade climbs for.
    fn helped(&mut self, recovery: &Recovery) {
        if recovery.action == RecoveryAction::Monitor || recovery.goal != self.goal {
            return;
        }
        if recovery.rung.is_some() {
            self.climb = Climb::default();
        }
        self.tries.retain(|tries| tries.fault != recovery.fault_type);
    }

    /// What was never carried out was no try.
    fn take_back(&mut self, recovery: &Recovery) {
        if recovery.goal != self.goal {
            return;
        }
        if let Some(rung) = recovery.rung {
            self.climb.leave_rung(rung);
        }
        if recovery.step != self.step && recovery.fault_type == FaultType::ToolFailure {
            return;
        }
        for tries in self.tries.iter_mut().filter(|tries| tries.are_of(recovery)) {
            tries.count = tries.count.saturating_sub(1);
        }
    }
}

impl Tries {
    fn are_of(&self, recovery: &Recovery) -> bool {
        self.fault == recovery.fault_type && self.policy == recovery.policy && self.action == recovery.action
    }
}
