//! What the monitor tells of a stream of metrics, and what it leaves unsaid.
#![expect(clippy::unwrap_used, reason = "a test that cannot build its input shall fail")]

use kintsugi_events::{
    Anomaly, AnomalyKind, Budget, HealthScores, HealthState, Metric, Severity, StepLatency, ToolOutcome,
};
use kintsugi_monitor::{Monitor, MonitorSettings, MonitorState};
use kintsugi_types::{
    AgentId, AgentKind, ErrorTier, GoalId, Score, SeededIds, Timestamp, TokenUsage, ToolName,
};

/// A step in which nothing is wrong.
fn step(agent: &str, number: u32) -> Metric {
    Metric {
        agent: AgentId::new(agent).unwrap(),
        kind: AgentKind::new("support").ok(),
        goal: GoalId::new("goal-1").unwrap(),
        step: number,
        state: HealthState::Healthy,
        health: Score::new(0.97),
        scores: HealthScores::default(),
        confidence: Score::new(0.8),
        similarity: Some(Score::new(0.4)),
        context_ratio: 0.3,
        latency_ms: StepLatency::default(),
        tokens: TokenUsage { prompt: 50, cached: 0, completion: 10 },
        tool: Some(call(None)),
        malformed: false,
        repeated_call: false,
        contradictions: 0,
        spent: None,
        model: None,
        sequence: u64::from(number) * 10,
    }
}

fn call(tier: Option<ErrorTier>) -> ToolOutcome {
    ToolOutcome {
        name: ToolName::new("lookup_order").unwrap(),
        ok: tier.is_none(),
        error_tier: tier,
        error: tier.map(|_| "503 from the shop".to_owned()),
        attempt: 1,
    }
}

fn with(change: impl FnOnce(&mut Metric)) -> Metric {
    let mut metric = step("a", 1);
    change(&mut metric);
    metric
}

fn failing(agent: &str, tier: ErrorTier) -> Metric {
    Metric { tool: Some(call(Some(tier))), ..step(agent, 1) }
}

fn observe_all(metrics: &[Metric]) -> Vec<Vec<Anomaly>> {
    let (mut monitor, mut ids) = (Monitor::new(MonitorSettings::default()), SeededIds::new(1));
    metrics
        .iter()
        .zip(0..)
        .map(|(metric, second)| {
            monitor.observe(metric, Timestamp::from_timestamp_secs(second).unwrap(), &mut ids)
        })
        .collect()
}

/// The anomalies of the last metric as `subject kind severity`.
#[track_caller]
fn check(metrics: &[Metric], expected: &[&str]) {
    let told = observe_all(metrics).pop().unwrap_or_default();
    let told: Vec<String> = told
        .iter()
        .map(|anomaly| format!("{} {} {:?}", anomaly.agent, anomaly.kind.name(), anomaly.severity))
        .collect();
    assert_eq!(told, expected);
}

#[test]
fn an_ordinary_step_is_no_anomaly() {
    check(&[step("a", 1)], &[]);
    check(&[Metric { tool: None, similarity: None, ..step("a", 1) }], &[]);
}

#[test]
fn a_failed_call_is_told_at_once_and_grows_worse_with_its_streak() {
    let transient = failing("a", ErrorTier::Transient);
    check(std::slice::from_ref(&transient), &["a tool_failure Low"]);
    check(&[transient.clone(), transient.clone()], &["a tool_failure Medium"]);
    check(&[failing("a", ErrorTier::Fatal)], &["a tool_failure High"]);
    let answered = [transient.clone(), step("a", 1), transient];
    check(&answered, &["a tool_failure Low"]);
}

#[test]
fn a_refusal_is_an_answer_until_it_comes_again_in_the_same_goal() {
    let refused = failing("a", ErrorTier::Recoverable);
    check(std::slice::from_ref(&refused), &[]);
    check(&[refused.clone(), Metric { step: 2, ..refused.clone() }], &["a tool_failure Medium"]);
    check(&[refused.clone(), step("a", 2), refused.clone()], &[]);
    let other_goal = Metric { goal: GoalId::new("goal-2").unwrap(), ..refused.clone() };
    check(&[refused, other_goal], &[]);
}

#[test]
fn a_tool_that_fails_for_several_agents_is_one_fault_of_the_tool_until_it_answers() {
    let stream: Vec<Metric> = ["a", "b", "c", "d"].map(|agent| failing(agent, ErrorTier::Transient)).to_vec();
    check(&stream[..3], &["tool:lookup_order low_tool_success High", "c tool_failure Low"]);
    check(&stream, &["d tool_failure Low"]);
    let mut again = stream;
    again.push(step("e", 1));
    again.extend(["f", "g", "h"].map(|agent| failing(agent, ErrorTier::Transient)));
    check(&again, &["tool:lookup_order low_tool_success High", "h tool_failure Low"]);
    let refusals = ["a", "b", "c"].map(|agent| failing(agent, ErrorTier::Recoverable));
    check(&refusals, &[]);
}

#[test]
fn an_anomaly_of_a_tool_names_no_agent_and_its_streak() {
    let stream = ["a", "b", "c"].map(|agent| failing(agent, ErrorTier::Transient));
    let told = observe_all(&stream).pop().unwrap();
    let of_tool = &told[0];
    assert_eq!((of_tool.goal.as_ref(), of_tool.sequence, of_tool.value), (None, 0, 3.0));
    assert_eq!(of_tool.tool.as_ref().map(|tool| tool.attempt), Some(3));
}

#[test]
fn an_output_that_cannot_be_read_is_told_at_once() {
    let unread = with(|metric| {
        metric.malformed = true;
        metric.tool = None;
        metric.similarity = None;
        metric.confidence = Score::new(0.1);
    });
    check(std::slice::from_ref(&unread), &["a malformed_output Medium"]);
    check(&[unread.clone(), unread.clone(), unread.clone()], &["a malformed_output High"]);
    let in_full_context = Metric { context_ratio: 0.93, ..unread };
    check(&[in_full_context], &["a context_pressure Medium", "a malformed_output Medium"]);
}

#[test]
fn the_same_call_three_times_is_a_loop() {
    let again = |number| Metric { repeated_call: true, ..step("a", number) };
    check(&[step("a", 1), again(2)], &[]);
    check(&[step("a", 1), again(2), again(3)], &["a loop Medium"]);
    check(&[step("a", 1), again(2), again(3), again(4)], &["a loop High"]);
    check(&[step("a", 1), again(2), step("a", 3), again(4)], &[]);
}

#[test]
fn five_thoughts_alike_are_a_loop() {
    let alike = |number| Metric { similarity: Some(Score::new(0.97)), ..step("a", number) };
    let stream = [step("a", 1), alike(2), alike(3), alike(4), alike(5)];
    check(&stream[..4], &[]);
    check(&stream, &["a loop Medium"]);
    let mut parted = stream;
    parted[2] = step("a", 3);
    check(&parted, &[]);
}

#[test]
fn confidence_is_low_below_both_its_floor_and_its_baseline() {
    let confident = |number, value| Metric { confidence: Score::new(value), ..step("a", number) };
    check(&[confident(1, 0.55)], &[]);
    check(&[confident(1, 0.45)], &["a low_confidence Low"]);
    check(&[confident(1, 0.2)], &["a low_confidence High"]);
    // What is low is not learned, so it stays low however long it lasts.
    let lasting: Vec<Metric> = (1..200).map(|number| confident(number, 0.45)).collect();
    check(&lasting, &["a low_confidence Low"]);
    // A retried call measures the same thought again: told once.
    check(&[confident(1, 0.45), confident(1, 0.45)], &[]);
}

#[test]
fn low_health_is_told_where_nothing_else_says_why() {
    let sick = |value| with(|metric| metric.health = Score::new(value));
    check(&[sick(0.5)], &[]);
    check(&[sick(0.39)], &["a low_health High"]);
    check(&[sick(0.1)], &["a low_health Critical"]);
    let explained = Metric { health: Score::new(0.3), ..failing("a", ErrorTier::Fatal) };
    check(&[explained], &["a tool_failure High"]);
}

#[test]
fn a_nearly_full_context_is_told_with_its_share() {
    check(&[with(|metric| metric.context_ratio = 0.9)], &[]);
    check(&[with(|metric| metric.context_ratio = 0.92)], &["a context_pressure Medium"]);
    check(&[with(|metric| metric.context_ratio = 0.99)], &["a context_pressure High"]);
    let told = observe_all(&[with(|metric| metric.context_ratio = 0.945)]).pop().unwrap();
    assert_eq!((told[0].kind, told[0].severity), (AnomalyKind::ContextPressure, Severity::Medium));
    assert!((told[0].ratio - 1.05).abs() < 1e-9 && told[0].sequence == 10);
}

#[test]
fn a_monitor_goes_on_from_its_snapshot_as_if_it_had_never_stopped() {
    let stream: Vec<Metric> = ["a", "b", "a", "c", "a"]
        .iter()
        .zip(1..)
        .map(|(agent, number)| Metric { step: number, ..failing(agent, ErrorTier::Transient) })
        .collect();
    let at = Timestamp::from_timestamp_secs(9).unwrap();
    let told = |monitor: &mut Monitor, metric: &Metric| monitor.observe(metric, at, &mut SeededIds::new(5));
    let mut unbroken = Monitor::default();
    let mut restored = Monitor::default();
    for metric in &stream {
        let snapshot = serde_json::to_string(restored.state()).unwrap();
        let state: MonitorState = serde_json::from_str(&snapshot).unwrap();
        restored = Monitor::restore(MonitorSettings::default(), state);
        assert_eq!(told(&mut restored, metric), told(&mut unbroken, metric));
    }
}

#[test]
fn what_the_monitor_remembers_is_bounded() {
    let (mut monitor, mut ids) = (Monitor::default(), SeededIds::new(1));
    for number in 0..20_000_i64 {
        let at = Timestamp::from_timestamp_secs(number).unwrap();
        monitor.observe(&step(&format!("agent-{number}"), 1), at, &mut ids);
    }
    assert!(monitor.state().agents.len() <= kintsugi_monitor::AGENTS_MAX);
    assert!(monitor.state().agents.get(&AgentId::new("agent-19999").unwrap()).is_some());
}

/// Steps of one agent, `count` of them, each as `change` makes it.
fn steps(count: u32, change: impl Fn(u32, &mut Metric)) -> Vec<Metric> {
    let of = |number| {
        let mut metric = Metric { latency_ms: latency(100.0, 2.0), ..step("a", number) };
        change(number, &mut metric);
        metric
    };
    (1..=count).map(of).collect()
}

fn latency(think: f64, tool: f64) -> StepLatency {
    StepLatency { queue: 0.0, think, tool, total: think + tool }
}

#[test]
fn a_level_far_from_the_usual_is_told_when_it_begins() {
    let told: Vec<(usize, Vec<Anomaly>)> = observe_all(&steps(70, |number, metric| {
        let confidence = if number > 50 { 0.6 } else { 0.9 };
        metric.confidence = Score::new(confidence);
    }))
    .into_iter()
    .enumerate()
    .filter(|(_, told)| !told.is_empty())
    .collect();
    let (place, first) = &told[0];
    assert_eq!(
        (*place, first[0].kind, first[0].metric.as_str()),
        (56, AnomalyKind::LowConfidence, "confidence.mean")
    );
    assert!((first[0].baseline - 0.9).abs() < 0.01 && first[0].value < 0.72, "{first:?}");
    assert_eq!(told.len(), 2, "and again after ten more: {told:?}");
}

#[test]
fn a_young_agent_is_compared_with_its_kind_and_not_blamed_for_what_slows_all() {
    let usual = steps(60, |_, _| ());
    let slow = |agent: &str| {
        steps(10, |_, metric| {
            metric.agent = AgentId::new(agent).unwrap();
            metric.latency_ms = latency(400.0, 2.0);
        })
    };
    // Two steps of others between two of the slow one.
    let mut one_slow = usual.clone();
    for metric in slow("b") {
        one_slow.extend(usual.iter().take(2).cloned());
        one_slow.push(metric);
    }
    check(&one_slow, &["b high_latency Medium"]);
    let all_slow: Vec<Metric> = usual.into_iter().chain(slow("b")).collect();
    check(&all_slow, &[]);
}

#[test]
fn a_slow_call_is_told_once_it_is_known_how_long_calls_take() {
    let slow = |count: u32| {
        steps(count, |number, metric| {
            if number == count {
                metric.latency_ms = latency(100.0, 600.0);
            }
        })
    };
    check(&slow(60), &["a high_latency Low"]);
    check(&slow(20), &[]);
}

#[test]
fn a_prompt_that_is_not_what_the_agent_remembers_is_drift_and_no_malformed_output() {
    let drifted = with(|metric| {
        metric.malformed = true;
        metric.contradictions = 1;
    });
    check(&[drifted], &["a state_drift Medium"]);
}

#[test]
fn a_spent_budget_is_told_and_nothing_else() {
    let spent = with(|metric| {
        metric.spent = Some(Budget::Tokens);
        metric.health = Score::ZERO;
    });
    check(&[spent], &["a budget_spent Medium"]);
}

#[test]
fn one_and_the_same_failing_call_is_a_loop_at_the_fifth_time() {
    let failed = |attempt: u32| {
        let mut metric = failing("a", ErrorTier::Transient);
        if let Some(tool) = &mut metric.tool {
            tool.attempt = attempt;
        }
        metric
    };
    let failures: Vec<Metric> = (1..=5).map(failed).collect();
    check(&failures, &["a tool_failure High", "a loop Medium"]);
    check(&failures[..4], &["a tool_failure High"]);
}
