//! `agents list` and `agents show`.

use kintsugi_events::Subject;
use kintsugi_types::AgentId;
use serde_json::{Value, json};

use super::{document, line, view};
use crate::cli::{AgentArguments, Format, Where};
use crate::failure::Failure;
use crate::view::{AgentView, RunView};

/// How many of an agent's seams are shown with it.
const SEAMS_SHOWN: usize = 5;

fn told(id: &AgentId, agent: &AgentView, run: &RunView) -> Value {
    let seams: Vec<Value> = run
        .recoveries
        .values()
        .filter_map(|seam| seam.last())
        .filter(|recovery| matches!(&recovery.agent, Subject::Agent(of) if of == id))
        .rev()
        .take(SEAMS_SHOWN)
        .map(|recovery| {
            json!({
                "recovery": recovery.recovery,
                "fault_type": recovery.fault_type,
                "action": recovery.action,
                "phase": recovery.phase,
            })
        })
        .collect();
    json!({
        "agent": id,
        "kind": agent.kind,
        "state": agent.shown(),
        "health": agent.last_metric.as_ref().map(|metric| metric.health),
        "scores": agent.last_metric.as_ref().map(|metric| metric.scores),
        "goal": agent.current,
        "queued": agent.queued,
        "goals_ended": agent.goals_ended,
        "sequence": agent.sequence,
        "quarantined": agent.quarantined,
        "seams": seams,
    })
}

pub(crate) fn list(place: &Where) -> Result<(), Failure> {
    let run = view(place)?;
    for (id, agent) in &run.agents {
        match place.format {
            Format::Json => line(&told(id, agent, &run).to_string())?,
            Format::Text => {
                let health = agent.last_metric.as_ref().map_or(1.0, |metric| metric.health.get());
                let goal = agent.current.as_ref().map_or("-", AsRef::as_ref);
                line(&format!(
                    "{id:<16} {:<10} health {health:.2}  {} queued, {} ended  {goal}",
                    agent.shown(),
                    agent.queued,
                    agent.goals_ended
                ))?;
            }
        }
    }
    Ok(())
}

pub(crate) fn show(arguments: &AgentArguments) -> Result<(), Failure> {
    let run = view(&arguments.place)?;
    let (id, agent) = run.agents.get_key_value(arguments.id.as_str()).ok_or_else(|| {
        Failure::usage(format_args!(
            "agent {} never had work: `kintsugi agents list` names those that had",
            arguments.id
        ))
    })?;
    document(&told(id, agent, &run))
}
