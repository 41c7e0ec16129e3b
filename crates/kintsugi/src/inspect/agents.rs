//! `agents list` and `agents show`.

use kintsugi_types::{AgentId, ModelName, Score};

use super::view;
use crate::cli::{AgentArguments, Format, Where};
use crate::documents::{AgentDocument, last_seams};
use crate::failure::Failure;
use crate::terminal::{document, entry, json_line, line};
use crate::view::{AgentView, RunView};

pub(crate) fn list(place: &Where) -> Result<(), Failure> {
    let run = view(place)?;
    if place.format == Format::Text {
        line(&format!(
            "{:<16} {:<10} {:<9} {:>6} {:>6} {:>6}  GOAL",
            "AGENT", "STATE", "RESIDENCY", "HEALTH", "QUEUED", "ENDED"
        ))?;
    }
    for (id, agent) in &run.agents {
        match place.format {
            Format::Json => json_line(&AgentDocument::of(id, agent, &run))?,
            Format::Text => {
                let health = agent.last_metric.as_ref().map_or(1.0, |metric| metric.health.get());
                let goal = agent.current.as_ref().map_or("-", AsRef::as_ref);
                let model = answered_by(agent).map_or_else(String::new, |model| format!("  by {model}"));
                let id = id.as_str();
                line(&format!(
                    "{id:<16} {:<10} {:<9} {health:>6.2} {:>6} {:>6}  {goal}{model}",
                    agent.shown(),
                    if agent.has_load() { "-" } else { "dormant" },
                    agent.queued,
                    agent.goals_ended
                ))?;
            }
        }
    }
    Ok(())
}

pub(crate) fn show(arguments: &AgentArguments) -> Result<(), Failure> {
    if let Some(at) = arguments.at {
        return super::at::show(&arguments.id, at, &arguments.place);
    }
    let run = view(&arguments.place)?;
    let (id, agent) = run.agents.get_key_value(arguments.id.as_str()).ok_or_else(|| {
        Failure::usage(format_args!(
            "agent {} never had work: `kintsugi agents list` names those that had",
            arguments.id
        ))
    })?;
    match arguments.place.format {
        Format::Json => document(&AgentDocument::of(id, agent, &run)),
        Format::Text => write(id, agent, &run),
    }
}

/// One agent for a person: what it does, how well it is, and how it was mended.
pub(super) fn write(id: &AgentId, agent: &AgentView, run: &RunView) -> Result<(), Failure> {
    entry("agent", id.as_ref())?;
    entry("kind", &agent.kind)?;
    entry("state", agent.shown())?;
    entry("residency", if agent.has_load() { "known to its node alone" } else { "dormant" })?;
    if let Some(reason) = &agent.quarantined {
        entry("quarantined", reason)?;
    }
    entry("goal", agent.current.as_ref().map_or("-", AsRef::as_ref))?;
    if let Some(model) = answered_by(agent) {
        entry("model", model.as_ref())?;
    }
    entry("goals", &format!("{} queued, {} ended", agent.queued, agent.goals_ended))?;
    entry("journal", &format!("{} events", agent.sequence))?;
    let scores = agent.last_metric.as_ref().map(|metric| metric.scores).unwrap_or_default();
    for (name, score) in [
        ("health", agent.last_metric.as_ref().map(|metric| metric.health)),
        ("coherence", scores.coherence),
        ("completeness", scores.completeness),
        ("latency", scores.latency),
        ("memory", scores.memory),
        ("consistency", scores.consistency),
    ] {
        entry(name, &graded(score))?;
    }
    let seams: Vec<String> = last_seams(id, run)
        .map(|recovery| {
            let (fault, action) = (recovery.fault_type.name(), recovery.action.name());
            format!("{} {fault}: {action} {}", recovery.recovery, recovery.phase.name())
        })
        .collect();
    entry("seams", &seams.join("\n"))
}

/// The smaller model, where that gave the answer of the agent's last step.
fn answered_by(agent: &AgentView) -> Option<&ModelName> {
    agent.last_metric.as_ref().and_then(|metric| metric.model.as_ref())
}

fn graded(score: Option<Score>) -> String {
    score.map_or_else(|| "not measured".to_owned(), |score| format!("{:.2}", score.get()))
}
