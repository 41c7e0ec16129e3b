//! What the documents show is what the example holds. Where its goals are made anew, these tests say what to change.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::common::{example, kintsugi};
use super::{ask, said};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn goals() -> Vec<String> {
    let text = std::fs::read_to_string(example().join("goals.jsonl")).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// The words of a document that begin with `prefix` and go on with digits only.
fn numbered(text: &str, prefix: &str) -> BTreeSet<String> {
    text.match_indices(prefix)
        .map(|(at, _)| {
            let digits: String = text[at + prefix.len()..].chars().take_while(char::is_ascii_digit).collect();
            format!("{prefix}{digits}")
        })
        .filter(|word| word.len() > prefix.len())
        .collect()
}

#[test]
fn goals_and_orders_that_documents_name_are_in_the_example() {
    let goals = goals();
    let ids: BTreeSet<String> = goals
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned())
        .collect();
    let shop = rusqlite::Connection::open(example().join("shop.db")).unwrap();
    let mut orders = shop.prepare("SELECT number FROM orders ORDER BY number").unwrap();
    let orders: Vec<i64> = orders.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    for document in ["README.md", "docs/http.md", "examples/support-desk/README.md"] {
        let text = std::fs::read_to_string(root().join(document)).unwrap();
        for id in numbered(&text, "desk-") {
            let first = ids.first().unwrap();
            assert!(
                ids.contains(&id),
                "{document} names the goal {id}, which goals.jsonl has not: write {first}"
            );
        }
        for order in numbered(&text, "order ") {
            let number: i64 = order["order ".len()..].parse().unwrap();
            let first = orders[0];
            assert!(
                orders.binary_search(&number).is_ok(),
                "{document} names the {order}, which shop.db has not: write {first}"
            );
        }
    }
}

#[test]
fn the_goal_that_the_example_shows_is_one_of_its_goals() {
    let goals = goals();
    let text = std::fs::read_to_string(example().join("README.md")).unwrap();
    let (_, after) = text.split_once("```json\n").unwrap();
    let (shown, _) = after.split_once("\n```").unwrap();
    let could = goals.iter().find(|line| line.contains("\"tool\":\"refund\"")).unwrap();
    assert!(
        goals.iter().any(|line| line == shown),
        "examples/support-desk/README.md shows a goal that is not in goals.jsonl; show this one:\n{could}"
    );
}

#[test]
fn the_commands_that_look_at_a_run_do_what_the_readme_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let mut command = kintsugi(&["run"]);
    command.arg(example()).args(["--goal-count", "24", "--quiet"]).current_dir(path);
    said(&mut command).done();
    let text = std::fs::read_to_string(root().join("README.md")).unwrap();
    let (_, after) = text.split_once("## Looking at a run").unwrap();
    let (_, after) = after.split_once("```\n").unwrap();
    let (block, _) = after.split_once("```").unwrap();
    let mut ran = 0;
    for line in block.lines() {
        let line = line.split('#').next().unwrap().trim();
        // What goes on for ever is not for here.
        if line == "kintsugi watch anomalies recoveries" {
            continue;
        }
        let each = match line.split_once('[') {
            None => vec![line.to_owned()],
            Some((command, choices)) => choices
                .trim_end_matches(']')
                .split('|')
                .map(|choice| format!("{command}{}", choice.trim()))
                .collect(),
        };
        for command in each {
            let arguments: Vec<&str> = command.split_whitespace().skip(1).collect();
            let told = ask(path, &arguments);
            assert_eq!(told.status, Some(0), "README.md: {command}: {told:?}");
            ran += 1;
        }
    }
    assert!(ran >= 8, "README.md has lost its commands");
}
