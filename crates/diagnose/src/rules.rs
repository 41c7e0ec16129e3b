//! The rules: from the kind of an anomaly and its evidence to a fault, its cause and its remedy.

use kintsugi_events::{
    Anomaly, AnomalyKind, Diagnosis, FaultType, RecoveryAction, Severity, Subject, ToolOutcome,
};
use kintsugi_types::{DiagnosisId, ErrorTier, IdSource, Score};

/// Who made a diagnosis by these rules.
pub const DIAGNOSED_BY: &str = "rules";

/// The most characters of a tool's error that a diagnosis repeats; the whole stands in the anomaly.
const ERROR_CHARS_MAX: usize = 200;

/// So many anomalies of one kind in one goal, this one included, are no accident any more.
pub(crate) const RECURRENCE: u32 = 3;

/// Diagnoses by rules. Stateless: what came before is handed in.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rules;

/// What the rules find, before it is put into words for the log.
struct Finding {
    fault: FaultType,
    severity: Severity,
    cause: String,
    action: RecoveryAction,
    recoverable: bool,
    /// How sure: 0.95 where the evidence is the fault itself, 0.8 where it is its usual sign, 0.6 where several
    /// faults look like this, 0.3 where the rules have none for it.
    confidence: f64,
}

impl Rules {
    /// Diagnoses `anomaly`. That `earlier` ones of its kind came before it, of the same subject in the same goal, is
    /// evidence that it recurs.
    pub fn diagnose(self, anomaly: &Anomaly, earlier: u32, ids: &mut dyn IdSource) -> Diagnosis {
        let finding = find(anomaly, earlier);
        Diagnosis {
            diagnosis: DiagnosisId::new(ids),
            agent: anomaly.agent.clone(),
            goal: anomaly.goal.clone(),
            anomalies: vec![anomaly.anomaly],
            fault_type: finding.fault,
            severity: finding.severity,
            root_cause: finding.cause,
            recommended_action: finding.action,
            recoverable: finding.recoverable,
            confidence: Score::new(finding.confidence),
            diagnosed_by: DIAGNOSED_BY.to_owned(),
            reasoning: reasoning(anomaly, earlier),
            sequence: anomaly.sequence,
            step: anomaly.step,
            health: anomaly.health,
            context_ratio: anomaly.context_ratio,
            fallen_by: fallen_by(anomaly),
            tool: anomaly.tool.clone(),
        }
    }
}

/// How far a score in [0, 1] fell; missing where the anomaly is of something else.
fn fallen_by(anomaly: &Anomaly) -> Option<f64> {
    let is_score = matches!(
        anomaly.kind,
        AnomalyKind::LowConfidence | AnomalyKind::LowCoherence | AnomalyKind::LowHealth
    );
    is_score.then(|| (anomaly.baseline - anomaly.value).max(0.0))
}

fn find(anomaly: &Anomaly, earlier: u32) -> Finding {
    let severity = anomaly.severity;
    match anomaly.kind {
        AnomalyKind::ToolFailure => tool_failure(anomaly),
        AnomalyKind::LowToolSuccess => failing_tool(anomaly),
        AnomalyKind::Loop => Finding {
            fault: FaultType::Loop,
            severity,
            cause: match anomaly.metric.as_str() {
                "similarity" => format!("the last {} thoughts say the same", anomaly.value),
                "failing_action" => format!("the same call failed {} times in a row", anomaly.value),
                _ => format!("the same call was made {} times in a row", anomaly.value),
            },
            action: RecoveryAction::ForceReplan,
            recoverable: true,
            confidence: 0.95,
        },
        AnomalyKind::MalformedOutput => Finding {
            fault: FaultType::QualityDegradation,
            severity,
            cause: "the model's output could not be read as an action".to_owned(),
            action: RecoveryAction::Retry,
            recoverable: true,
            confidence: 0.95,
        },
        AnomalyKind::StateDrift => Finding {
            fault: FaultType::StateDrift,
            severity,
            cause: format!("{} messages that the model was shown are not the agent's", anomaly.value),
            // The next prompt is folded anew.
            action: RecoveryAction::Retry,
            recoverable: true,
            confidence: 0.95,
        },
        AnomalyKind::LowConfidence => low_confidence(anomaly, earlier),
        AnomalyKind::LowCoherence => Finding {
            fault: FaultType::QualityDegradation,
            severity,
            cause: "the thoughts no longer belong together".to_owned(),
            action: RecoveryAction::ResetState,
            recoverable: true,
            confidence: 0.6,
        },
        AnomalyKind::ContextPressure => Finding {
            fault: FaultType::ContextOverflow,
            severity,
            cause: format!("the context is {:.0} % full", anomaly.value * 100.0),
            action: RecoveryAction::PruneContext,
            recoverable: true,
            confidence: 0.95,
        },
        AnomalyKind::HighTokens => Finding {
            fault: FaultType::ContextOverflow,
            severity,
            cause: "the agent's goals take far more tokens than usual".to_owned(),
            action: RecoveryAction::PruneContext,
            recoverable: true,
            confidence: 0.6,
        },
        AnomalyKind::BudgetSpent => Finding {
            fault: FaultType::BudgetExceeded,
            severity,
            cause: format!("the {} is spent", anomaly.metric.replace('.', " of ")),
            action: RecoveryAction::NotifyHuman,
            recoverable: false,
            confidence: 0.95,
        },
        AnomalyKind::EngineFault => Finding {
            fault: FaultType::EngineFault,
            severity,
            cause: "the inference engine broke".to_owned(),
            action: RecoveryAction::RebuildEngine,
            recoverable: true,
            confidence: 0.95,
        },
        AnomalyKind::HighLatency => slowness(anomaly),
        AnomalyKind::LowHealth => Finding {
            fault: FaultType::StateDrift,
            severity,
            cause: format!("health fell to {:.2} without a single cause", anomaly.value),
            action: RecoveryAction::ResetState,
            recoverable: true,
            confidence: 0.6,
        },
    }
}

/// One agent's call failed: what helps depends on the error's tier alone.
fn tool_failure(anomaly: &Anomaly) -> Finding {
    let severity = anomaly.severity;
    let Some(tool) = &anomaly.tool else {
        return unknown(anomaly, "a tool call failed, and nothing says which");
    };
    let error = error_in_words(tool);
    let (cause, action, recoverable, confidence) = match tool.error_tier {
        Some(ErrorTier::Fatal) => (
            format!("{} will not work until somebody mends it: {error}", tool.name),
            RecoveryAction::NotifyHuman,
            false,
            0.95,
        ),
        Some(ErrorTier::Recoverable) => (
            format!("{} refuses the agent's calls: {error}", tool.name),
            RecoveryAction::RepairToolCall,
            true,
            0.8,
        ),
        Some(ErrorTier::Transient) => (
            format!("{} failed for a moment: {error}", tool.name),
            RecoveryAction::RetryWithBackoff,
            true,
            0.95,
        ),
        // Trying again costs little where nobody knows.
        None => (
            format!("{} failed, how badly is not known: {error}", tool.name),
            RecoveryAction::RetryWithBackoff,
            true,
            0.6,
        ),
    };
    Finding { fault: FaultType::ToolFailure, severity, cause, action, recoverable, confidence }
}

/// One slow step is watched; steps that stay slow need less to think about.
fn slowness(anomaly: &Anomaly) -> Finding {
    let what = match anomaly.metric.as_str() {
        "latency_ms.tool" => "a call took far longer than calls of this tool usually do",
        "latency_ms.total" => "a step took far longer than usual",
        _ => "steps take far longer than usual",
    };
    let is_lasting = anomaly.severity >= Severity::High;
    Finding {
        fault: FaultType::LatencyDegradation,
        severity: anomaly.severity,
        cause: what.to_owned(),
        action: if is_lasting { RecoveryAction::ModelDownshift } else { RecoveryAction::Monitor },
        recoverable: true,
        confidence: 0.6,
    }
}

/// A tool fails for all agents behind it, or calls of one agent fail more often than usual.
fn failing_tool(anomaly: &Anomaly) -> Finding {
    if anomaly.agent.agent().is_some() && anomaly.tool.is_none() {
        return Finding {
            fault: FaultType::ToolFailure,
            severity: anomaly.severity,
            cause: format!("only {:.0} % of the agent's calls are answered", anomaly.value * 100.0),
            action: RecoveryAction::Monitor,
            recoverable: true,
            confidence: 0.8,
        };
    }
    let name = match (&anomaly.agent, &anomaly.tool) {
        (Subject::Tool(name), _) => name.as_str(),
        (_, Some(tool)) => tool.name.as_str(),
        _ => return unknown(anomaly, "calls of a tool fail, and nothing says which"),
    };
    let error = anomaly.tool.as_ref().map_or_else(|| "no error given".to_owned(), error_in_words);
    let is_shared = matches!(anomaly.agent, Subject::Tool(_));
    Finding {
        fault: FaultType::ToolFailure,
        severity: anomaly.severity,
        cause: format!("{name} failed {} times in a row: {error}", anomaly.window),
        action: if is_shared { RecoveryAction::CircuitBreaker } else { RecoveryAction::RetryWithBackoff },
        recoverable: true,
        confidence: 0.95,
    }
}

/// One unsure step is watched; next to no idea, or unsure again and again, begins anew.
fn low_confidence(anomaly: &Anomaly, earlier: u32) -> Finding {
    let is_recurring = earlier + 1 >= RECURRENCE;
    let severity = if is_recurring { anomaly.severity.max(Severity::High) } else { anomaly.severity };
    let action =
        if severity >= Severity::High { RecoveryAction::ResetState } else { RecoveryAction::Monitor };
    Finding {
        fault: FaultType::QualityDegradation,
        severity,
        cause: if is_recurring {
            "the model is unsure again and again in this goal".to_owned()
        } else {
            "the model was unsure of this step's action".to_owned()
        },
        action,
        recoverable: true,
        confidence: if severity >= Severity::High { 0.8 } else { 0.6 },
    }
}

fn unknown(anomaly: &Anomaly, cause: &str) -> Finding {
    Finding {
        fault: FaultType::Unknown,
        severity: anomaly.severity,
        cause: cause.to_owned(),
        action: RecoveryAction::Monitor,
        recoverable: true,
        confidence: 0.3,
    }
}

/// The first line of what the tool said, cut to [`ERROR_CHARS_MAX`].
pub(crate) fn error_in_words(tool: &ToolOutcome) -> String {
    let line = tool.error.as_deref().and_then(|error| error.lines().find(|line| !line.trim().is_empty()));
    line.map_or_else(
        || "no error given".to_owned(),
        |line| line.trim().chars().take(ERROR_CHARS_MAX).collect(),
    )
}

/// The name of an error's tier.
pub(crate) const fn tier_in_words(tier: Option<ErrorTier>) -> &'static str {
    match tier {
        Some(ErrorTier::Transient) => "transient",
        Some(ErrorTier::Recoverable) => "recoverable",
        Some(ErrorTier::Fatal) => "fatal",
        None => "unclassed",
    }
}

/// The evidence: which metric, its value, what it was compared with, what the tool said, and whether it recurs.
fn reasoning(anomaly: &Anomaly, earlier: u32) -> String {
    let Anomaly { metric, value, baseline, window, kind, .. } = anomaly;
    let (value, baseline) = (rounded(*value), rounded(*baseline));
    let error = anomaly.tool.as_ref().map_or_else(String::new, |tool| {
        if tool.ok {
            return format!("; {} answered", tool.name);
        }
        format!("; {} failed ({}): {}", tool.name, tier_in_words(tool.error_tier), error_in_words(tool))
    });
    let recurrence =
        if earlier > 0 { format!("; seen {earlier} times before in this goal") } else { String::new() };
    format!("{}: {metric} is {value} against {baseline} (over {window}){error}{recurrence}", kind.name())
}

/// At most three digits after the point, and none that say nothing.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
