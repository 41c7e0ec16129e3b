//! The command line as a user meets it: what it offers, what it prints, and what it says about mistakes.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;
#[path = "cli/data_directory.rs"]
mod data_directory;
#[path = "cli/documents.rs"]
mod documents;
#[path = "common/half_model.rs"]
mod half_model;
#[path = "cli/mistakes.rs"]
mod mistakes;
#[path = "cli/outcome.rs"]
mod outcome;
#[path = "cli/pipes.rs"]
mod pipes;
#[path = "cli/printed.rs"]
mod printed;
#[path = "cli/smaller.rs"]
mod smaller;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::common::kintsugi;

/// What a command said.
#[derive(Debug)]
struct Said {
    status: Option<i32>,
    out: String,
    err: String,
}

/// Runs a command to its end.
fn said(command: &mut Command) -> Said {
    let output = command.env("RUST_BACKTRACE", "1").output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { status: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// Runs the program in `folder` to its end.
fn ask(folder: &Path, arguments: &[&str]) -> Said {
    said(kintsugi(arguments).current_dir(folder))
}

impl Said {
    /// It was refused with this status, in these words, and stdout stayed empty.
    fn is_refused(&self, status: i32, words: &[&str]) {
        assert_eq!(self.status, Some(status), "{self:?}");
        assert!(self.err.contains("error: "), "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "{word:?} is not in: {}", self.err);
        }
        for noise in ["panicked", "backtrace", "\u{1b}["] {
            assert!(!self.err.contains(noise), "{noise:?} is in: {}", self.err);
        }
        assert!(self.out.is_empty(), "wrote to stdout: {}", self.out);
    }

    /// What was printed, of a command that did what it was asked.
    fn done(&self) -> &str {
        assert_eq!(self.status, Some(0), "{self:?}");
        &self.out
    }

    fn document(&self) -> Value {
        serde_json::from_str(self.done()).unwrap()
    }

    fn lines(&self) -> Vec<Value> {
        self.done().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// `value` is an object with at least these members.
fn has(value: &Value, members: &[&str]) {
    let object = value.as_object().unwrap_or_else(|| panic!("no object: {value}"));
    for member in members {
        assert!(object.contains_key(*member), "no member {member:?} in {value}");
    }
}

/// Lists of words as one.
fn join<'a>(lists: &[&[&'a str]]) -> Vec<&'a str> {
    lists.concat()
}

/// What is promised is there, but for what is not built yet; and what is not built yet is not there.
fn compare(what: &str, shown: &BTreeSet<String>, promised: &[&str], not_yet: &[&str]) {
    for name in promised {
        assert_eq!(
            shown.contains(*name),
            !not_yet.contains(name),
            "{what} {name}: the help, the contract and the test's list of what is not built yet disagree"
        );
    }
}

/// The flags that a help text names.
fn flags(help: &str) -> BTreeSet<String> {
    help.lines()
        .map(str::trim_start)
        .filter(|line| line.starts_with('-'))
        .flat_map(|line| line.split([' ', ',']))
        .filter(|word| word.starts_with("--"))
        .map(str::to_owned)
        .collect()
}

/// The commands that a help text names.
fn commands(help: &str) -> BTreeSet<String> {
    let listed =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // A description that goes on in the next line is indented further.
    listed
        .filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')))
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn help_names_the_commands_that_are_promised() {
    let folder = tempfile::tempdir().unwrap();
    let check = |arguments: &[&str], promised: &[&str], not_yet: &[&str]| {
        let shown = commands(ask(folder.path(), arguments).done());
        compare(&format!("{arguments:?}"), &shown, promised, not_yet);
    };
    check(
        &["--help"],
        &[
            "run",
            "up",
            "stage",
            "goals",
            "agents",
            "seams",
            "watch",
            "topics",
            "dead-letters",
            "models",
            "chaos",
            "doctor",
            "completions",
        ],
        &[],
    );
    check(&["topics", "--help"], &["create"], &[]);
    check(&["dead-letters", "--help"], &["list", "show", "replay"], &[]);
    check(&["goals", "--help"], &["publish", "list", "show"], &[]);
    check(&["agents", "--help"], &["list", "show", "resume"], &[]);
    check(&["models", "--help"], &["list", "inspect", "pull"], &[]);
}

#[test]
fn help_names_the_flags_that_are_promised() {
    let folder = tempfile::tempdir().unwrap();
    let check = |command: &[&str], promised: &[&str], not_yet: &[&str]| {
        let arguments = join(&[command, &["--help"]]);
        let shown = flags(ask(folder.path(), &arguments).done());
        compare(&format!("{command:?}"), &shown, promised, not_yet);
        assert!(shown.contains("--help") && shown.contains("--version"), "{command:?} shows {shown:?}");
    };
    check(
        &["run"],
        &[
            "--goals",
            "--goal-count",
            "--agents",
            "--slots",
            "--memory-budget",
            "--model",
            "--chaos",
            "--seed",
            "--data-dir",
            "--log",
            "--mode",
            "--format",
            "--quiet",
        ],
        &[],
    );
    check(
        &["stage"],
        &["--log", "--data-dir", "--mode", "--seed", "--print-config", "--format", "--quiet"],
        &[],
    );
    check(
        &["up"],
        &[
            "--listen",
            "--print-config",
            "--agents",
            "--slots",
            "--memory-budget",
            "--model",
            "--seed",
            "--data-dir",
            "--log",
            "--mode",
            "--format",
            "--quiet",
        ],
        &[],
    );
    check(&["goals", "list"], &["--wrong", "--status", "--data-dir", "--format"], &[]);
    check(&["goals", "show"], &["--data-dir", "--format"], &[]);
    check(&["agents", "list"], &["--data-dir", "--format"], &[]);
    check(&["agents", "show"], &["--data-dir", "--format", "--at"], &[]);
    check(&["seams"], &["--agent", "--explain", "--data-dir", "--format"], &[]);
    check(&["watch"], &["--from-beginning", "--until-end", "--log", "--data-dir"], &[]);
    check(&["chaos"], &["--runs", "--chaos", "--seed", "--goal-count", "--mode", "--format", "--keep"], &[]);
    check(&["doctor"], &["--format"], &[]);
}

#[test]
fn the_modes_and_formats_that_are_promised_are_offered() {
    let folder = tempfile::tempdir().unwrap();
    let help = ask(folder.path(), &["run", "--help"]);
    for value in ["observe", "recommend", "act-noncritical", "act", "text", "json"] {
        assert!(help.done().contains(&format!("- {value}: ")), "no value {value}");
    }
}

#[test]
fn what_cannot_be_typed_is_told_with_what_can() {
    let folder = tempfile::tempdir().unwrap();
    let check = |arguments: &[&str], words: &[&str]| ask(folder.path(), arguments).is_refused(2, words);
    check(&["run"], &["<DIR>", "--help"]);
    check(&["runn", "x"], &["'runn'", "'run'"]);
    check(&["run", "x", "--slotz", "2"], &["'--slotz'", "'--slots'"]);
    check(&["run", "x", "--slots", "few"], &["'few'", "--slots"]);
    check(&["run", "x", "--memory-budget", "8 parsecs"], &["--memory-budget", "512MiB"]);
    check(&["run", "x", "--mode", "dare"], &["--mode", "act-noncritical"]);
    check(&["watch", "gaols"], &["there is no topic"]);
}

#[test]
fn a_doctor_who_misses_nothing_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let told = ask(folder.path(), &["doctor", "--format", "json"]).document();
    let findings = told["findings"].as_array().unwrap();
    let names: Vec<&str> = findings.iter().map(|finding| finding["what"].as_str().unwrap()).collect();
    assert_eq!(names, ["cores", "instructions", "model", "data folder"]);
    for finding in findings {
        has(finding, &["what", "ok", "detail"]);
        assert_eq!(finding["ok"], true, "{finding}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "a doctor left something behind");
    let text = ask(folder.path(), &["doctor"]);
    assert_eq!(text.done().lines().filter(|line| line.starts_with("ok ")).count(), findings.len());
}

#[test]
fn a_doctor_who_misses_something_names_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(".kintsugi"), "a file where the runs' folder belongs").unwrap();
    let told = ask(folder.path(), &["doctor", "--format", "json"]);
    assert_eq!(told.status, Some(3), "{told:?}");
    assert!(!told.err.contains("panicked"), "{told:?}");
    let document: Value = serde_json::from_str(&told.out).unwrap();
    let findings = document["findings"].as_array().unwrap();
    let missing: Vec<&Value> = findings.iter().filter(|finding| finding["ok"] == false).collect();
    assert_eq!(missing.len(), 1, "{document}");
    assert_eq!(missing[0]["what"], "data folder");
    assert!(missing[0]["detail"].as_str().unwrap().contains(".kintsugi"));
    assert!(missing[0]["remedy"].as_str().unwrap().contains("--data-dir"));
    let text = ask(folder.path(), &["doctor"]);
    assert_eq!(text.status, Some(3));
    assert!(text.out.contains("mend it: "), "{text:?}");
}
