//! `seams`: each recovery with the metric, the anomaly and the diagnosis that led to it, and what came of it.

use super::{json_line, line, view};
use crate::cli::{Format, SeamsArguments};
use crate::documents::{SeamDocument, metrics_by_place};
use crate::failure::Failure;
use crate::view::{RunView, SeamView};

pub(crate) fn list(arguments: &SeamsArguments) -> Result<(), Failure> {
    if let Some(id) = &arguments.explain {
        return super::explain::explain(id, &arguments.place);
    }
    let run = view(&arguments.place)?;
    let metrics = metrics_by_place(&run);
    for seam in run.recoveries.values() {
        let Some(last) = seam.last() else { continue };
        if arguments.agent.as_ref().is_some_and(|wanted| *wanted != last.agent.to_string()) {
            continue;
        }
        match arguments.place.format {
            Format::Json => json_line(&SeamDocument::of(seam, &run, &metrics))?,
            Format::Text => line(&worded(seam, &run))?,
        }
    }
    Ok(())
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
