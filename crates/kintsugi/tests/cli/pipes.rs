//! Output that nobody reads, or that cannot be written, and what is said when something panics.

use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::ask;
use super::common::{example, kintsugi};

fn run(folder: &Path) -> Command {
    let mut command = kintsugi(&["run"]);
    command.arg(example()).args(["--goal-count", "3", "--data-dir", "data"]).current_dir(folder);
    command.env_remove("RUST_BACKTRACE");
    command
}

/// A place to write to that nobody reads.
fn unread() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

fn full() -> Stdio {
    OpenOptions::new().write(true).open("/dev/full").unwrap().into()
}

/// The run was worked to its end whatever became of what it said.
fn is_done(folder: &Path) -> bool {
    let goals = ask(folder, &["goals", "list", "--data-dir", "data", "--format", "json"]).lines();
    goals.len() == 3 && goals.iter().all(|goal| !goal["result"].is_null())
}

fn status(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8(output.stderr.clone()).unwrap())
}

#[test]
fn a_run_that_nobody_listens_to_ends_quietly() {
    let outputs: [fn(&mut Command) -> &mut Command; 3] = [
        |command| command.stdout(unread()),
        |command| command.stderr(unread()),
        |command| command.stdout(unread()).stderr(unread()),
    ];
    for set in outputs {
        let folder = tempfile::tempdir().unwrap();
        let mut command = run(folder.path());
        let (code, err) = status(&set(&mut command).output().unwrap());
        assert_eq!(code, Some(0), "{err}");
        assert!(!err.contains("error") && !err.contains("panic"), "{err}");
        assert!(is_done(folder.path()));
    }
}

#[test]
fn a_full_disk_behind_stdout_is_told_once_and_one_behind_stderr_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (code, err) = status(&run(folder.path()).stdout(full()).output().unwrap());
    assert_eq!(code, Some(3), "{err}");
    let errors: Vec<&str> = err.lines().filter(|line| line.contains("error")).collect();
    assert_eq!(errors.len(), 1, "{err}");
    assert!(errors[0].starts_with("error: write to stdout: No space left"), "{err}");
    assert!(errors[0].contains("`kintsugi goals list --data-dir data`"), "{err}");
    assert!(is_done(folder.path()));
    let mut list = kintsugi(&["goals", "list", "--data-dir", "data"]);
    assert_eq!(list.current_dir(folder.path()).stdout(full()).output().unwrap().status.code(), Some(3));
    let mut list = kintsugi(&["goals", "list", "--data-dir", "data"]);
    assert_eq!(list.current_dir(folder.path()).stdout(unread()).output().unwrap().status.code(), Some(0));

    let folder = tempfile::tempdir().unwrap();
    assert_eq!(run(folder.path()).stderr(full()).output().unwrap().status.code(), Some(0));
    assert!(is_done(folder.path()));
    // Even a failure that cannot be told has its status.
    let gone = kintsugi(&["run", "gone"]).current_dir(folder.path()).stderr(full()).output().unwrap();
    assert_eq!(gone.status.code(), Some(2));
}

#[test]
fn a_panic_is_told_in_one_line_with_the_next_step() {
    let folder = tempfile::tempdir().unwrap();
    // The same seed breaks the engine in the same step.
    let mut command = kintsugi(&["run"]);
    command.arg(example()).args([
        "--goal-count",
        "60",
        "--chaos",
        "0.5",
        "--seed",
        "1",
        "--quiet",
        "--data-dir",
        "data",
    ]);
    let output = command.current_dir(folder.path()).env_remove("RUST_BACKTRACE").output().unwrap();
    let (code, err) = status(&output);
    assert_eq!(code, Some(0), "{err}");
    let told: Vec<&str> = err.lines().filter(|line| line.starts_with("panic: ")).collect();
    assert!(!told.is_empty(), "no engine was broken: {err}");
    for line in told {
        for word in ["broken on purpose at crates/", "thread kintsugi-engine", "safe", "RUST_BACKTRACE=1"] {
            assert!(line.contains(word), "no {word:?} in {line}");
        }
    }
    for noise in ["panicked at", "stack backtrace", "note: "] {
        assert!(!err.contains(noise), "{err}");
    }
}
