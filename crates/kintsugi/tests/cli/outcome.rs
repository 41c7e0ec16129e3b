//! How a run went: why goals did not complete, which came out wrong, and progress that agrees with the summary.

use std::path::Path;

use serde_json::{Value, json};

use super::common::{example, kintsugi};
use super::{ask, join, said};

const GOALS: &str = r#"{"id":"a","text":"hello","budget":{"steps":0},"expect":{"status":"partial"}}
{"id":"b","text":"hello","budget":{"steps":0},"expect":{"status":"completed"}}
{"id":"c","text":"hello","deadline":"2020-01-01T00:00:00Z"}
{"id":"d","text":"hello","expect":{"answer_contains":["no answer has this in it"]}}
"#;

/// The folder of a small example with these goals.
fn desk(goals: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("desk/agents")).unwrap();
    let agent = "kind = \"echo\"\nprompt = \"Answer.\"\n";
    std::fs::write(folder.path().join("desk/agents/echo.toml"), agent).unwrap();
    std::fs::write(folder.path().join("desk/goals.jsonl"), goals).unwrap();
    folder
}

fn column(folder: &Path, arguments: &[&str], name: &str) -> Vec<(String, Value)> {
    let goals = ask(folder, &join(&[&["goals", "list", "--format", "json"], arguments])).lines();
    goals.iter().map(|goal| (goal["id"].as_str().unwrap().to_owned(), goal[name].clone())).collect()
}

#[test]
fn the_commonest_reasons_are_told_with_their_counts() {
    let folder = desk(GOALS);
    let text = ask(folder.path(), &["run", "desk", "--quiet"]);
    let lines: Vec<&str> = text.done().lines().collect();
    assert!(lines[0].ends_with(": 1 completed, 3 partial, 0 failed"), "{text:?}");
    assert_eq!(lines[1], "reasons     2 partial: the budget of 0 steps is spent");
    assert_eq!(lines[2], "            1 partial: its deadline passed before it was begun");
    let told = ask(folder.path(), &["run", "desk", "--quiet", "--format", "json"]).document();
    let spent = json!({"status": "partial", "reason": "the budget of 0 steps is spent", "count": 2});
    assert_eq!(told["goals"]["reasons"][0], spent);
    assert_eq!(told["goals"]["refused"], 0);
}

#[test]
fn goals_that_came_out_wrong_are_told_with_what_was_expected() {
    let folder = desk(GOALS);
    let path = folder.path();
    ask(path, &["run", "desk", "--quiet"]).done();
    let named = |pairs: &[(&str, Value)]| -> Vec<(String, Value)> {
        pairs.iter().map(|(id, value)| ((*id).to_owned(), value.clone())).collect()
    };
    let all = [("a", json!(true)), ("b", json!(false)), ("c", Value::Null), ("d", json!(false))];
    assert_eq!(column(path, &[], "correct"), named(&all));
    assert_eq!(column(path, &["--wrong"], "correct"), named(&[("b", json!(false)), ("d", json!(false))]));
    assert_eq!(column(path, &["--status", "completed"], "state"), named(&[("d", json!("completed"))]));
    assert_eq!(column(path, &["--wrong", "--status", "partial"], "state"), named(&[("b", json!("partial"))]));
    ask(path, &["goals", "list", "--status", "partail"]).is_refused(2, &["'partail'", "'partial'"]);

    let words = |line: &str| line.split_whitespace().take(4).collect::<Vec<_>>().join(" ");
    let list = ask(path, &["goals", "list"]);
    let lines: Vec<String> = list.done().lines().map(words).collect();
    assert_eq!(lines[0], "GOAL STATE CORRECT AGENT");
    assert_eq!(lines[1..4], ["a partial yes echo-0", "b partial no echo-0", "c partial - echo-0"]);

    let shown = ask(path, &["goals", "show", "d"]);
    for line in [
        "correct       no",
        "wrong         the answer lacks \"no answer has this in it\"",
        "expected      answer_contains: [\"no answer has this in it\"]",
    ] {
        assert!(shown.done().lines().any(|shown| shown == line), "no {line:?} in {}", shown.out);
    }
    let document = ask(path, &["goals", "show", "b", "--format", "json"]).document();
    assert_eq!(document["expect"], json!({"status": "completed"}));
    assert_eq!(document["differences"], json!(["it should be completed and is partial"]));
}

/// The number before `word` in a line of progress; 0 where the word is not there.
fn number(line: &str, word: &str) -> u64 {
    let parts: Vec<&str> = line.split([' ', ',']).filter(|part| !part.is_empty()).collect();
    let pair = parts.windows(2).find(|pair| pair[1] == word);
    pair.map_or(0, |pair| pair[0].parse().unwrap())
}

#[test]
fn progress_agrees_with_itself_and_with_the_summary() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = kintsugi(&["run"]);
    command.arg(example()).args(["--goal-count", "150", "--format", "json", "--chaos", "0.1"]);
    let run = said(command.current_dir(folder.path()));
    let summary = run.document();
    let lines: Vec<&str> = run.err.lines().filter(|line| line.contains("/150 goals")).collect();
    let mut last_done = 0;
    for line in &lines {
        let done: u64 = line.split('/').next().unwrap().parse().unwrap();
        assert!(done >= last_done && done <= 150, "{line} after {last_done}");
        last_done = done;
        assert!(number(line, "running") <= 150 - done, "more agents run than goals are open: {line}");
        let agents = ["idle", "running", "degraded", "recovering", "failed"];
        assert_eq!(agents.map(|state| number(line, state)).iter().sum::<u64>(), 48, "{line}");
    }
    let last = lines.last().unwrap();
    assert!(last.starts_with("150/150 goals "), "{last}");
    assert_eq!(number(last, "idle"), summary["agents"]["idle"]);
    assert_eq!(number(last, "mended"), summary["healing"]["seams"]);
}
