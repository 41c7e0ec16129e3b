//! `goals list` and `goals show`.

use serde_json::{Value, json};

use super::{document, line, view};
use crate::cli::{Format, GoalArguments, Where};
use crate::failure::Failure;
use crate::view::GoalView;

/// What a goal is at, in one word.
fn state(goal: &GoalView) -> &'static str {
    match goal.results.first() {
        Some(result) => match result.status {
            kintsugi_events::GoalStatus::Completed => "completed",
            kintsugi_events::GoalStatus::Partial => "partial",
            kintsugi_events::GoalStatus::Failed => "failed",
        },
        None if goal.refused.is_some() => "refused",
        None if goal.is_started => "running",
        None if goal.agent.is_some() => "queued",
        None => "published",
    }
}

fn told(id: &str, goal: &GoalView) -> Value {
    json!({
        "id": id,
        "state": state(goal),
        "kind": goal.goal.kind,
        "agent": goal.agent,
        "text": goal.goal.text,
        "result": goal.results.first(),
        "refused": goal.refused,
    })
}

pub(crate) fn list(place: &Where) -> Result<(), Failure> {
    let view = view(place)?;
    for (id, goal) in &view.goals {
        match place.format {
            Format::Json => line(&told(id.as_str(), goal).to_string())?,
            Format::Text => {
                let text: String =
                    goal.goal.text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(60).collect();
                let agent = goal.agent.as_ref().map_or("-", AsRef::as_ref);
                line(&format!("{id:<28} {:<10} {agent:<14} {text}", state(goal)))?;
            }
        }
    }
    Ok(())
}

pub(crate) fn show(arguments: &GoalArguments) -> Result<(), Failure> {
    let view = view(&arguments.place)?;
    let goal = view.goals.get(arguments.id.as_str()).ok_or_else(|| {
        Failure::usage(format_args!("there is no goal {}: `kintsugi goals list` names them", arguments.id))
    })?;
    document(&told(&arguments.id, goal))
}
