//! The loop once around: metric, anomaly, diagnosis, recovery, and back to an agent that takes it up.
#![expect(clippy::unwrap_used, reason = "a test that cannot build its input shall fail")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kintsugi_diagnose::Rules;
use kintsugi_events::{
    AnomalyKind, HealthScores, HealthState, Metric, Mode, Recovery, RecoveryAction, RecoveryPhase,
    StepLatency, Subject, ToolOutcome,
};
use kintsugi_monitor::{Monitor, MonitorSettings};
use kintsugi_recover::{Admit, Breaker, PolicySet, Recoverer, Transition};
use kintsugi_types::{
    AgentId, AnomalyId, ErrorTier, GoalId, RecoveryId, Score, SeededIds, Timestamp, TokenUsage, ToolName,
};
use proptest::prelude::*;

/// More tries of one step than any chain of policies has.
const TRIES_MAX: u32 = 40;

/// What the one tool does on a call.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Call {
    Answers,
    Fails(ErrorTier),
    /// The model never got so far.
    Malformed,
}

/// One agent, one tool with its breaker, and the three stages.
struct World {
    monitor: Monitor,
    recoverer: Recoverer,
    breaker: Breaker,
    /// The recovery that opened the breaker.
    breaker_recovery: Option<Recovery>,
    ids: SeededIds,
    now: Timestamp,
    seed: u64,
    sequence: u64,
    anomalies: Vec<(AnomalyId, AnomalyKind)>,
    /// Which recovery answers which anomaly.
    answers: BTreeMap<AnomalyId, Vec<RecoveryId>>,
    recoveries: Vec<Recovery>,
}

impl World {
    fn new(mode: Mode, seed: u64) -> Self {
        let text = include_str!("short.yaml");
        let policies = PolicySet::parse(text, "short.yaml").unwrap();
        Self {
            monitor: Monitor::new(MonitorSettings::default()),
            recoverer: Recoverer::new(Arc::new(policies), mode),
            breaker: Breaker::default(),
            breaker_recovery: None,
            ids: SeededIds::new(seed),
            now: Timestamp::from_timestamp_secs(1_000).unwrap(),
            seed,
            sequence: 0,
            anomalies: Vec::new(),
            answers: BTreeMap::new(),
            recoveries: Vec::new(),
        }
    }

    /// Works one step until it succeeds, a person is told, or nothing helps; `outcomes` says what the tool does on
    /// each call that reaches it. Returns whether the step succeeded.
    fn work_step(&mut self, step: u32, outcomes: &mut dyn FnMut(Timestamp) -> Call) -> bool {
        let mut open: Option<Recovery> = None;
        for attempt in 1..=TRIES_MAX {
            let call = self.call(outcomes);
            let metric = self.metric(step, attempt, call);
            if let Some(recovery) = open.take() {
                let helped = call == Call::Answers;
                self.report(&recovery, if helped { RecoveryPhase::Completed } else { RecoveryPhase::Failed });
            }
            let plans = self.heal(&metric);
            if call == Call::Answers || call == Call::Fails(ErrorTier::Recoverable) {
                for plan in plans {
                    self.report(&plan, RecoveryPhase::Abandoned);
                }
                return call == Call::Answers;
            }
            let Some(plan) = plans.into_iter().next() else { return false };
            self.report(&plan, RecoveryPhase::Started);
            if plan.action == RecoveryAction::NotifyHuman {
                self.report(&plan, RecoveryPhase::Completed);
                return false;
            }
            let delay_ms = plan.parameters.get("delay_ms").and_then(serde_json::Value::as_u64).unwrap_or(0);
            self.now += Duration::from_millis(delay_ms);
            open = Some(plan);
        }
        panic!("the step was tried {TRIES_MAX} times: {:#?}", self.actions());
    }

    /// A call through the breaker; whoever it keeps out waits, as a runtime lets a call wait.
    fn call(&mut self, outcomes: &mut dyn FnMut(Timestamp) -> Call) -> Call {
        for _ in 0..TRIES_MAX {
            match self.breaker.admit(self.now) {
                Admit::No { retry_at } => self.now = retry_at,
                Admit::Yes | Admit::Probe => break,
            }
        }
        let call = outcomes(self.now);
        // A tool that refuses is alive.
        let is_alive = matches!(call, Call::Answers | Call::Fails(ErrorTier::Recoverable));
        let transition = self.breaker.record(is_alive, self.now);
        if transition == Some(Transition::Closed)
            && let Some(recovery) = self.breaker_recovery.take()
        {
            self.report(&recovery, RecoveryPhase::Completed);
        }
        self.now += Duration::from_millis(5);
        call
    }

    /// Monitor, diagnose, recover. Returns what the agent is to do.
    fn heal(&mut self, metric: &Metric) -> Vec<Recovery> {
        let mut for_agent = Vec::new();
        for anomaly in self.monitor.observe(metric, self.now, &mut self.ids) {
            self.anomalies.push((anomaly.anomaly, anomaly.kind));
            let diagnosis = Rules.diagnose(&anomaly, 0, &mut self.ids);
            self.seed += 1;
            let planned = self.recoverer.plan(&diagnosis, self.now, self.seed, &mut self.ids);
            let answers = planned.iter().filter(|plan| plan.diagnosis == diagnosis.diagnosis);
            self.answers.insert(anomaly.anomaly, answers.map(|plan| plan.recovery).collect());
            for plan in &planned {
                // The stage sees its own events come back.
                self.recoverer.observe(plan);
            }
            let closed: Vec<RecoveryId> =
                planned.iter().filter(|plan| plan.phase.is_terminal()).map(|plan| plan.recovery).collect();
            for plan in planned.iter().filter(|plan| !closed.contains(&plan.recovery)) {
                match &plan.agent {
                    Subject::Agent(_) => for_agent.push(plan.clone()),
                    _ => self.open_breaker(plan),
                }
            }
            for_agent.retain(|plan| !closed.contains(&plan.recovery));
            self.recoveries.extend(planned);
        }
        for_agent
    }

    fn open_breaker(&mut self, plan: &Recovery) {
        if plan.action == RecoveryAction::CircuitBreaker {
            let time_ms = |name: &str| plan.parameters.get(name).and_then(serde_json::Value::as_u64).unwrap();
            self.breaker.open(self.now, time_ms("open_ms"), time_ms("half_open_ms"));
            self.breaker_recovery = Some(plan.clone());
            self.report(plan, RecoveryPhase::Started);
        } else {
            self.report(plan, RecoveryPhase::Completed);
        }
    }

    fn report(&mut self, plan: &Recovery, phase: RecoveryPhase) {
        let recovery = Recovery { phase, ..plan.clone() };
        self.recoverer.observe(&recovery);
        self.recoveries.push(recovery);
    }

    fn metric(&mut self, step: u32, attempt: u32, call: Call) -> Metric {
        self.sequence += 3;
        let tier = if let Call::Fails(tier) = call { Some(tier) } else { None };
        Metric {
            kind: None,
            spent: None,
            model: None,
            contradictions: 0,
            agent: AgentId::new("support-1").unwrap(),
            goal: GoalId::new("goal-1").unwrap(),
            step,
            state: HealthState::Healthy,
            health: Score::new(if call == Call::Answers { 0.97 } else { 0.72 }),
            scores: HealthScores::default(),
            confidence: Score::new(0.8),
            similarity: Some(Score::new(0.4)),
            context_ratio: 0.3,
            latency_ms: StepLatency::default(),
            tokens: TokenUsage::default(),
            tool: (call != Call::Malformed).then(|| ToolOutcome {
                name: ToolName::new("lookup").unwrap(),
                ok: tier.is_none(),
                error_tier: tier,
                error: tier.map(|_| "503 from the shop".to_owned()),
                attempt,
            }),
            malformed: call == Call::Malformed,
            repeated_call: false,
            sequence: self.sequence,
        }
    }

    fn actions(&self) -> Vec<String> {
        let line = |recovery: &Recovery| {
            format!("{} {} {}", recovery.agent, recovery.action.name(), recovery.phase.name())
        };
        self.recoveries.iter().map(line).collect()
    }

    /// The promise: every anomaly ends in a terminal recovery, and no recovery ends in two ways.
    fn assert_every_anomaly_ends(&mut self) {
        self.now += Duration::from_hours(1);
        let late = self.recoverer.tick(self.now);
        self.recoveries.extend(late);
        assert_eq!(self.recoverer.account().all_open().count(), 0);
        let ends = |id: RecoveryId| {
            self.recoveries
                .iter()
                .filter(move |recovery| recovery.recovery == id && recovery.phase.is_terminal())
        };
        for (anomaly, kind) in &self.anomalies {
            let answers = self.answers.get(anomaly).unwrap();
            assert!(!answers.is_empty(), "{kind:?} has no answer");
            for answer in answers {
                assert_eq!(ends(*answer).count(), 1, "{kind:?}: {:#?}", self.actions());
            }
        }
    }
}

#[test]
fn a_tool_that_fails_twice_and_then_works_leaves_one_seam() {
    let mut world = World::new(Mode::Act, 1);
    let mut calls = 0;
    let mended = world.work_step(1, &mut |_| {
        calls += 1;
        if calls <= 2 { Call::Fails(ErrorTier::Transient) } else { Call::Answers }
    });
    assert!(mended);
    assert_eq!(
        world.actions(),
        [
            "support-1 retry_with_backoff planned",
            "support-1 retry_with_backoff started",
            "support-1 retry_with_backoff failed",
            "support-1 retry_with_backoff planned",
            "support-1 retry_with_backoff started",
            "support-1 retry_with_backoff completed",
        ]
    );
    let count = world.recoverer.account().actions()["retry_with_backoff"];
    assert_eq!((count.tried, count.succeeded), (2, 1));
    world.assert_every_anomaly_ends();
}

#[test]
fn a_tool_that_is_dead_for_long_is_left_alone_and_probed_until_it_heals() {
    let mut world = World::new(Mode::Act, 2);
    let began = world.now;
    // Dead for longer than the first probe waits, and back before the agent gives up.
    let back_at = began + Duration::from_millis(900);
    let mut calls = Vec::new();
    let mended = world.work_step(1, &mut |now| {
        calls.push(now.signed_duration_since(began).num_milliseconds());
        if now < back_at { Call::Fails(ErrorTier::Transient) } else { Call::Answers }
    });
    assert!(mended, "{:#?}", world.actions());
    let pauses: Vec<i64> = calls.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.is_sorted(), "the pauses grow: {pauses:?}");
    let actions = world.actions();
    let count = |line: &str| actions.iter().filter(|action| *action == line).count();
    assert_eq!(count("tool:lookup circuit_breaker planned"), 1, "{actions:#?}");
    assert_eq!(count("tool:lookup circuit_breaker completed"), 1, "{actions:#?}");
    assert!(count("support-1 retry_with_backoff failed") >= 3, "{actions:#?}");
    assert!(world.breaker.is_closed());
    world.assert_every_anomaly_ends();
    assert!(world.work_step(2, &mut |_| Call::Answers), "and the next step is as ever");
}

#[test]
fn a_tool_that_never_comes_back_reaches_a_person_in_bounded_tries() {
    let mut world = World::new(Mode::Act, 3);
    let mut calls = 0;
    let mended = world.work_step(1, &mut |_| {
        calls += 1;
        Call::Fails(ErrorTier::Transient)
    });
    assert_eq!((mended, calls), (false, 7), "{:#?}", world.actions());
    assert_eq!(world.recoveries.last().map(|recovery| recovery.action), Some(RecoveryAction::NotifyHuman));
    world.assert_every_anomaly_ends();
}

#[test]
fn a_tool_that_refuses_its_credential_reaches_a_person_at_once() {
    let mut world = World::new(Mode::Act, 4);
    assert!(!world.work_step(1, &mut |_| Call::Fails(ErrorTier::Fatal)));
    assert_eq!(world.recoveries.iter().filter(|r| r.phase == RecoveryPhase::Planned).count(), 1);
    world.assert_every_anomaly_ends();
}

#[test]
fn output_that_stays_unreadable_is_asked_for_again_reset_and_told() {
    let mut world = World::new(Mode::Act, 5);
    assert!(!world.work_step(1, &mut |_| Call::Malformed));
    let planned: Vec<&str> = world
        .recoveries
        .iter()
        .filter(|recovery| recovery.phase == RecoveryPhase::Planned)
        .map(|recovery| recovery.action.name())
        .collect();
    assert_eq!(planned, ["retry", "retry", "reset_state", "retry", "notify_human"]);
    world.assert_every_anomaly_ends();
}

fn any_call() -> impl Strategy<Value = Call> {
    prop_oneof![
        4 => Just(Call::Answers),
        4 => Just(Call::Fails(ErrorTier::Transient)),
        1 => Just(Call::Fails(ErrorTier::Recoverable)),
        1 => Just(Call::Fails(ErrorTier::Fatal)),
        2 => Just(Call::Malformed),
    ]
}

proptest! {
    #[test]
    fn every_anomaly_ends_whatever_the_tool_does(
        calls in prop::collection::vec(any_call(), 1..80),
        seed: u64,
        steps in 1_u32..12,
    ) {
        let mut world = World::new(Mode::Act, seed);
        let mut calls = calls.into_iter().cycle();
        for step in 1..=steps {
            world.work_step(step, &mut |_| calls.next().unwrap_or(Call::Answers));
        }
        world.assert_every_anomaly_ends();
    }

    #[test]
    fn observing_never_acts(calls in prop::collection::vec(any_call(), 1..40), seed: u64) {
        for mode in [Mode::Observe, Mode::Recommend] {
            let mut world = World::new(mode, seed);
            for (call, step) in calls.iter().zip(1..) {
                let metric = world.metric(step, 1, *call);
                prop_assert!(world.heal(&metric).is_empty());
                prop_assert_eq!(world.recoverer.account().all_open().count(), 0);
            }
            prop_assert!(world.breaker.is_closed() && world.breaker_recovery.is_none());
            world.assert_every_anomaly_ends();
        }
    }
}
