//! `seams --explain`: one seam from what was measured to what came of it, from the log alone.

use kintsugi_events::{Anomaly, Diagnosis, HealthState, Metric, Recovery};
use kintsugi_types::Score;

use super::view;
use crate::cli::{Format, Where};
use crate::documents::{SeamDocument, metrics_by_place};
use crate::failure::Failure;
use crate::healing_metrics::severity_name;
use crate::terminal::{document, entry};

pub(crate) fn explain(id: &str, place: &Where) -> Result<(), Failure> {
    let run = view(place)?;
    let metrics = metrics_by_place(&run);
    let wanted = id.parse().map_err(|error| Failure::usage(format_args!("{id} is no seam's id: {error}")))?;
    let seam = run.recoveries.get(&wanted).ok_or_else(|| {
        Failure::usage(format_args!(
            "there is no seam {id}: `kintsugi seams --format json` names them as `recovery.recovery`"
        ))
    })?;
    let told = SeamDocument::of(seam, &run, &metrics);
    match place.format {
        Format::Json => document(&told),
        Format::Text => write(id, &told),
    }
}

fn write(id: &str, seam: &SeamDocument<'_>) -> Result<(), Failure> {
    entry("seam", id)?;
    if let Some(recovery) = seam.recovery {
        entry("of", &recovery.agent.to_string())?;
        entry("goal", recovery.goal.as_ref().map_or("-", AsRef::as_ref))?;
    }
    entry("metric", &lines(&seam.metrics, metric))?;
    entry("anomaly", &lines(&seam.anomalies, anomaly))?;
    if let Some(diagnosis) = seam.diagnosis {
        write_diagnosis(diagnosis)?;
    }
    if let Some(recovery) = seam.recovery {
        write_recovery(recovery)?;
    }
    let phases: Vec<String> = seam
        .phases
        .iter()
        .map(|phase| {
            let outcome = phase.outcome.map_or_else(String::new, |outcome| format!(": {outcome}"));
            format!("{} {}{outcome}", phase.time.format("%H:%M:%S%.3f"), phase.phase.name())
        })
        .collect();
    entry("phases", &phases.join("\n"))
}

fn lines<T>(of: &[&T], words: impl Fn(&T) -> String) -> String {
    of.iter().map(|one| words(one)).collect::<Vec<_>>().join("\n")
}

fn metric(metric: &Metric) -> String {
    let tool = metric.tool.as_ref().map_or_else(String::new, |tool| {
        let outcome = if tool.ok { "ok" } else { "failed" };
        let error = tool.error.as_ref().map_or_else(String::new, |error| format!(" ({error})"));
        format!(", {} {outcome}{error} on try {}", tool.name, tool.attempt)
    });
    let model = metric.model.as_ref().map_or_else(String::new, |model| format!(", by {model}"));
    format!(
        "step {}: health {:.2}, confidence {:.2}, context {:.0} % full, {:.0} ms{model}{tool}",
        metric.step,
        metric.health.get(),
        metric.confidence.get(),
        metric.context_ratio * 100.0,
        metric.latency_ms.total
    )
}

fn anomaly(anomaly: &Anomaly) -> String {
    format!(
        "{} ({}): {} is {} against {} over {} samples, {}",
        anomaly.kind.name(),
        severity_name(anomaly.severity),
        anomaly.metric,
        anomaly.value,
        anomaly.baseline,
        anomaly.window,
        anomaly.anomaly
    )
}

fn write_diagnosis(diagnosis: &Diagnosis) -> Result<(), Failure> {
    let Diagnosis { fault_type, severity, diagnosed_by, confidence, .. } = diagnosis;
    let verdict = format!(
        "{} ({}), {:.2} sure, by {diagnosed_by}, {}",
        fault_type.name(),
        severity_name(*severity),
        confidence.get(),
        diagnosis.diagnosis
    );
    entry("diagnosis", &verdict)?;
    entry("cause", &diagnosis.root_cause)?;
    entry("reasoning", &diagnosis.reasoning)?;
    entry("advice", diagnosis.recommended_action.name())
}

fn write_recovery(recovery: &Recovery) -> Result<(), Failure> {
    let rung = recovery.rung.map_or_else(String::new, |rung| format!(", rung {rung}"));
    entry("action", &format!("{}, try {}{rung}", recovery.action.name(), recovery.attempt))?;
    entry("policy", recovery.policy.as_deref().unwrap_or("-"))?;
    let parameters: Vec<String> =
        recovery.parameters.iter().map(|(name, value)| format!("{name} = {value}")).collect();
    entry("parameters", &parameters.join("\n"))?;
    let health = |score: Option<Score>| score.map_or_else(|| "?".to_owned(), |s| format!("{:.2}", s.get()));
    let state = |state: Option<HealthState>| state.map_or("?", health_state);
    entry("before", &format!("{}, health {}", state(recovery.state_before), health(recovery.health_before)))?;
    entry("after", &format!("{}, health {}", state(recovery.state_after), health(recovery.health_after)))?;
    let took = recovery.duration_ms.map_or_else(String::new, |ms| format!(" after {ms} ms"));
    entry("outcome", &format!("{}{took}", recovery.phase.name()))
}

const fn health_state(state: HealthState) -> &'static str {
    match state {
        HealthState::Healthy => "healthy",
        HealthState::Degraded => "degraded",
        HealthState::Recovering => "recovering",
        HealthState::Failed => "failed",
    }
}
