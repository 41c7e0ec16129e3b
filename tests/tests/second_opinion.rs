//! What real models make of a dozen symptoms of which the rules are not sure: asked as a node asks them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a model says is to be read, with --nocapture")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kintsugi_eventlog::EmbeddedLog;
use kintsugi_eventlog::embedded::Options;
use kintsugi_events::{Anomaly, AnomalyKind, Diagnosis, Severity, Subject, ToolOutcome};
use kintsugi_inference::{Backend, CandleEngine, EngineConfig, ModelSource};
use kintsugi_runtime::{AskSettings, Node, Stages};
use kintsugi_tests::diagnosing::{append, diagnoses, slow_call};
use kintsugi_tests::scripted_node::{Wiring, parts, prepare};
use kintsugi_types::{ByteCount, Clock as _, Score, SystemClock, ToolName};

/// The longest wait for all diagnoses.
const PATIENCE: Duration = Duration::from_mins(5);

/// A symptom, with the faults and the actions that a person would call right. They were written down before any model
/// was asked.
struct Case {
    anomaly: Anomaly,
    faults: &'static [&'static str],
    actions: &'static [&'static str],
}

fn anomaly(kind: AnomalyKind, severity: Severity, metric: &str, (value, baseline): (f64, f64)) -> Anomaly {
    let ratio = value / baseline;
    let metric = metric.to_owned();
    Anomaly {
        kind,
        severity,
        metric,
        value,
        baseline,
        ratio,
        window: 10,
        tool: None,
        ..slow_call(1, "x").unwrap()
    }
}

fn tool(error: Option<&str>) -> ToolOutcome {
    ToolOutcome {
        name: ToolName::new("refund").unwrap(),
        ok: error.is_none(),
        error_tier: None,
        error: error.map(str::to_owned),
        attempt: 1,
    }
}

fn failed(error: &str) -> Anomaly {
    let anomaly = anomaly(AnomalyKind::ToolFailure, Severity::Medium, "tool.ok", (0.0, 1.0));
    Anomaly { tool: Some(tool(Some(error))), window: 1, ..anomaly }
}

fn of(subject: &str, anomaly: Anomaly) -> Anomaly {
    Anomaly { agent: subject.parse::<Subject>().unwrap(), ..anomaly }
}

fn cases() -> Vec<Case> {
    use AnomalyKind::{HighLatency, HighTokens, LowCoherence, LowConfidence, LowHealth, ToolFailure};
    use Severity::{High, Low, Medium};
    let slow_tool = || anomaly(HighLatency, Low, "latency_ms.tool", (2_400.0, 81.5));
    let case = |anomaly, faults, actions| Case { anomaly, faults, actions };
    vec![
        case(failed("connection refused"), &["tool_failure"], &["retry_with_backoff", "circuit_breaker"]),
        case(failed("401 the API key has expired"), &["tool_failure"], &["notify_human"]),
        case(failed("argument `order` is missing"), &["tool_failure"], &["repair_tool_call"]),
        case(
            anomaly(ToolFailure, Medium, "tool.ok", (0.0, 1.0)),
            &["tool_failure"],
            &["retry", "monitor", "notify_human"],
        ),
        case(
            Anomaly { tool: Some(tool(None)), ..slow_tool() },
            &["latency_degradation", "tool_failure"],
            &["monitor", "retry_with_backoff", "circuit_breaker"],
        ),
        case(
            of("tool:refund", slow_tool()),
            &["latency_degradation", "tool_failure"],
            &["monitor", "circuit_breaker"],
        ),
        case(
            anomaly(HighLatency, High, "latency_ms.total", (9_000.0, 600.0)),
            &["latency_degradation"],
            &["model_downshift", "agent_redistribute"],
        ),
        case(
            of("engine", anomaly(HighLatency, High, "latency_ms.think", (9_000.0, 300.0))),
            &["latency_degradation", "engine_fault"],
            &["monitor", "rebuild_engine"],
        ),
        case(
            Anomaly { context_ratio: Some(0.82), ..anomaly(HighTokens, Low, "tokens", (5_200.0, 1_900.0)) },
            &["context_overflow"],
            &["prune_context"],
        ),
        case(
            anomaly(LowCoherence, Medium, "scores.coherence", (0.31, 0.74)),
            &["quality_degradation", "state_drift"],
            &["reset_state", "force_replan", "retry"],
        ),
        case(
            anomaly(LowConfidence, Low, "confidence", (0.42, 0.81)),
            &["quality_degradation"],
            &["monitor", "retry"],
        ),
        case(
            anomaly(LowHealth, Medium, "health", (0.35, 0.4)),
            &["state_drift", "quality_degradation", "unknown"],
            &["reset_state", "force_replan", "agent_redistribute", "retry"],
        ),
    ]
}

/// Has a node with this model diagnose all cases.
fn ask(model: ModelSource) -> Vec<(Case, Diagnosis)> {
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path(), "http://127.0.0.1:9").unwrap();
    let log = Arc::new(EmbeddedLog::open(folder.path().join("log"), Options::default()).unwrap());
    let ask = Some(AskSettings { below: Score::new(0.7), deadline: PATIENCE, tokens_max: 96 });
    let stages = Stages { diagnose: true, ..Stages::NONE };
    let mut parts = parts(folder.path(), log.clone(), Wiring { stages, ask, ..Wiring::default() }).unwrap();
    let memory_budget = ByteCount::mib(1024);
    parts.scheduler.memory_budget = memory_budget;
    let config = EngineConfig {
        model,
        slots: u32::try_from(parts.scheduler.slots).unwrap(),
        context_tokens: 1024,
        memory_budget,
        host_memory: EngineConfig::HOST_MEMORY_DEFAULT,
        step_tokens_max: EngineConfig::STEP_TOKENS_DEFAULT,
    };
    parts.backend = Box::new(move || {
        let engine = CandleEngine::load(&config).map_err(|error| error.to_string())?;
        Ok(Box::new(engine) as Box<dyn Backend>)
    });
    let cases = cases();
    let anomalies: Vec<Anomaly> = cases.iter().map(|case| case.anomaly.clone()).collect();
    append(log.as_ref(), &anomalies, SystemClock.now()).unwrap();
    let node = Node::start(parts).unwrap();
    let begun = Instant::now();
    let mut found = Vec::new();
    while found.len() < cases.len() {
        assert!(begun.elapsed() < PATIENCE && !node.has_ended(), "{found:?}");
        std::thread::park_timeout(Duration::from_millis(20));
        found = diagnoses(log.as_ref()).unwrap();
    }
    println!("{} questions in {:.1} s", found.len(), begun.elapsed().as_secs_f64());
    node.stop();
    cases.into_iter().zip(found).collect()
}

/// Of what is said in reasoning as `FAULT and ACTION (CONFIDENCE sure)` after `words`: both names and how sure.
fn said(reasoning: &str, words: &str) -> (String, String, f64) {
    let (_, told) = reasoning.split_once(words).unwrap_or_else(|| panic!("no answer: {reasoning}"));
    let (fault, rest) = told.split_once(" and ").unwrap();
    let (action, rest) = rest.split_once(" (").unwrap();
    let (confidence, _) = rest.split_once(" sure)").unwrap();
    (fault.to_owned(), action.to_owned(), confidence.parse().unwrap())
}

/// Tells of each case what rules and model say, and checks that the model was asked and gave an answer about all.
fn compare(model: ModelSource) {
    let (mut rules_right, mut model_right, mut taken, mut taken_right) = (0, 0, 0, 0);
    for (case, diagnosis) in ask(model) {
        let is_right =
            |fault: &str, action: &str| case.faults.contains(&fault) && case.actions.contains(&action);
        let (fault, action, sure) = said(&diagnosis.reasoning, "the rules say ");
        rules_right += u32::from(is_right(&fault, &action));
        let mark = |right: bool| if right { "right" } else { "wrong" };
        println!(
            "{}\n  rules {sure:.2} {fault} {action} {}",
            diagnosis.reasoning,
            mark(is_right(&fault, &action))
        );
        let (fault, action, sure) = said(&diagnosis.reasoning, "the model, asked, says ");
        let right = is_right(&fault, &action);
        model_right += u32::from(right);
        println!("  model {sure:.2} {fault} {action} {}", mark(right));
        if diagnosis.diagnosed_by == "model" {
            taken += 1;
            taken_right += u32::from(right);
            println!("  taken: {}", diagnosis.root_cause);
        }
    }
    println!(
        "right of 12: rules {rules_right}, model {model_right}; taken {taken}, of these right {taken_right}"
    );
}

#[test]
fn the_shipped_model_reads_every_question_and_answers_in_form() {
    let bytes: &[u8] = include_bytes!("../../models/kintsugi-nano.gguf");
    compare(ModelSource::Bytes { name: "kintsugi-nano".to_owned(), bytes: bytes.into() });
}

#[test]
#[ignore = "needs the SmolLM2 file: cargo xtask prove fetches it and sets SMOLLM2_GGUF"]
fn a_small_general_model_reads_every_question_and_answers_in_form() {
    #[expect(
        clippy::disallowed_methods,
        reason = "tells where the model file was fetched to; no setting of the product"
    )]
    let path = std::env::var("SMOLLM2_GGUF").expect("SMOLLM2_GGUF names the model file");
    compare(ModelSource::Path(PathBuf::from(path)));
}
