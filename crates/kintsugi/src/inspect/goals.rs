//! `goals list` and `goals show`.

use kintsugi_events::GoalResult;

use super::{document, entry, json_line, line, plain, view};
use crate::cli::{Format, GoalArguments, Where};
use crate::documents::{GoalDocument, goal_state as state};
use crate::failure::Failure;
use crate::view::GoalView;

pub(crate) fn list(place: &Where) -> Result<(), Failure> {
    let view = view(place)?;
    for (id, goal) in &view.goals {
        match place.format {
            Format::Json => json_line(&GoalDocument::of(id.as_str(), goal))?,
            Format::Text => {
                let text: String = plain(&goal.goal.text).chars().take(60).collect();
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
    match arguments.place.format {
        Format::Json => document(&GoalDocument::of(&arguments.id, goal)),
        Format::Text => write(&arguments.id, goal),
    }
}

/// One goal for a person: what was asked, who works it, and what came of it.
fn write(id: &str, goal: &GoalView) -> Result<(), Failure> {
    entry("goal", id)?;
    entry("state", state(goal))?;
    entry("kind", goal.goal.kind.as_ref().map_or("-", AsRef::as_ref))?;
    entry("agent", goal.agent.as_ref().map_or("-", AsRef::as_ref))?;
    entry("text", &goal.goal.text)?;
    if let Some(reason) = &goal.refused {
        entry("refused", reason)?;
    }
    goal.results.first().map_or(Ok(()), write_result)
}

fn write_result(result: &GoalResult) -> Result<(), Failure> {
    if let Some(answer) = &result.answer {
        entry("answer", answer)?;
    }
    if let Some(reason) = &result.reason {
        entry("reason", reason)?;
    }
    let actions: Vec<String> = result
        .actions
        .iter()
        .map(|action| format!("{} {}: {}", action.tool, action.args, if action.ok { "ok" } else { "failed" }))
        .collect();
    entry("actions", &actions.join("\n"))?;
    entry(
        "work",
        &format!(
            "{} steps in {} ms, {} prompt tokens, {} generated, {} USD",
            result.steps, result.wall_ms, result.tokens.prompt, result.tokens.completion, result.usd
        ),
    )?;
    entry("seams", &result.seams.to_string())
}
