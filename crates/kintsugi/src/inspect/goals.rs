//! `goals list` and `goals show`.

use kintsugi_events::GoalResult;
use kintsugi_events::expect::differences;
use serde::Serialize;
use serde_json::Value;

use super::view_with_roster;
use crate::cli::{Format, GoalArguments, GoalsArguments};
use crate::documents::{GoalDocument, goal_state as state};
use crate::failure::Failure;
use crate::roster::Roster;
use crate::terminal::{document, entry, json_line, line, plain, say};
use crate::view::GoalView;

/// A goal with what it expected. Only whoever has the run's folder is told.
#[derive(Serialize)]
struct Judged<'a> {
    #[serde(flatten)]
    goal: GoalDocument<'a>,
    /// Whether what came is what was expected; nothing where no expectation or no result is.
    correct: Option<bool>,
    expect: Option<&'a Value>,
    /// What came otherwise than expected.
    differences: Vec<String>,
}

impl<'a> Judged<'a> {
    fn new(id: &'a str, goal: &'a GoalView, roster: Option<&Roster>) -> Self {
        let differences = judge(goal, roster);
        Self {
            goal: GoalDocument::of(id, goal),
            correct: differences.as_ref().map(Vec::is_empty),
            expect: goal.goal.expect.as_ref(),
            differences: differences.unwrap_or_default(),
        }
    }
}

/// What came otherwise than expected, where that can be told: the run's folder has to say which tools write.
fn judge(goal: &GoalView, roster: Option<&Roster>) -> Option<Vec<String>> {
    let (result, roster) = (goal.results.first()?, roster?);
    differences(goal.goal.expect.as_ref()?, result, &|tool| roster.is_write(tool)).ok()
}

pub(crate) fn list(arguments: &GoalsArguments) -> Result<(), Failure> {
    let (view, roster) = view_with_roster(&arguments.place)?;
    if arguments.wrong && roster.is_none() {
        say("what was expected cannot be compared: the run's folder does not say which tools write");
    }
    let is_wanted = |judged: &Judged<'_>, goal: &GoalView| {
        (!arguments.wrong || judged.correct == Some(false))
            && arguments.status.is_none_or(|wanted| wanted.name() == state(goal))
    };
    if arguments.place.format == Format::Text {
        line(&format!("{:<28} {:<10} {:<7} {:<14} TEXT", "GOAL", "STATE", "CORRECT", "AGENT"))?;
    }
    for (id, goal) in &view.goals {
        let judged = Judged::new(id.as_str(), goal, roster.as_ref());
        if !is_wanted(&judged, goal) {
            continue;
        }
        match arguments.place.format {
            Format::Json => json_line(&judged)?,
            Format::Text => {
                let text: String = plain(&goal.goal.text).chars().take(60).collect();
                let agent = goal.agent.as_ref().map_or("-", AsRef::as_ref);
                let correct = correct_word(judged.correct);
                let id = id.as_str();
                line(&format!("{id:<28} {:<10} {correct:<7} {agent:<14} {text}", state(goal)))?;
            }
        }
    }
    Ok(())
}

const fn correct_word(correct: Option<bool>) -> &'static str {
    match correct {
        Some(true) => "yes",
        Some(false) => "no",
        None => "-",
    }
}

pub(crate) fn show(arguments: &GoalArguments) -> Result<(), Failure> {
    let (view, roster) = view_with_roster(&arguments.place)?;
    let goal = view.goals.get(arguments.id.as_str()).ok_or_else(|| {
        Failure::usage(format_args!("there is no goal {}: `kintsugi goals list` names them", arguments.id))
    })?;
    let judged = Judged::new(&arguments.id, goal, roster.as_ref());
    match arguments.place.format {
        Format::Json => document(&judged),
        Format::Text => write(&arguments.id, goal, &judged),
    }
}

/// One goal for a person: what was asked and expected, who works it, and what came of it.
fn write(id: &str, goal: &GoalView, judged: &Judged<'_>) -> Result<(), Failure> {
    entry("goal", id)?;
    entry("state", state(goal))?;
    entry("kind", goal.goal.kind.as_ref().map_or("-", AsRef::as_ref))?;
    entry("agent", goal.agent.as_ref().map_or("-", AsRef::as_ref))?;
    entry("text", &goal.goal.text)?;
    if let Some(reason) = &goal.refused {
        entry("refused", reason)?;
    }
    if let Some(expect) = judged.expect {
        entry("correct", correct_word(judged.correct))?;
        if !judged.differences.is_empty() {
            entry("wrong", &judged.differences.join("\n"))?;
        }
        let members = expect.as_object().into_iter().flatten();
        let members: Vec<String> = members.map(|(name, value)| format!("{name}: {value}")).collect();
        entry("expected", &members.join("\n"))?;
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
