//! What a model is asked, how its answer is read, and when it counts.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use kintsugi_diagnose::opinion::OPINIONS_MAX;
use kintsugi_diagnose::{Choice, Heard, Opinion, Opinions, Question, Rules, Symptom};
use kintsugi_events::{
    Anomaly, AnomalyKind, Diagnosis, FaultType, RecoveryAction, Severity, Subject, ToolOutcome,
};
use kintsugi_types::{AnomalyId, ErrorTier, GoalId, Grammar, Role, Score, SeededIds, ToolName};
use serde_json::Value;

/// A slow call, of whose cause the rules are 0.6 sure.
fn slow() -> Anomaly {
    Anomaly {
        anomaly: AnomalyId::new(&mut SeededIds::new(1)),
        agent: "support-1".parse().unwrap(),
        goal: Some(GoalId::new("goal-1").unwrap()),
        kind: AnomalyKind::HighLatency,
        metric: "latency_ms.tool".to_owned(),
        value: 2_400.0,
        baseline: 81.5,
        ratio: 29.4,
        window: 12,
        severity: Severity::Low,
        sequence: 17,
        step: 3,
        health: Score::new(0.7),
        context_ratio: Some(0.3),
        tool: Some(ToolOutcome {
            name: ToolName::new("refund").unwrap(),
            ok: false,
            error_tier: None,
            error: Some("busy, try after 300 ms\nstack".to_owned()),
            attempt: 2,
        }),
    }
}

fn rules(anomaly: &Anomaly) -> Diagnosis {
    Rules.diagnose(anomaly, 0, &mut SeededIds::new(9))
}

fn opinion(confidence: f64, cause: Option<&str>) -> Opinion {
    let choice = Choice { fault: FaultType::ToolFailure, action: RecoveryAction::NotifyHuman };
    Opinion { choice, confidence: Score::new(confidence), cause: cause.map(str::to_owned) }
}

fn actions(anomaly: &Anomaly) -> Vec<String> {
    let request = Question::of(anomaly, 0, &rules(anomaly)).choice(50);
    let Grammar::JsonSchema(schema) = request.grammar else { panic!("a choice is no free text") };
    let schema: Value = serde_json::from_str(&schema).unwrap();
    assert_eq!(schema["properties"]["fault_type"]["enum"].as_array().unwrap().len(), 9);
    let told = &request.messages[0].content;
    let actions = schema["properties"]["recommended_action"]["enum"].as_array().unwrap();
    let actions: Vec<String> = actions.iter().map(|action| action.as_str().unwrap().to_owned()).collect();
    assert!(actions.iter().all(|action| told.contains(&format!("\n{action}: "))), "{told}");
    actions
}

#[test]
fn the_model_is_shown_the_evidence_and_what_the_rules_guess() {
    let anomaly = slow();
    let request = Question::of(&anomaly, 2, &rules(&anomaly)).choice(50);
    assert_eq!(
        request.messages.iter().map(|message| message.role).collect::<Vec<_>>(),
        [Role::System, Role::User]
    );
    assert_eq!((request.tokens_max, request.sampling.temperature), (50, 0.0));
    assert_eq!(
        &*request.messages[1].content,
        "symptom: high_latency, severity low\n\
         of: one agent\n\
         metric: latency_ms.tool is 2400, usual or allowed is 81.5 (over 12)\n\
         tool: refund failed on try 2 (unclassed): busy, try after 300 ms\n\
         health: 0.70 of 1, at step 3\n\
         context: 30 % full\n\
         seen before in this goal: 2 times\n\
         fixed rules guess, 60 % sure: latency_degradation, monitor"
    );
}

#[test]
fn a_prompt_is_bounded_whatever_stands_in_the_anomaly() {
    let mut anomaly = slow();
    anomaly.metric = "m".repeat(10_000);
    let tool = anomaly.tool.as_mut().unwrap();
    tool.error = Some("e".repeat(1 << 20));
    tool.name = ToolName::new("n".repeat(256)).unwrap();
    let request = Question::of(&anomaly, u32::MAX, &rules(&anomaly)).choice(50);
    let bytes: usize = request.messages.iter().map(|message| message.content.len()).sum();
    assert!(bytes < 2_600, "{bytes}");
}

#[test]
fn only_actions_that_make_sense_for_the_subject_are_offered() {
    let of = |subject: &str| Anomaly { agent: subject.parse().unwrap(), tool: None, ..slow() };
    assert!(actions(&slow()).contains(&"repair_tool_call".to_owned()));
    let agent = actions(&of("support-1"));
    assert!(agent.contains(&"prune_context".to_owned()) && !agent.contains(&"repair_tool_call".to_owned()));
    assert_eq!(actions(&of("tool:refund")), ["monitor", "circuit_breaker", "notify_human"]);
    for subject in ["engine", "model:nano"] {
        assert_eq!(actions(&of(subject)), ["monitor", "rebuild_engine", "notify_human"]);
    }
}

#[test]
fn why_is_asked_after_the_choice_and_prefixed_by_the_same_prompt() {
    let anomaly = slow();
    let question = Question::of(&anomaly, 0, &rules(&anomaly));
    let (first, second) = (question.choice(50), question.cause("{}", 70));
    assert!(second.messages.starts_with(&first.messages));
    assert_eq!(second.messages[2].content.as_ref(), "{}");
    assert_eq!((second.messages.len(), second.tokens_max), (4, 70));
}

#[test]
fn an_answer_is_read_or_refused_with_a_reason() {
    let anomaly = slow();
    let question = Question::of(&anomaly, 0, &rules(&anomaly));
    let read = question.read_choice(r#"{"fault_type":"tool_failure","recommended_action":"notify_human"}"#);
    assert_eq!(read.unwrap(), opinion(0.0, None).choice);
    let refused = |text: &str, why: &str| {
        let reason = question.read_choice(text).unwrap_err().to_string();
        assert!(reason.contains(why), "{reason}");
    };
    refused(r#"{"fault_type":"tool_failure","recommend"#, "it is cut");
    refused("", "it is cut");
    refused(r#"{"fault_type":"flu","recommended_action":"retry"}"#, "flu");
    refused(
        r#"{"fault_type":"loop","recommended_action":"rebuild_engine"}"#,
        "rebuild_engine is no action for this",
    );
    assert_eq!(
        question.read_cause("{\"root_cause\":\" the tool\\n is\\u0007 busy \"}").unwrap(),
        "the tool is busy"
    );
    assert!(question.read_cause(r#"{"root_cause":" \n "}"#).unwrap_err().to_string().contains("empty"));
}

#[test]
fn only_an_answer_that_is_surer_than_the_rules_takes_their_place() {
    let anomaly = slow();
    let rules = rules(&anomaly);
    let surer = opinion(0.61, Some("the service is down"));
    let taken = Heard::Answer(&surer).settle(rules.clone());
    assert_eq!(
        (taken.fault_type, taken.recommended_action),
        (FaultType::ToolFailure, RecoveryAction::NotifyHuman)
    );
    assert_eq!((taken.diagnosed_by.as_str(), taken.root_cause.as_str()), ("model", "the service is down"));
    assert_eq!((taken.confidence, taken.recoverable), (Score::new(0.61), false));
    assert_eq!(
        (taken.diagnosis, &taken.anomalies, taken.severity),
        (rules.diagnosis, &rules.anomalies, rules.severity)
    );
    assert!(taken.reasoning.starts_with(&rules.reasoning), "{}", taken.reasoning);
    assert!(taken.reasoning.ends_with(
        "; the rules say latency_degradation and monitor (0.60 sure); the model, asked, says tool_failure and \
         notify_human (0.61 sure)"
    ));
    assert_eq!(Heard::Before(&surer).settle(rules.clone()).diagnosed_by, "cache");

    let found =
        |diagnosis: &Diagnosis| (diagnosis.fault_type, diagnosis.diagnosed_by.clone(), diagnosis.confidence);
    for unsure in [opinion(0.60, Some("as sure")), opinion(0.2, Some("less sure")), opinion(0.99, None)] {
        for heard in [Heard::Answer(&unsure), Heard::Before(&unsure)] {
            let kept = heard.settle(rules.clone());
            assert_eq!(found(&kept), found(&rules));
            assert_eq!(kept.root_cause, rules.root_cause);
            assert!(kept.reasoning.contains("the model, asked"), "{}", kept.reasoning);
        }
    }
    let nothing = Heard::Nothing("was asked and did not answer within 5 ms").settle(rules.clone());
    assert_eq!(found(&nothing), found(&rules));
    assert!(nothing.reasoning.ends_with("; the model was asked and did not answer within 5 ms"));
}

#[test]
fn a_symptom_is_what_the_rules_go_by_without_the_numbers() {
    let symptom = |earlier, change: &dyn Fn(&mut Anomaly)| {
        let mut anomaly = slow();
        change(&mut anomaly);
        Symptom::of(&anomaly, earlier)
    };
    let usual = symptom(0, &|_| {});
    let same: [&dyn Fn(&mut Anomaly); 4] = [
        &|anomaly| anomaly.agent = "support-2".parse().unwrap(),
        &|anomaly| (anomaly.value, anomaly.baseline, anomaly.window, anomaly.step) = (9.0, 8.0, 7, 6),
        &|anomaly| anomaly.goal = None,
        &|anomaly| anomaly.tool.as_mut().unwrap().error = Some("busy, try after 9000 ms".to_owned()),
    ];
    for change in same {
        assert_eq!(symptom(0, change), usual);
    }
    let other: [&dyn Fn(&mut Anomaly); 8] = [
        &|anomaly| anomaly.kind = AnomalyKind::LowConfidence,
        &|anomaly| anomaly.metric = "latency_ms.total".to_owned(),
        &|anomaly| anomaly.severity = Severity::High,
        &|anomaly| anomaly.agent = Subject::Engine,
        &|anomaly| anomaly.tool = None,
        &|anomaly| anomaly.tool.as_mut().unwrap().error_tier = Some(ErrorTier::Fatal),
        &|anomaly| anomaly.tool.as_mut().unwrap().error = Some("gone".to_owned()),
        &|anomaly| anomaly.tool.as_mut().unwrap().name = ToolName::new("lookup").unwrap(),
    ];
    for change in other {
        assert_ne!(symptom(0, change), usual);
    }
    let recurring = [0, 1, 2, 3].map(|earlier| symptom(earlier, &|_| {}));
    assert!(recurring[0] != recurring[1] && recurring[1] != recurring[2] && recurring[2] == recurring[3]);
    assert_eq!(symptom(u32::MAX, &|_| {}), recurring[2]);
}

#[test]
fn opinions_are_bounded_and_the_least_recently_used_goes_first() {
    let symptom = |number: usize| Symptom::of(&Anomaly { metric: format!("m{number}"), ..slow() }, 0);
    let mut opinions = Opinions::default();
    for number in 0..OPINIONS_MAX {
        opinions.put(symptom(number), opinion(0.9, None));
    }
    assert!(opinions.get(&symptom(0)).is_some());
    opinions.put(symptom(OPINIONS_MAX), opinion(0.8, None));
    assert!(opinions.has(&symptom(0)), "it was used");
    assert!(!opinions.has(&symptom(1)), "the least recently used");
    opinions.put(symptom(2), opinion(0.7, None));
    assert_eq!(opinions.get(&symptom(2)).unwrap().confidence, Score::new(0.7));
    assert!(opinions.has(&symptom(3)), "one that is known takes no other's place");
}
