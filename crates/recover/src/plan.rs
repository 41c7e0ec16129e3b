//! From a diagnosis to what is done about it.

use std::sync::Arc;

use kintsugi_events::{Diagnosis, Mode, Recovery, RecoveryAction, RecoveryPhase, Severity, Subject};
use kintsugi_types::{IdSource, RecoveryId, RetryPolicy, Timestamp, ToolName};
use serde_json::{Map, Value};

use crate::account::{Account, HALF_OPEN_MS, OpenRecovery, PLANNED_AT, REPLACED_MAX};
use crate::breaker::after;
use crate::cascade::Climb;
use crate::policy::{Parameters, PolicySet, TIME_MS_MAX};

/// So long after its deadline a recovery is ended from here: what its agent said in time may still be on its way.
const GRACE_MS: u64 = 1_000;

/// Plans recoveries and keeps account of them. At most one is open for a subject at a time.
#[derive(Debug, Clone)]
pub struct Recoverer {
    /// The rules; may be replaced at any time. What is open stays as it was planned.
    pub policies: Arc<PolicySet>,
    /// How much is done without a person; may be changed at any time.
    pub mode: Mode,
    account: Account,
}

impl Recoverer {
    /// A recoverer that has tried nothing yet.
    pub fn new(policies: Arc<PolicySet>, mode: Mode) -> Self {
        Self::restore(policies, mode, Account::default())
    }

    /// A recoverer that goes on from a snapshot. Recovery events after it are handed to [`Self::observe`], those
    /// that this stage planned itself included; diagnoses that were answered before are not planned again.
    pub fn restore(policies: Arc<PolicySet>, mode: Mode, account: Account) -> Self {
        Self { policies, mode, account }
    }

    /// What to put into a snapshot, together with the position of the last event seen.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Decides what to do about `diagnosis`. The recoveries are to be appended in this order, all of them.
    ///
    /// Every diagnosis gets a planned recovery or, where there is nothing to do, an abandoned one that says why.
    /// Equal `seed`s draw equal jitter; hand in another one for each diagnosis. A diagnosis that comes again while its
    /// recovery is open gets no second one.
    pub fn plan(
        &mut self,
        diagnosis: &Diagnosis,
        now: Timestamp,
        seed: u64,
        ids: &mut dyn IdSource,
    ) -> Vec<Recovery> {
        let mut planner = Planner {
            diagnosis,
            policies: &self.policies,
            mode: self.mode,
            account: &mut self.account,
            now,
            seed,
            ids,
            events: Vec::new(),
        };
        planner.plan();
        planner.events
    }

    /// Takes in what became of a recovery. Events that were seen before, its own plans among them, change nothing.
    pub fn observe(&mut self, recovery: &Recovery) {
        self.account.observe(recovery);
    }

    /// Closes what had its time. The events are to be appended.
    pub fn tick(&mut self, now: Timestamp) -> Vec<Recovery> {
        let is_late =
            |open: &&OpenRecovery| open.deadline().is_some_and(|deadline| after(deadline, GRACE_MS) <= now);
        let late: Vec<OpenRecovery> = self.account.all_open().filter(is_late).cloned().collect();
        late.iter()
            .map(|open| {
                let outcome = if open.started {
                    "nothing was heard of it before its deadline"
                } else {
                    "nobody took it up before its deadline"
                };
                close(&mut self.account, open, RecoveryPhase::Failed, outcome, now)
            })
            .collect()
    }
}

/// Ends an open recovery on behalf of whoever owed its end.
fn close(
    account: &mut Account,
    open: &OpenRecovery,
    phase: RecoveryPhase,
    outcome: &str,
    now: Timestamp,
) -> Recovery {
    let elapsed =
        open.planned_at().map(|planned_at| now.signed_duration_since(planned_at).num_milliseconds());
    let closed = Recovery {
        phase,
        duration_ms: elapsed.map(|elapsed_ms| u64::try_from(elapsed_ms).unwrap_or(0)),
        outcome: Some(outcome.to_owned()),
        ..(*open.plan).clone()
    };
    account.observe(&closed);
    closed
}

/// What was chosen.
struct Choice {
    policy: Option<String>,
    action: RecoveryAction,
    parameters: Parameters,
    /// Which use of this policy for this fault it is, from 1.
    use_number: u32,
    /// The rung of the cascade, where it was entered.
    rung: Option<u8>,
    /// Whether nothing else is left, so that the agent is given up.
    is_last: bool,
}

impl Choice {
    fn new(action: RecoveryAction, parameters: Parameters) -> Self {
        Self { policy: None, action, parameters, use_number: 1, rung: None, is_last: false }
    }
}

/// One plan in the making.
struct Planner<'a> {
    diagnosis: &'a Diagnosis,
    policies: &'a PolicySet,
    mode: Mode,
    account: &'a mut Account,
    now: Timestamp,
    seed: u64,
    ids: &'a mut dyn IdSource,
    events: Vec<Recovery>,
}

impl Planner<'_> {
    fn plan(&mut self) {
        let open = self.account.open(&self.diagnosis.agent);
        if open.is_some_and(|open| open.plan.diagnosis == self.diagnosis.diagnosis) {
            return;
        }
        if let Some(reason) = self.settle_open() {
            return self.decline(self.diagnosis.recommended_action, reason);
        }
        let Some(choice) = self.choose() else {
            let told = "everything was tried, and a person was told".to_owned();
            return self.decline(RecoveryAction::NotifyHuman, told);
        };
        self.carry_out(&choice);
    }

    /// Looks at what is open for the subject, for there is never a recovery of a recovery. Returns why nothing more
    /// is to be planned, where that is so; else a new plan may take its place.
    ///
    /// What is replaced is not ended here: its agent, to which it was handed, tells what became of it, and two would
    /// say two things.
    fn settle_open(&mut self) -> Option<String> {
        let diagnosis = self.diagnosis;
        let open = self.account.open(&diagnosis.agent)?;
        let under_way = format!("{} is under way for it", open.plan.recovery);
        if diagnosis.agent.agent().is_none() {
            return Some(under_way);
        }
        let (seen, planned_on) = (diagnosis.sequence, open.plan.sequence);
        // A diagnosis from outside may not know the sequence; it is taken to be new.
        let is_newer = seen == 0 || seen > planned_on;
        let is_same_goal = diagnosis.goal == open.plan.goal;
        let is_same_step = is_same_goal && diagnosis.step == open.plan.step;
        let is_watching = is_same_step && open.plan.action == RecoveryAction::Monitor;
        // What was taken up at the end of the step that this diagnosis is about has not acted yet.
        let is_not_measured = is_same_goal && !is_same_step && open.started;
        if !is_watching && (!is_newer || is_not_measured) {
            return Some(under_way);
        }
        self.close_forgotten();
        None
    }

    /// Ends the oldest replaced plan where there is no room for another: its agent does not answer.
    fn close_forgotten(&mut self) {
        let replaced = self.account.replaced(&self.diagnosis.agent);
        if replaced.len() < REPLACED_MAX {
            return;
        }
        if let Some(oldest) = replaced.first().cloned() {
            self.close(
                &oldest,
                RecoveryPhase::Abandoned,
                "others took its place, and nothing was heard of it",
            );
        }
    }

    /// The best policy that is not spent; else, for an agent, the next rung of the cascade; else what the diagnosis
    /// recommends; else a person; else nothing.
    fn choose(&self) -> Option<Choice> {
        let diagnosis = self.diagnosis;
        let uses_of = |name: &str| self.tries(|policy, _| policy == Some(name));
        let attempt = self.tries(|_, _| true).saturating_add(1);
        let is_left = |policy: &crate::policy::Policy| uses_of(&policy.name) < policy.parameters.attempts;
        if let Some(policy) = self.policies.choose(diagnosis, attempt, is_left) {
            return Some(Choice {
                policy: Some(policy.name.clone()),
                use_number: uses_of(&policy.name) + 1,
                ..Choice::new(policy.action, policy.parameters.clone())
            });
        }
        // Once a person was told, nothing automatic follows.
        if self.tries(|_, action| action == RecoveryAction::NotifyHuman) > 0 {
            return None;
        }
        let recommended = diagnosis.recommended_action;
        // What is only to be watched is watched, and what nothing automatic can help needs no ladder.
        let is_for_cascade = diagnosis.agent.agent().is_some()
            && diagnosis.recoverable
            && recommended != RecoveryAction::Monitor;
        if is_for_cascade {
            return Some(self.next_rung());
        }
        let parameters = self.policies.cascade.clone();
        // An action that a policy used up is not begun again without one.
        let uses = self.tries(|_, action| action == recommended);
        let is_worth_trying =
            diagnosis.recoverable && (uses < parameters.attempts || recommended == RecoveryAction::Monitor);
        Some(if is_worth_trying {
            Choice { use_number: uses + 1, ..Choice::new(recommended, parameters) }
        } else {
            Choice::new(RecoveryAction::NotifyHuman, parameters)
        })
    }

    /// The next rung of the cascade; after the last one a person, and the agent is given up.
    fn next_rung(&self) -> Choice {
        let Diagnosis { agent, goal, health, .. } = self.diagnosis;
        let climb: Climb = self.account.climb(agent, goal.as_ref());
        let parameters = self.policies.cascade.clone();
        match climb.next(*health) {
            Some(rung) => Choice { rung: Some(rung.number), ..Choice::new(rung.action, parameters) },
            None => Choice { is_last: true, ..Choice::new(RecoveryAction::NotifyHuman, parameters) },
        }
    }

    fn tries(&self, is_counted: impl Fn(Option<&str>, RecoveryAction) -> bool) -> u32 {
        let Diagnosis { agent, goal, step, fault_type, .. } = self.diagnosis;
        self.account.tries(agent, (goal.as_ref(), *step), *fault_type, is_counted)
    }

    fn carry_out(&mut self, choice: &Choice) {
        let diagnosis = self.diagnosis;
        let tool = match &diagnosis.agent {
            Subject::Tool(tool) => Some(tool),
            _ => diagnosis.tool.as_ref().map(|tool| &tool.name),
        };
        match (choice.action, &diagnosis.agent, tool) {
            (RecoveryAction::CircuitBreaker, Subject::Tool(_), _) => self.open_breaker_of_subject(choice),
            (RecoveryAction::CircuitBreaker, _, Some(tool)) => {
                if self.account.open(&Subject::Tool(tool.clone())).is_none() {
                    self.open_breaker(tool, choice);
                }
                let pauses = RetryPolicy { jitter: 0.0, ..choice.parameters.wait_for_breaker() };
                self.retry_later(choice, pauses, Some(tool));
            }
            (RecoveryAction::CircuitBreaker, _, None) | (RecoveryAction::RetryWithBackoff, ..) => {
                self.retry_later(choice, choice.parameters.retry(), tool);
            }
            (action, ..) => self.do_at_once(choice, action),
        }
    }

    fn open_breaker_of_subject(&mut self, choice: &Choice) {
        let recovery = self.recovery(choice, RecoveryAction::CircuitBreaker);
        self.plan_breaker(recovery, choice);
    }

    /// A breaker on behalf of an agent belongs to the tool: to no goal, no step, no health.
    fn open_breaker(&mut self, tool: &ToolName, choice: &Choice) {
        let recovery = Recovery {
            agent: Subject::Tool(tool.clone()),
            goal: None,
            step: 0,
            sequence: 0,
            health_before: None,
            attempt: 1,
            ..self.recovery(choice, RecoveryAction::CircuitBreaker)
        };
        self.plan_breaker(recovery, choice);
    }

    fn plan_breaker(&mut self, mut recovery: Recovery, choice: &Choice) {
        let Parameters { open_ms, half_open_ms, deadline_ms, .. } = choice.parameters;
        recovery.parameters.insert("open_ms".to_owned(), open_ms.into());
        recovery.parameters.insert(HALF_OPEN_MS.to_owned(), half_open_ms.into());
        self.commit(recovery, open_ms.saturating_add(deadline_ms));
    }

    /// The agent tries the same call again after a pause, which lasts beyond the next probe of an open breaker.
    fn retry_later(&mut self, choice: &Choice, pauses: RetryPolicy, tool: Option<&ToolName>) {
        let chance = chance(self.seed, choice.use_number);
        let pause = pauses.delay_before(choice.use_number.saturating_add(1), chance);
        let mut delay_ms =
            pause.map_or(pauses.delay_max_ms, |pause| pause.as_millis().try_into().unwrap_or(TIME_MS_MAX));
        let breaker = tool.map(|tool| Subject::Tool(tool.clone()));
        let probe_at =
            breaker.as_ref().and_then(|subject| self.account.open(subject)).and_then(OpenRecovery::probe_at);
        let mut recovery = self.recovery(choice, RecoveryAction::RetryWithBackoff);
        if let (Some(breaker), Some(probe_at)) = (breaker, probe_at) {
            let until_probe = probe_at.signed_duration_since(self.now).num_milliseconds();
            let wait_ms = delay_ms.max(u64::try_from(until_probe).unwrap_or(0));
            // Later by the jitter, never earlier: before the probe the call could only be refused.
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "at most a week, never negative"
            )]
            let spread_ms = (wait_ms as f64 * choice.parameters.jitter * chance) as u64;
            delay_ms = wait_ms.saturating_add(spread_ms).saturating_add(1);
            recovery.parameters.insert("waits_for".to_owned(), breaker.to_string().into());
        }
        recovery.parameters.insert("delay_ms".to_owned(), delay_ms.into());
        self.commit(recovery, delay_ms.saturating_add(choice.parameters.deadline_ms));
    }

    fn do_at_once(&mut self, choice: &Choice, action: RecoveryAction) {
        let mut recovery = self.recovery(choice, action);
        if action == RecoveryAction::Retry {
            recovery.parameters.insert("delay_ms".to_owned(), 0.into());
        }
        let Parameters { turns_kept, steps_back, .. } = choice.parameters;
        let told = match action {
            RecoveryAction::PruneContext => turns_kept.map(|kept| ("turns_kept", kept)),
            RecoveryAction::ResetState => steps_back.map(|back| ("steps_back", back)),
            _ => None,
        };
        if let Some((name, value)) = told {
            recovery.parameters.insert(name.to_owned(), value.into());
        }
        if choice.is_last {
            recovery.parameters.insert(Recovery::GIVES_UP.to_owned(), true.into());
        }
        self.commit(recovery, choice.parameters.deadline_ms);
    }

    /// Plans `recovery`, with its times; where the mode forbids it, abandons it at once.
    fn commit(&mut self, mut recovery: Recovery, time_ms: u64) {
        for crowded in self.account.crowded_out(&recovery.agent) {
            self.close(&crowded, RecoveryPhase::Abandoned, "too much is broken at once to keep count of it");
        }
        let times = [(PLANNED_AT, self.now), (Recovery::DEADLINE, after(self.now, time_ms))];
        for (name, time) in times {
            recovery.parameters.insert(name.to_owned(), time.to_rfc3339().into());
        }
        recovery.outcome = self.forbidden(recovery.action).map(str::to_owned);
        self.emit(recovery.clone());
        if recovery.is_forbidden() {
            self.emit(Recovery { phase: RecoveryPhase::Abandoned, duration_ms: Some(0), ..recovery });
        }
    }

    /// Why the mode forbids `action`, if it does. The engine is rebuilt in every mode: without it nothing runs.
    fn forbidden(&self, action: RecoveryAction) -> Option<&'static str> {
        let is_critical = self.diagnosis.severity == Severity::Critical;
        match self.mode {
            _ if action == RecoveryAction::RebuildEngine => None,
            Mode::Observe => Some("the mode is observe: nothing is done"),
            Mode::Recommend => Some("the mode is recommend: a person decides"),
            Mode::ActNoncritical if is_critical => {
                Some("the mode is act-noncritical and this is critical: a person decides")
            }
            Mode::ActNoncritical | Mode::Act => None,
        }
    }

    /// Ends the diagnosis without a plan, and says why.
    fn decline(&mut self, action: RecoveryAction, outcome: String) {
        let choice = Choice::new(action, Parameters::default());
        let recovery = self.recovery(&choice, action);
        self.emit(Recovery {
            phase: RecoveryPhase::Abandoned,
            duration_ms: Some(0),
            outcome: Some(outcome),
            ..recovery
        });
    }

    /// A planned recovery without parameters.
    fn recovery(&mut self, choice: &Choice, action: RecoveryAction) -> Recovery {
        let diagnosis = self.diagnosis;
        Recovery {
            recovery: RecoveryId::new(self.ids),
            diagnosis: diagnosis.diagnosis,
            agent: diagnosis.agent.clone(),
            goal: diagnosis.goal.clone(),
            phase: RecoveryPhase::Planned,
            action,
            rung: choice.rung,
            parameters: Map::<String, Value>::new(),
            policy: choice.policy.clone(),
            attempt: self.tries(|_, _| true).saturating_add(1),
            mode: self.mode,
            health_before: diagnosis.agent.agent().map(|_| diagnosis.health),
            health_after: None,
            state_before: None,
            state_after: None,
            duration_ms: None,
            outcome: None,
            sequence: diagnosis.sequence,
            step: diagnosis.step,
            fault_type: diagnosis.fault_type,
        }
    }

    fn close(&mut self, open: &OpenRecovery, phase: RecoveryPhase, outcome: &str) {
        let closed = close(self.account, open, phase, outcome, self.now);
        self.events.push(closed);
    }

    fn emit(&mut self, recovery: Recovery) {
        self.account.observe(&recovery);
        self.events.push(recovery);
    }
}

/// A number in [0, 1) from a seed and the number of a draw (`SplitMix64`, Steele, Lea, Flood 2014).
fn chance(seed: u64, draw: u32) -> f64 {
    let mut mixed = seed.wrapping_add(u64::from(draw).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^= mixed >> 31;
    (mixed >> 11) as f64 / (1_u64 << 53) as f64
}
