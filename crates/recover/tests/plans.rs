//! What is planned for a diagnosis, and how the account of it is kept.
#![expect(clippy::unwrap_used, reason = "a test that cannot build its input shall fail")]

use std::sync::Arc;

use kintsugi_events::{
    Diagnosis, FaultType, Mode, Recovery, RecoveryAction, RecoveryPhase, Severity, Subject, ToolOutcome,
};
use kintsugi_recover::{Account, PolicySet, Recoverer};
use kintsugi_types::{DiagnosisId, ErrorTier, GoalId, Score, SeededIds, Timestamp, ToolName};

const ORIGIN_MS: i64 = 1_000_000;

struct Desk {
    recoverer: Recoverer,
    ids: SeededIds,
    sequence: u64,
}

impl Desk {
    fn new(mode: Mode) -> Self {
        let text = include_str!("short.yaml");
        let policies = PolicySet::parse(text, "short.yaml").unwrap();
        Self { recoverer: Recoverer::new(Arc::new(policies), mode), ids: SeededIds::new(1), sequence: 0 }
    }

    /// A fresh diagnosis of a tool that failed for an agent.
    fn diagnosis(&mut self, tier: ErrorTier) -> Diagnosis {
        self.sequence += 1;
        Diagnosis {
            context_ratio: None,
            fallen_by: None,
            diagnosis: DiagnosisId::new(&mut self.ids),
            agent: "support-1".parse().unwrap(),
            goal: Some(GoalId::new("goal-1").unwrap()),
            anomalies: Vec::new(),
            fault_type: FaultType::ToolFailure,
            severity: Severity::Medium,
            root_cause: "the shop is away".to_owned(),
            recommended_action: RecoveryAction::RetryWithBackoff,
            recoverable: tier != ErrorTier::Fatal,
            confidence: Score::ONE,
            diagnosed_by: "rules".to_owned(),
            reasoning: String::new(),
            sequence: self.sequence,
            step: 2,
            health: Score::new(0.7),
            tool: Some(ToolOutcome {
                name: ToolName::new("lookup").unwrap(),
                ok: false,
                error_tier: Some(tier),
                error: None,
                attempt: 1,
            }),
        }
    }

    fn plan(&mut self, diagnosis: &Diagnosis, time_ms: i64) -> Vec<Recovery> {
        self.recoverer.plan(diagnosis, at(time_ms), 7, &mut self.ids)
    }

    fn report(&mut self, plan: &Recovery, phase: RecoveryPhase) {
        self.recoverer.observe(&Recovery { phase, ..plan.clone() });
    }
}

fn at(time_ms: i64) -> Timestamp {
    Timestamp::from_timestamp_millis(ORIGIN_MS + time_ms).unwrap()
}

fn tool() -> Subject {
    Subject::Tool(ToolName::new("lookup").unwrap())
}

fn delay_ms(recovery: &Recovery) -> u64 {
    recovery.parameters.get("delay_ms").and_then(serde_json::Value::as_u64).unwrap()
}

/// `subject phase action policy #attempt`, one each.
fn lines(recoveries: &[Recovery]) -> Vec<String> {
    recoveries
        .iter()
        .map(|recovery| {
            let Recovery { agent, phase, action, policy, attempt, .. } = recovery;
            let policy = policy.as_deref().unwrap_or("-");
            format!("{agent} {} {} {policy} #{attempt}", phase.name(), action.name())
        })
        .collect()
}

#[test]
fn a_fault_that_stays_climbs_from_retries_over_the_breaker_to_a_person() {
    let mut desk = Desk::new(Mode::Act);
    let mut seen = Vec::new();
    let mut delays = Vec::new();
    let mut now_ms = 0;
    for _ in 0..8 {
        let diagnosis = desk.diagnosis(ErrorTier::Transient);
        let plans = desk.plan(&diagnosis, now_ms);
        for plan in plans
            .iter()
            .filter(|plan| plan.agent.agent().is_some() && plan.parameters.contains_key("delay_ms"))
        {
            delays.push(delay_ms(plan));
            now_ms += i64::try_from(delay_ms(plan)).unwrap();
        }
        if let Some(plan) = plans.iter().find(|plan| plan.agent.agent().is_some()) {
            desk.report(plan, RecoveryPhase::Started);
            desk.report(plan, RecoveryPhase::Failed);
        }
        seen.extend(lines(&plans));
    }
    assert_eq!(
        seen,
        [
            "support-1 planned retry_with_backoff retry-transient-tool-error #1",
            "support-1 planned retry_with_backoff retry-transient-tool-error #2",
            "support-1 planned retry_with_backoff retry-transient-tool-error #3",
            "tool:lookup planned circuit_breaker wait-for-tool #1",
            "support-1 planned retry_with_backoff wait-for-tool #4",
            "support-1 planned retry_with_backoff wait-for-tool #5",
            "support-1 planned retry_with_backoff wait-for-tool #6",
            "support-1 planned notify_human tell-a-person #7",
            "support-1 abandoned notify_human - #8",
        ]
    );
    assert!(
        (40..=50).contains(&delays[0]) && (80..=100).contains(&delays[1]) && (160..=200).contains(&delays[2])
    );
    assert!(delays[3] > 300 && delays[4] > 600 && delays[5] > 1_200, "{delays:?}");
}

#[test]
fn an_agent_behind_an_open_breaker_waits_for_the_probe() {
    let mut desk = Desk::new(Mode::Act);
    let of_agent = desk.diagnosis(ErrorTier::Transient);
    let of_tool =
        Diagnosis { agent: tool(), goal: None, step: 0, sequence: 0, ..desk.diagnosis(ErrorTier::Transient) };
    let opened = desk.plan(&of_tool, 0);
    assert_eq!(lines(&opened), ["tool:lookup planned circuit_breaker shared-tool-down #1"]);
    assert_eq!((&opened[0].parameters["half_open_ms"], opened[0].health_before), (&300.into(), None));
    let waiting = desk.plan(&of_agent, 100);
    assert_eq!(lines(&waiting), ["support-1 planned retry_with_backoff retry-transient-tool-error #1"]);
    assert!((200..=260).contains(&delay_ms(&waiting[0])), "{waiting:?}");
    assert_eq!(waiting[0].parameters["waits_for"], "tool:lookup");
}

#[test]
fn a_tool_has_one_breaker_however_many_agents_ask_for_it() {
    let mut desk = Desk::new(Mode::Act);
    let of_tool = |desk: &mut Desk| Diagnosis {
        agent: tool(),
        goal: None,
        step: 0,
        sequence: 0,
        recommended_action: RecoveryAction::CircuitBreaker,
        ..desk.diagnosis(ErrorTier::Transient)
    };
    let (first, second) = (of_tool(&mut desk), of_tool(&mut desk));
    let opened = desk.plan(&first, 0);
    let again = desk.plan(&second, 10);
    assert_eq!(lines(&again), ["tool:lookup abandoned circuit_breaker - #2"]);
    assert_eq!(again[0].outcome, Some(format!("{} is under way for it", opened[0].recovery)));
    desk.report(&opened[0], RecoveryPhase::Completed);
    let third = of_tool(&mut desk);
    assert_eq!(lines(&desk.plan(&third, 20)), ["tool:lookup planned circuit_breaker shared-tool-down #1"]);
}

#[test]
fn a_fault_in_a_step_that_is_being_mended_takes_the_place_of_its_recovery() {
    let mut desk = Desk::new(Mode::Act);
    let (first, second) = (desk.diagnosis(ErrorTier::Transient), desk.diagnosis(ErrorTier::Transient));
    let planned = desk.plan(&first, 0);
    desk.report(&planned[0], RecoveryPhase::Started);
    let next = desk.plan(&second, 90);
    assert_eq!(lines(&next), ["support-1 planned retry_with_backoff retry-transient-tool-error #2"]);
    assert_eq!(desk.recoverer.account().all_open().count(), 2, "the agent owes the first one's end");
    desk.report(&planned[0], RecoveryPhase::Failed);
    desk.report(&planned[0], RecoveryPhase::Failed);
    assert_eq!(desk.recoverer.account().actions()["retry_with_backoff"].tried, 1);
    assert_eq!(desk.recoverer.account().all_open().count(), 1);
}

#[test]
fn a_second_anomaly_of_one_metric_gets_no_parallel_recovery() {
    let mut desk = Desk::new(Mode::Act);
    let first = desk.diagnosis(ErrorTier::Transient);
    let doubt = Diagnosis {
        diagnosis: DiagnosisId::new(&mut desk.ids),
        fault_type: FaultType::QualityDegradation,
        severity: Severity::Low,
        recommended_action: RecoveryAction::Monitor,
        ..first.clone()
    };
    assert_eq!(desk.plan(&first, 0).len(), 1);
    assert_eq!(lines(&desk.plan(&doubt, 0)), ["support-1 abandoned monitor - #1"]);
    assert_eq!(desk.plan(&first, 1), [], "the same diagnosis again");
}

#[test]
fn what_only_watches_gives_way_to_what_mends() {
    let mut desk = Desk::new(Mode::Act);
    let failure = desk.diagnosis(ErrorTier::Transient);
    let doubt = Diagnosis {
        diagnosis: DiagnosisId::new(&mut desk.ids),
        fault_type: FaultType::QualityDegradation,
        severity: Severity::Low,
        ..failure.clone()
    };
    assert_eq!(lines(&desk.plan(&doubt, 0)), ["support-1 planned monitor watch-doubt #1"]);
    assert_eq!(
        lines(&desk.plan(&failure, 0)),
        ["support-1 planned retry_with_backoff retry-transient-tool-error #1"]
    );
}

#[test]
fn what_was_taken_up_at_the_end_of_a_step_is_not_judged_by_that_step() {
    let mut desk = Desk::new(Mode::Act);
    desk.recoverer.policies = Arc::default();
    let first = drifting(&mut desk, 3);
    let planned = desk.plan(&first, 0);
    assert_eq!(lines(&planned), ["support-1 planned cache_rollback - #1"]);
    desk.report(&planned[0], RecoveryPhase::Started);
    // Measured in the same commit in which the agent took it up.
    let same_commit = drifting(&mut desk, 4);
    assert_eq!(lines(&desk.plan(&same_commit, 10)), ["support-1 abandoned reset_state - #2"]);
    desk.report(&planned[0], RecoveryPhase::Failed);
    let next = drifting(&mut desk, 5);
    assert_eq!(desk.plan(&next, 20)[0].rung, Some(2), "the first rung did not help");
}

#[test]
fn a_plan_whose_place_was_taken_is_ended_by_its_agent_and_was_no_try_if_abandoned() {
    let mut desk = Desk::new(Mode::Act);
    desk.recoverer.policies = Arc::default();
    let mut plans = Vec::new();
    for step in 1..=3 {
        let diagnosis = drifting(&mut desk, step);
        plans.extend(desk.plan(&diagnosis, 0));
        if let [.., before, _] = &plans[..] {
            let before = before.clone();
            desk.report(&before, RecoveryPhase::Abandoned);
        }
    }
    let rungs: Vec<_> = plans.iter().map(|plan| (plan.phase.name(), plan.rung)).collect();
    assert_eq!(rungs, [("planned", Some(1)), ("planned", Some(2)), ("planned", Some(3))]);
    assert_eq!(desk.recoverer.account().actions()["cache_rollback"].tried, 0);
    assert_eq!(desk.recoverer.account().all_open().count(), 1);
}

#[test]
fn watching_ends_no_climb_and_forgets_no_try() {
    let mut desk = Desk::new(Mode::Act);
    desk.recoverer.policies = Arc::default();
    assert_eq!(climbed(&mut desk, 0.9, 1), [("cache_rollback", Some(1))]);
    let slow = Diagnosis {
        step: 2,
        fault_type: FaultType::LatencyDegradation,
        recommended_action: RecoveryAction::Monitor,
        ..desk.diagnosis(ErrorTier::Transient)
    };
    let watched = desk.plan(&slow, 0);
    desk.report(&watched[0], RecoveryPhase::Completed);
    let diagnosis = Diagnosis { step: 3, health: Score::new(0.9), ..desk.diagnosis(ErrorTier::Transient) };
    assert_eq!(desk.plan(&diagnosis, 0)[0].rung, Some(2));
}

#[test]
fn plans_that_nobody_answers_are_bounded() {
    let mut desk = Desk::new(Mode::Act);
    let mut abandoned = 0;
    for step in 1..=40 {
        let diagnosis = Diagnosis { step, ..desk.diagnosis(ErrorTier::Transient) };
        let plans = desk.plan(&diagnosis, 0);
        abandoned += plans.iter().filter(|plan| plan.phase == RecoveryPhase::Abandoned).count();
    }
    let open = desk.recoverer.account().all_open().count();
    assert!(open <= 9, "{open}");
    assert_eq!(open + abandoned, 40);
    assert_eq!(desk.recoverer.tick(at(3_600_000)).len(), open, "and each has an end at its deadline");
}

#[test]
fn another_step_begins_anew() {
    let mut desk = Desk::new(Mode::Act);
    for _ in 0..3 {
        let diagnosis = desk.diagnosis(ErrorTier::Transient);
        desk.plan(&diagnosis, 0);
    }
    let next_step = Diagnosis { step: 3, ..desk.diagnosis(ErrorTier::Transient) };
    assert_eq!(
        lines(&desk.plan(&next_step, 0)),
        ["support-1 planned retry_with_backoff retry-transient-tool-error #1"]
    );
}

#[test]
fn faults_that_show_once_a_step_use_up_a_policy_over_steps() {
    let mut desk = Desk::new(Mode::Act);
    let text = "policies:\n- {name: once, priority: 5, when: {fault_type: loop}, action: force_replan, \
                parameters: {attempts: 1}}\n";
    desk.recoverer.policies = Arc::new(PolicySet::parse(text, "once.yaml").unwrap());
    let mut seen = Vec::new();
    for step in 1..=2 {
        let looping = Diagnosis { step, fault_type: FaultType::Loop, ..desk.diagnosis(ErrorTier::Transient) };
        let plans = desk.plan(&looping, 0);
        desk.report(&plans[0], RecoveryPhase::Failed);
        seen.push(plans[0].action.name());
    }
    assert_eq!(seen, ["force_replan", "prune_context"], "the second time the cascade runs");
}

#[test]
fn a_fatal_error_goes_to_a_person_at_once() {
    let mut desk = Desk::new(Mode::Act);
    let fatal = desk.diagnosis(ErrorTier::Fatal);
    assert_eq!(lines(&desk.plan(&fatal, 0)), ["support-1 planned notify_human fatal-tool-error #1"]);
}

#[test]
fn without_a_policy_a_shared_part_gets_what_is_recommended_and_then_a_person() {
    let mut desk = Desk::new(Mode::Act);
    desk.recoverer.policies = Arc::default();
    let mut seen = Vec::new();
    for _ in 0..5 {
        let diagnosis = Diagnosis { agent: tool(), goal: None, ..desk.diagnosis(ErrorTier::Transient) };
        let plans = desk.plan(&diagnosis, 0);
        desk.report(plans.last().unwrap(), RecoveryPhase::Failed);
        seen.push(plans.last().unwrap().action.name());
    }
    let retries = ["retry_with_backoff"; 3];
    assert_eq!(seen, [&retries[..], &["notify_human"; 2]].concat());
}

/// A diagnosis that no policy is for, of an agent that is a little unwell.
fn drifting(desk: &mut Desk, step: u32) -> Diagnosis {
    Diagnosis {
        step,
        health: Score::new(0.9),
        fault_type: FaultType::StateDrift,
        recommended_action: RecoveryAction::ResetState,
        tool: None,
        ..desk.diagnosis(ErrorTier::Transient)
    }
}

/// The actions and rungs that follow on each other over steps of one goal, none of which helps.
fn climbed(desk: &mut Desk, health: f64, steps: u32) -> Vec<(&'static str, Option<u8>)> {
    let mut seen = Vec::new();
    for step in 1..=steps {
        let diagnosis = Diagnosis {
            step,
            health: Score::new(health),
            fault_type: FaultType::StateDrift,
            recommended_action: RecoveryAction::ResetState,
            tool: None,
            ..desk.diagnosis(ErrorTier::Transient)
        };
        let plans = desk.plan(&diagnosis, 0);
        let plan = plans.last().unwrap();
        assert_eq!(plan.gives_agent_up(), plan.action == RecoveryAction::NotifyHuman);
        desk.report(plan, RecoveryPhase::Failed);
        seen.push((plan.action.name(), plan.rung));
    }
    seen
}

#[test]
fn without_a_policy_an_agent_climbs_the_cascade_from_its_health_and_is_given_up_last() {
    let mut desk = Desk::new(Mode::Act);
    desk.recoverer.policies = Arc::default();
    assert_eq!(
        climbed(&mut desk, 0.5, 6),
        [
            ("model_downshift", Some(3)),
            ("agent_redistribute", Some(4)),
            ("degrade_gracefully", Some(5)),
            ("cache_rollback", Some(1)),
            ("prune_context", Some(2)),
            ("notify_human", None),
        ]
    );
}

#[test]
fn a_rung_that_helped_ends_the_climb() {
    let mut desk = Desk::new(Mode::Act);
    desk.recoverer.policies = Arc::default();
    assert_eq!(climbed(&mut desk, 0.9, 1), [("cache_rollback", Some(1))]);
    let diagnosis = Diagnosis { step: 2, health: Score::new(0.9), ..desk.diagnosis(ErrorTier::Transient) };
    let plans = desk.plan(&diagnosis, 0);
    assert_eq!(plans.last().unwrap().rung, Some(2));
    desk.report(plans.last().unwrap(), RecoveryPhase::Completed);
    assert_eq!(climbed(&mut desk, 0.9, 1), [("cache_rollback", Some(1))]);
}

#[test]
fn what_is_only_to_be_watched_is_watched_without_a_policy_however_often() {
    let mut desk = Desk::new(Mode::Act);
    desk.recoverer.policies = Arc::default();
    for _ in 0..5 {
        let diagnosis =
            Diagnosis { recommended_action: RecoveryAction::Monitor, ..desk.diagnosis(ErrorTier::Transient) };
        let plans = desk.plan(&diagnosis, 0);
        assert_eq!(plans.last().unwrap().action, RecoveryAction::Monitor);
        desk.report(plans.last().unwrap(), RecoveryPhase::Completed);
    }
}

#[test]
fn what_nobody_answers_for_fails_at_its_deadline() {
    let mut desk = Desk::new(Mode::Act);
    let diagnosis = desk.diagnosis(ErrorTier::Transient);
    let planned = desk.plan(&diagnosis, 0);
    // And a second, in which the agent's word may come.
    let deadline_ms = 31_000 + i64::try_from(delay_ms(&planned[0])).unwrap();
    assert_eq!(desk.recoverer.tick(at(deadline_ms - 1)), []);
    let late = desk.recoverer.tick(at(deadline_ms));
    assert_eq!(lines(&late), ["support-1 failed retry_with_backoff retry-transient-tool-error #1"]);
    assert_eq!(late[0].outcome.as_deref(), Some("nobody took it up before its deadline"));
    assert_eq!(desk.recoverer.tick(at(deadline_ms)), []);
}

#[test]
fn the_mode_says_what_is_carried_out() {
    #[track_caller]
    fn check(mode: Mode, severity: Severity, fault_type: FaultType, expected: &[&str]) {
        let mut desk = Desk::new(mode);
        let diagnosis = Diagnosis { severity, fault_type, ..desk.diagnosis(ErrorTier::Transient) };
        let plans = desk.plan(&diagnosis, 0);
        let phases: Vec<_> = plans.iter().map(|plan| plan.phase.name()).collect();
        assert_eq!(phases, expected);
        assert!(plans.iter().all(|plan| plan.mode == mode && plan.recovery == plans[0].recovery));
        assert_eq!(desk.recoverer.account().all_open().count(), usize::from(expected.len() == 1));
    }
    use FaultType::{EngineFault, ToolFailure};
    use Severity::{Critical, High};
    check(Mode::Act, Critical, ToolFailure, &["planned"]);
    check(Mode::ActNoncritical, High, ToolFailure, &["planned"]);
    check(Mode::ActNoncritical, Critical, ToolFailure, &["planned", "abandoned"]);
    check(Mode::Recommend, High, ToolFailure, &["planned", "abandoned"]);
    check(Mode::Observe, High, ToolFailure, &["planned", "abandoned"]);
    check(Mode::Observe, Critical, EngineFault, &["planned"]);
}

#[test]
fn nothing_is_learned_from_what_was_never_carried_out() {
    let mut desk = Desk::new(Mode::Observe);
    for _ in 0..20 {
        let diagnosis = desk.diagnosis(ErrorTier::Transient);
        let plans = desk.plan(&diagnosis, 0);
        assert_eq!(plans[0].attempt, 1);
    }
    let count = desk.recoverer.account().actions()["retry_with_backoff"];
    assert_eq!((count.tried, count.abandoned), (0, 20));
}

#[test]
fn a_snapshot_and_the_events_after_it_rebuild_the_account() {
    let mut desk = Desk::new(Mode::Act);
    let mut events = Vec::new();
    for _ in 0..5 {
        let diagnosis = desk.diagnosis(ErrorTier::Transient);
        events.extend(desk.plan(&diagnosis, 0));
    }
    let snapshot = serde_json::to_string(desk.recoverer.account()).unwrap();
    let restored: Account = serde_json::from_str(&snapshot).unwrap();
    assert_eq!(&restored, desk.recoverer.account());
    let mut replayed = Account::default();
    for event in &events {
        replayed.observe(event);
    }
    assert_eq!(&replayed, desk.recoverer.account());
}
