//! A file of goals: one JSON object a line.

use std::collections::{BTreeMap, HashSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use kintsugi_events::Goal;
use kintsugi_types::{GoalId, TenantId};
use serde_json::Value;

use crate::failure::Failure;
use crate::goal_check::{self, Refusal};
use crate::roster::Roster;

/// Goals with the places that they were read from.
#[derive(Debug)]
pub(crate) struct GoalsFile {
    path: PathBuf,
    /// The goals, each with its line in the file.
    goals: Vec<(Goal, usize)>,
}

impl GoalsFile {
    /// Reads goals, gives each an id and `tenant`, and makes `count` of them where that is asked for.
    ///
    /// A goal that stands there twice, with the same id and content, is taken once.
    pub(crate) fn read(path: &Path, count: Option<usize>, tenant: &TenantId) -> Result<Self, Failure> {
        if count == Some(0) {
            return Err(Failure::usage(format_args!(
                "--goal-count is 0, it must be at least 1: leave the flag out to take the goals of {} once",
                path.display()
            )));
        }
        let text = text_of(path)?;
        let mut file = Self { path: path.to_owned(), goals: Vec::new() };
        // Of each id, the goal's place among the goals.
        let mut known: BTreeMap<GoalId, usize> = BTreeMap::new();
        for (line, text) in (1..).zip(text.lines()).filter(|(_, text)| !text.trim().is_empty()) {
            let goal = file.goal(line, text)?;
            let id = match &goal.id {
                Some(id) => id.clone(),
                None => GoalId::new(format!("line-{line}")).map_err(Failure::usage)?,
            };
            let goal = Goal { id: Some(id.clone()), tenant: tenant.clone(), ..goal };
            match known.get(&id).and_then(|place| file.goals.get(*place)) {
                Some((earlier, _)) if is_same(earlier, &goal) => {}
                Some((_, earlier)) => {
                    let problem = format!(
                        "goal id {id} is taken by another goal in line {earlier}: give this one an id of its own"
                    );
                    return Err(file.refusal(line, "", &problem));
                }
                None => {
                    known.insert(id, file.goals.len());
                    file.goals.push((goal, line));
                }
            }
        }
        if file.goals.is_empty() {
            return Err(Failure::usage(format_args!(
                "{} holds no goal: write one JSON object a line, of which `text` is required",
                path.display()
            )));
        }
        if let Some(count) = count {
            file.goals = file.repeat(count)?;
        }
        Ok(file)
    }

    /// The goal in a line.
    fn goal(&self, line: usize, text: &str) -> Result<Goal, Failure> {
        let unreadable = |error: &serde_json::Error| {
            let (column, problem) = without_line(error);
            let problem =
                format!("no goal: {problem}; write one JSON object a line, of which `text` is required");
            self.refusal(line, &column, &problem)
        };
        // Read once as a goal, for the parser knows the column of a mistake in it.
        let _: Goal = serde_json::from_str(text).map_err(|error| unreadable(&error))?;
        let members = serde_json::from_str(text).map_err(|error| unreadable(&error))?;
        goal_check::read(&members).map_err(|refusal| self.refusal(line, "", &refusal.problem))
    }

    fn refusal(&self, line: usize, column: &str, problem: &str) -> Failure {
        Failure::usage(format_args!("{}:{line}{column}: {problem}", self.path.display()))
    }

    /// Checks that somebody can take each goal.
    pub(crate) fn check(&self, roster: &Roster) -> Result<(), Failure> {
        let mut refused =
            self.goals.iter().filter_map(|(goal, line)| Some((line, roster.check(goal).err()?)));
        let Some((line, Refusal { problem, .. })) = refused.next() else { return Ok(()) };
        let more = match refused.count() {
            0 => String::new(),
            more => format!("; nobody can take {more} more goals of the file either"),
        };
        Err(self.refusal(*line, "", &format!("{problem}{more}")))
    }

    /// The goals, in order.
    pub(crate) fn goals(&self) -> impl ExactSizeIterator<Item = &Goal> {
        self.goals.iter().map(|(goal, _)| goal)
    }

    /// The first `count`, or all of them over again with new ids.
    ///
    /// A repeat finds the data as the first one left it: a mail that was answered with a refund is rightly refused the
    /// second time. So a repeat of a goal that is to write is worked and not judged.
    fn repeat(&self, count: usize) -> Result<Vec<(Goal, usize)>, Failure> {
        let mut made = Vec::new();
        let mut ids = HashSet::new();
        for (place, (goal, line)) in self.goals.iter().cycle().take(count).enumerate() {
            let round = place / self.goals.len() + 1;
            let mut goal = goal.clone();
            if let Some(id) = &mut goal.id {
                if round > 1 {
                    let new = format!("{id}-{round}");
                    *id = GoalId::new(&new).map_err(|error| {
                        self.refusal(*line, "", &format!("id {new} for --goal-count: {error}"))
                    })?;
                    goal.expect.take_if(|expect| is_to_write(expect));
                }
                if !ids.insert(id.clone()) {
                    let problem = format!(
                        "--goal-count {count} would make the id {id} twice: rename it there, or ask for at most {}",
                        self.goals.len()
                    );
                    return Err(self.refusal(*line, "", &problem));
                }
            }
            made.push((goal, *line));
        }
        Ok(made)
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
        GoalsFile::read(&file, count, &TenantId::default())
            .map(|file| file.goals().map(|goal| goal.id.as_ref().unwrap().to_string()).collect())
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
        let file = GoalsFile::read(&file, Some(4), &TenantId::default()).unwrap();
        let is_judged: Vec<bool> = file.goals().map(|goal| goal.expect.is_some()).collect();
        assert_eq!(is_judged, [true, true, false, true], "a repeat that is to write is not judged");
        let taken = "{\"id\":\"a\",\"text\":\"x\"}\n{\"id\":\"a-2\",\"text\":\"y\"}\n";
        assert!(read(taken, Some(3)).unwrap_err().contains("would make the id a-2 twice"));
    }
}
