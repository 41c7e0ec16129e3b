//! Every kind of anomaly and the diagnosis that it leads to.
#![expect(clippy::unwrap_used, reason = "a test that cannot build its input shall fail")]

use kintsugi_diagnose::{History, Rules};
use kintsugi_events::{Anomaly, AnomalyKind, Diagnosis, Severity, Subject, ToolOutcome};
use kintsugi_types::{AgentId, AnomalyId, ErrorTier, GoalId, Score, SeededIds, Timestamp, ToolName};

fn anomaly(kind: AnomalyKind, severity: Severity) -> Anomaly {
    Anomaly {
        anomaly: AnomalyId::new(&mut SeededIds::new(kind as u64)),
        agent: "support-1".parse().unwrap(),
        goal: Some(GoalId::new("goal-1").unwrap()),
        kind,
        metric: "confidence".to_owned(),
        value: 0.45,
        baseline: 0.713_333,
        ratio: 0.63,
        window: 4,
        severity,
        sequence: 17,
        step: 3,
        health: Score::new(0.7),
        context_ratio: Some(0.3),
        tool: None,
    }
}

fn failure(tier: Option<ErrorTier>) -> Anomaly {
    let tool = ToolOutcome {
        name: ToolName::new("refund").unwrap(),
        ok: false,
        error_tier: tier,
        error: Some("\n401 no credential\nstack".to_owned()),
        attempt: 2,
    };
    Anomaly { tool: Some(tool), ..anomaly(AnomalyKind::ToolFailure, Severity::Medium) }
}

fn diagnose(anomaly: &Anomaly, earlier: u32) -> Diagnosis {
    Rules.diagnose(anomaly, earlier, &mut SeededIds::new(9))
}

/// `fault action recoverable severity`.
#[track_caller]
fn check(anomaly: &Anomaly, expected: &str) {
    let found = diagnose(anomaly, 0);
    let text = format!(
        "{} {} {} {:?}",
        found.fault_type.name(),
        found.recommended_action.name(),
        if found.recoverable { "recoverable" } else { "final" },
        found.severity
    );
    assert_eq!(text, expected);
    assert!(!found.root_cause.is_empty() && !found.root_cause.contains('\n'), "{:?}", found.root_cause);
    assert_eq!((found.sequence, found.step, found.goal.as_ref()), (17, 3, anomaly.goal.as_ref()));
    assert_eq!((found.anomalies.as_slice(), found.diagnosed_by.as_str()), (&[anomaly.anomaly][..], "rules"));
}

#[test]
fn a_failed_call_is_mended_by_what_its_tier_allows() {
    check(&failure(Some(ErrorTier::Transient)), "tool_failure retry_with_backoff recoverable Medium");
    check(&failure(None), "tool_failure retry_with_backoff recoverable Medium");
    check(&failure(Some(ErrorTier::Recoverable)), "tool_failure repair_tool_call recoverable Medium");
    check(&failure(Some(ErrorTier::Fatal)), "tool_failure notify_human final Medium");
    check(&anomaly(AnomalyKind::ToolFailure, Severity::Low), "unknown monitor recoverable Low");
}

#[test]
fn a_tool_that_fails_for_all_gets_a_breaker() {
    let shared = Anomaly {
        agent: Subject::Tool(ToolName::new("refund").unwrap()),
        goal: None,
        kind: AnomalyKind::LowToolSuccess,
        ..failure(Some(ErrorTier::Transient))
    };
    check(&shared, "tool_failure circuit_breaker recoverable Medium");
    check(
        &Anomaly { agent: "support-1".parse().unwrap(), ..shared },
        "tool_failure retry_with_backoff recoverable Medium",
    );
    check(&anomaly(AnomalyKind::LowToolSuccess, Severity::High), "tool_failure monitor recoverable High");
}

#[test]
fn every_other_kind_has_its_fault_and_remedy() {
    use Severity::{Critical, High, Low, Medium};
    for (kind, severity, expected) in [
        (AnomalyKind::Loop, Medium, "loop force_replan recoverable Medium"),
        (AnomalyKind::MalformedOutput, Medium, "quality_degradation retry recoverable Medium"),
        (AnomalyKind::LowConfidence, Low, "quality_degradation monitor recoverable Low"),
        (AnomalyKind::LowConfidence, High, "quality_degradation reset_state recoverable High"),
        (AnomalyKind::LowCoherence, Medium, "quality_degradation reset_state recoverable Medium"),
        (AnomalyKind::ContextPressure, High, "context_overflow prune_context recoverable High"),
        (AnomalyKind::HighTokens, Low, "context_overflow prune_context recoverable Low"),
        (AnomalyKind::BudgetSpent, High, "budget_exceeded notify_human final High"),
        (AnomalyKind::EngineFault, Critical, "engine_fault rebuild_engine recoverable Critical"),
        (AnomalyKind::HighLatency, Low, "latency_degradation monitor recoverable Low"),
        (AnomalyKind::LowHealth, Critical, "state_drift reset_state recoverable Critical"),
    ] {
        check(&anomaly(kind, severity), expected);
    }
}

#[test]
fn doubt_that_recurs_within_a_goal_begins_anew() {
    let doubt = anomaly(AnomalyKind::LowConfidence, Severity::Low);
    let mut history = History::default();
    let mut note = |told: &Anomaly| history.note(told, Timestamp::UNIX_EPOCH);
    let action = |earlier| diagnose(&doubt, earlier).recommended_action.name();
    assert_eq!(action(note(&doubt)), "monitor");
    assert_eq!(action(note(&doubt)), "monitor");
    assert_eq!(note(&anomaly(AnomalyKind::LowCoherence, Severity::Low)), 0, "another kind");
    assert_eq!(action(note(&doubt)), "reset_state");
    // What happens to others meanwhile takes nothing away.
    for other in 0..1_000 {
        let agent = Subject::Agent(AgentId::new(format!("other-{other}")).unwrap());
        assert_eq!(note(&Anomaly { agent, ..doubt.clone() }), 0);
    }
    assert_eq!(action(note(&doubt)), "reset_state");
    assert_eq!(action(note(&Anomaly { goal: None, ..doubt.clone() })), "monitor", "another goal");
}

#[test]
fn the_reasoning_names_the_evidence() {
    let found = diagnose(&failure(Some(ErrorTier::Fatal)), 0);
    assert_eq!(
        found.reasoning,
        "tool_failure: confidence is 0.45 against 0.713 (over 4); refund failed (fatal): 401 no credential"
    );
    assert_eq!(found.root_cause, "refund will not work until somebody mends it: 401 no credential");
    let slow = ToolOutcome { ok: true, error_tier: None, error: None, ..failure(None).tool.unwrap() };
    let found =
        diagnose(&Anomaly { tool: Some(slow), ..anomaly(AnomalyKind::HighLatency, Severity::Low) }, 0);
    assert!(found.reasoning.ends_with("(over 4); refund answered"), "{}", found.reasoning);
}
