//! `seams`: each recovery with the metric, the anomaly and the diagnosis that led to it, and what came of it.

use std::collections::HashMap;

use kintsugi_events::{Anomaly, Metric, Subject};
use kintsugi_types::AgentId;
use serde_json::{Value, json};

use super::{line, view};
use crate::cli::{Format, SeamsArguments};
use crate::failure::Failure;
use crate::view::{RunView, SeamView};

/// Metrics by agent and by the place in its journal that they saw. An anomaly names the same.
type Metrics<'a> = HashMap<(&'a AgentId, u64), &'a Metric>;

pub(crate) fn list(arguments: &SeamsArguments) -> Result<(), Failure> {
    let run = view(&arguments.place)?;
    let metrics: Metrics<'_> =
        run.metrics.iter().map(|metric| ((&metric.agent, metric.sequence), metric)).collect();
    for seam in run.recoveries.values() {
        let Some(last) = seam.last() else { continue };
        if arguments.agent.as_ref().is_some_and(|wanted| *wanted != last.agent.to_string()) {
            continue;
        }
        match arguments.place.format {
            Format::Json => line(&told(seam, &run, &metrics).to_string())?,
            Format::Text => line(&worded(seam, &run))?,
        }
    }
    Ok(())
}

fn told(seam: &SeamView, run: &RunView, metrics: &Metrics<'_>) -> Value {
    let diagnosis =
        seam.last().and_then(|last| run.diagnoses.get(&last.diagnosis)).map(|(_, diagnosis)| diagnosis);
    let anomalies: Vec<&Anomaly> = diagnosis
        .iter()
        .flat_map(|diagnosis| &diagnosis.anomalies)
        .filter_map(|id| run.anomalies.get(id))
        .map(|(_, anomaly)| anomaly)
        .collect();
    let phases: Vec<Value> = seam
        .phases
        .iter()
        .map(|(time, recovery)| json!({"time": time, "phase": recovery.phase, "outcome": recovery.outcome}))
        .collect();
    let metrics: Vec<&Metric> = anomalies
        .iter()
        .filter_map(|anomaly| match &anomaly.agent {
            Subject::Agent(agent) => metrics.get(&(agent, anomaly.sequence)).copied(),
            _ => None,
        })
        .collect();
    json!({
        "metrics": metrics,
        "anomalies": anomalies,
        "diagnosis": diagnosis,
        "recovery": seam.last(),
        "phases": phases,
    })
}

fn worded(seam: &SeamView, run: &RunView) -> String {
    let Some((time, last)) = seam.phases.last() else { return String::new() };
    let cause = run.diagnoses.get(&last.diagnosis).map_or("", |(_, diagnosis)| diagnosis.root_cause.as_str());
    let health = |score: Option<kintsugi_types::Score>| {
        score.map_or_else(|| "?".to_owned(), |score| format!("{:.2}", score.get()))
    };
    format!(
        "{} {}: {cause} -> {} {} in {} ms, health {} to {}",
        time.format("%H:%M:%S%.3f"),
        last.agent,
        last.action.name(),
        last.phase.name(),
        last.duration_ms.unwrap_or(0),
        health(last.health_before),
        health(last.health_after)
    )
}
