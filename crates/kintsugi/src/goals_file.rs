//! A file of goals: one JSON object a line.

use std::collections::{BTreeMap, HashSet};
use std::io::ErrorKind;
use std::path::Path;

use kintsugi_events::Goal;
use kintsugi_events::expect::check;
use kintsugi_types::{GoalId, TenantId};
use serde_json::Value;

use crate::failure::Failure;

/// Reads goals, gives each an id and `tenant`, and makes `count` of them where that is asked for.
///
/// A goal that stands there twice, with the same id and content, is taken once.
pub(crate) fn goals(file: &Path, count: Option<usize>, tenant: &TenantId) -> Result<Vec<Goal>, Failure> {
    if count == Some(0) {
        return Err(Failure::usage(format_args!(
            "--goal-count is 0, it must be at least 1: leave the flag out to take the goals of {} once",
            file.display()
        )));
    }
    let text = text_of(file)?;
    let mut goals: Vec<Goal> = Vec::new();
    // Of each id, the goal's place among the goals and its line.
    let mut known: BTreeMap<GoalId, (usize, usize)> = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let refuse = |place: String, problem: String| {
            Failure::usage(format_args!("{}:{number}{place}: {problem}", file.display()))
        };
        let goal: Goal = serde_json::from_str(line).map_err(|error| {
            let (place, problem) = without_line(&error);
            refuse(
                place,
                format!("no goal: {problem}; write one JSON object a line, of which `text` is required"),
            )
        })?;
        if let Some(expect) = &goal.expect {
            check(expect).map_err(|error| refuse(String::new(), error.to_string()))?;
        }
        let id = match &goal.id {
            Some(id) => id.clone(),
            None => GoalId::new(format!("line-{number}")).map_err(Failure::usage)?,
        };
        let goal = Goal { id: Some(id.clone()), tenant: tenant.clone(), ..goal };
        match known.get(&id).and_then(|(place, line)| Some((goals.get(*place)?, line))) {
            Some((earlier, _)) if is_same(earlier, &goal) => {}
            Some((_, line)) => {
                let problem = format!(
                    "goal id {id} is taken by another goal in line {line}: give this one an id of its own"
                );
                return Err(refuse(String::new(), problem));
            }
            None => {
                known.insert(id, (goals.len(), number));
                goals.push(goal);
            }
        }
    }
    if goals.is_empty() {
        return Err(Failure::usage(format_args!(
            "{} holds no goal: write one JSON object a line, of which `text` is required",
            file.display()
        )));
    }
    match count {
        Some(count) => repeat(file, &goals, count),
        None => Ok(goals),
    }
}

fn text_of(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Failure::usage(format_args!(
            "there is no file of goals {}: write one, or name another with --goals FILE",
            file.display()
        )),
        ErrorKind::IsADirectory => Failure::usage(format_args!(
            "{} is a folder: name a file with one goal a line with --goals FILE",
            file.display()
        )),
        ErrorKind::InvalidData => {
            Failure::usage(format_args!("{} is no text: goals are written in UTF-8", file.display()))
        }
        _ => Failure::outside(format_args!("read {}: {error}", file.display())),
    })
}

/// The column, where it is known, and the problem: the parser saw one line and counts it as the first.
fn without_line(error: &serde_json::Error) -> (String, String) {
    let told = error.to_string();
    let problem = told.split(" at line ").next().unwrap_or(&told).to_owned();
    let place = match error.column() {
        0 => String::new(),
        column => format!(":{column}"),
    };
    (place, problem)
}

/// What `expect` says does not make it another goal.
fn is_same(one: &Goal, other: &Goal) -> bool {
    let without_expectation = |goal: &Goal| Goal { expect: None, ..goal.clone() };
    without_expectation(one) == without_expectation(other)
}

/// The first `count`, or all of them over again with new ids.
///
/// A repeat finds the data as the first one left it: a mail that was answered with a refund is rightly refused the
/// second time. So a repeat of a goal that is to write is worked and not judged.
fn repeat(file: &Path, goals: &[Goal], count: usize) -> Result<Vec<Goal>, Failure> {
    let mut made = Vec::new();
    let mut ids = HashSet::new();
    for (place, goal) in goals.iter().cycle().take(count).enumerate() {
        let round = place / goals.len() + 1;
        let mut goal = goal.clone();
        if let Some(id) = &mut goal.id {
            if round > 1 {
                let new = format!("{id}-{round}");
                *id = GoalId::new(&new).map_err(|error| {
                    Failure::usage(format_args!("{}: id {new} for --goal-count: {error}", file.display()))
                })?;
                goal.expect.take_if(|expect| is_to_write(expect));
            }
            if !ids.insert(id.clone()) {
                return Err(Failure::usage(format_args!(
                    "{}: --goal-count {count} would make the id {id} twice: rename it there, or ask \
                     for at most {}",
                    file.display(),
                    goals.len()
                )));
            }
        }
        made.push(goal);
    }
    Ok(made)
}

/// Whether an expectation names writes that must have succeeded.
fn is_to_write(expect: &Value) -> bool {
    expect.get("tools").and_then(Value::as_array).is_some_and(|tools| !tools.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, count: Option<usize>) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("goals.jsonl");
        std::fs::write(&file, text).unwrap();
        goals(&file, count, &TenantId::default())
            .map(|goals| goals.into_iter().map(|goal| goal.id.unwrap().to_string()).collect())
            .map_err(|failure| failure.message)
    }

    #[test]
    fn a_goal_without_an_id_is_named_after_its_line() {
        assert_eq!(read("\n{\"text\":\"a\"}\n\n{\"text\":\"b\"}\n", None).unwrap(), ["line-2", "line-4"]);
    }

    #[test]
    fn the_same_goal_twice_is_taken_once_and_another_under_its_id_is_refused() {
        let twice = "{\"id\":\"a\",\"text\":\"x\"}\n{\"id\":\"a\",\"text\":\"x\",\"expect\":{}}\n";
        assert_eq!(read(twice, None).unwrap(), ["a"]);
        let told =
            read("{\"id\":\"a\",\"text\":\"x\"}\n\n{\"id\":\"a\",\"text\":\"y\"}\n", None).unwrap_err();
        assert!(told.contains("goals.jsonl:3: goal id a is taken by another goal in line 1"), "{told}");
    }

    #[test]
    fn more_goals_than_there_are_get_new_ids_which_must_be_free() {
        let two = "{\"id\":\"a\",\"text\":\"x\"}\n{\"id\":\"b\",\"text\":\"y\"}\n";
        assert_eq!(read(two, Some(1)).unwrap(), ["a"]);
        assert_eq!(read(two, Some(5)).unwrap(), ["a", "b", "a-2", "b-2", "a-3"]);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("goals.jsonl");
        let expect = |tools: &str| format!("{{\"text\":\"x\",\"expect\":{{\"tools\":[{tools}]}}}}\n");
        std::fs::write(&file, expect("{\"tool\":\"refund\"}") + &expect("")).unwrap();
        let goals = goals(&file, Some(4), &TenantId::default()).unwrap();
        let is_judged: Vec<bool> = goals.iter().map(|goal| goal.expect.is_some()).collect();
        assert_eq!(is_judged, [true, true, false, true], "a repeat that is to write is not judged");
        let taken = "{\"id\":\"a\",\"text\":\"x\"}\n{\"id\":\"a-2\",\"text\":\"y\"}\n";
        assert!(read(taken, Some(3)).unwrap_err().contains("would make the id a-2 twice"));
    }
}
