//! Mistakes in declarations show at load, with file, key and a hint.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::path::Path;

use kintsugi_tools::{DatabaseSource, LoadContext, Registry};
use rusqlite::Connection;
use tempfile::TempDir;

const GOOD: &str = r#"name = "find"
kind = "sql"
description = "finds"
database = "a.db"
mode = "read"
[parameters.properties.word]
type = "string"
[result]
sql = "SELECT word FROM words WHERE word = :word"
"#;

fn folder_with(files: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    Connection::open(folder.path().join("a.db"))
        .unwrap()
        .execute_batch("CREATE TABLE words (word TEXT)")
        .unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn load(folder: &Path) -> Result<Registry, Vec<String>> {
    let databases = DatabaseSource::Folder(folder.to_owned());
    let context = LoadContext { databases: &databases, secrets: &|_| None };
    Registry::load(folder, &context).map_err(|errors| {
        let prefix = format!("{}/", folder.display());
        errors.0.iter().map(|error| error.to_string().replace(&prefix, "")).collect()
    })
}

/// Loads a file that differs from the good one by one replacement and returns what is said of it.
fn mistake(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    let folder = folder_with(&[("find.toml", &GOOD.replacen(from, to, 1))]);
    let errors = load(folder.path()).unwrap_err();
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors.into_iter().next().unwrap()
}

#[test]
fn every_mistake_names_its_file_and_key() {
    for (from, to, wanted) in [
        ("database", "databse", "find.toml: `databse` is no known key; did you mean `database`?"),
        (
            "[result]",
            "[result]\nrow = \"one\"",
            "find.toml: `result.row` is no known key; did you mean `rows`?",
        ),
        ("name = \"find\"", "", "find.toml: `name` is missing"),
        ("kind = \"sql\"", "kind = \"sqll\"", "find.toml: `kind` must be one of "),
        (
            "description = \"finds\"",
            "description = 3",
            "find.toml: `description` must be a string, not integer",
        ),
        ("mode = \"read\"", "", "find.toml: `mode` is missing"),
        ("mode = \"read\"", "mode = \"write\"", "find.toml: `write` is missing"),
        (
            "mode = \"read\"",
            "mode = \"read\"\ntimeout_ms = 0",
            "find.toml: `timeout_ms` must be greater than 0",
        ),
        ("mode = \"read\"", "mode = \"read\"\nsafety = \"keyed\"", "find.toml: `safety` does not fit `mode`"),
        (
            "type = \"string\"",
            "type = \"strin\"",
            "find.toml: `parameters` is no valid JSON Schema at /properties/word",
        ),
        (
            ":word",
            ":wrod",
            "find.toml: `result.sql` uses the parameter `wrod`, which is neither an argument nor bound; did you mean `word`?",
        ),
        (":word", "?1", "find.toml: `result.sql` must name its parameters like `:order`"),
        ("FROM words", "FROM wrods", "find.toml: `result.sql` is refused: no such table: wrods"),
        (
            "SELECT word FROM words WHERE word = :word",
            "DELETE FROM words",
            "find.toml: `result.sql` changes the database",
        ),
        ("a.db", "b.db", "find.toml: `database` "),
        ("a.db", "../a.db", "find.toml: `database` must be a path within the folder"),
        (
            "[result]",
            "[bind]\nword = \"goal.input.word\"\n[result]",
            "find.toml: `bind.word` is also an argument",
        ),
        (
            "[result]",
            "[bind]\nwho = \"input.from\"\n[result]",
            "find.toml: `bind.who` must be `goal.input.<member>`",
        ),
        (
            "[parameters.properties.word]",
            "[parameters.properties.effect]",
            "`parameters.properties.effect` is a reserved name",
        ),
        (
            "[result]",
            "[[guard]]\nsql = \"SELECT 1\"\ncode = \"c\"\nmessage = \"{wrd}\"\n[result]",
            "find.toml: `guard[0].message` uses the parameter `wrd`",
        ),
        ("[result]", "[result", "find.toml: is no TOML: "),
    ] {
        let said = mistake(from, to);
        assert!(said.contains(wanted), "{said}\n  wanted: {wanted}");
    }
}

#[test]
fn two_statements_in_one_key_are_refused() {
    let said = mistake("word = :word", "word = :word; SELECT 2");
    assert!(said.contains("`result.sql`"), "{said}");
}

#[test]
fn all_mistakes_of_all_files_come_at_once() {
    let folder = folder_with(&[
        ("a.toml", &GOOD.replace("mode", "moode")),
        ("b.toml", GOOD),
        ("c.toml", GOOD),
        ("d.toml", "name = 3"),
        ("notes.md", "not a tool"),
    ]);
    let errors = load(folder.path()).unwrap_err();
    assert_eq!(errors.len(), 3, "{errors:?}");
    assert!(errors[0].starts_with("a.toml: `moode`"), "{errors:?}");
    assert!(errors[1].starts_with("c.toml: `name` `find` is declared twice"), "{errors:?}");
    assert!(errors[2].starts_with("d.toml: "), "{errors:?}");
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let errors = load(Path::new("/nonexistent/tools")).unwrap_err();
    assert!(errors[0].contains("/nonexistent/tools") || errors[0].contains("cannot be read"), "{errors:?}");
}

#[test]
fn arguments_keep_their_order() {
    let text = GOOD.replace("[result]", "[parameters.properties.another]\ntype = \"string\"\n[result]");
    let folder = folder_with(&[("find.toml", &text)]);
    let registry = load(folder.path()).unwrap();
    let spec = registry.specs().next().unwrap();
    let names: Vec<&String> = spec.parameters["properties"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["word", "another"]);
    assert_eq!(spec.parameters["additionalProperties"], false);
}
