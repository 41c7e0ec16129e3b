//! `models pull` from a hub on this machine: what comes, what goes on after a cut, and what is refused.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;
#[path = "pull/hub.rs"]
mod hub;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{example, kintsugi};
use crate::hub::{FILE, HASH, Hub, TOKEN};

fn model() -> Vec<u8> {
    std::fs::read(example().join("../../models/kintsugi-nano.gguf")).unwrap()
}

/// Pulls `place` into the user's folder of models, which is in `folder`.
fn pull(folder: &Path, hub: &Hub, place: &str, more: &[&str]) -> Command {
    let mut command = kintsugi(&["models", "pull", place, "--format", "json"]);
    command.args(more).current_dir(folder).env("XDG_DATA_HOME", folder).env("HF_ENDPOINT", hub.url());
    command.env_remove("HF_TOKEN");
    command
}

fn pulled(output: &Output) -> Value {
    assert!(output.status.success(), "{}", said(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn refused(output: &Output, status: i32, words: &[&str]) {
    let said = said(output);
    assert_eq!(output.status.code(), Some(status), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
    assert!(!said.contains("panicked") && !said.contains(TOKEN), "{said}");
}

/// The files in the user's folder of models.
fn kept(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.join("kintsugi/models"));
    let mut files: Vec<PathBuf> = entries.into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn a_model_comes_over_a_lost_connection_and_is_found_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let (hub, whole) = (Hub::start(model()), model());
    hub.cut_first(whole.len() / 2);
    let told = pulled(&pull(folder.path(), &hub, FILE, &[]).env("HF_TOKEN", TOKEN).output().unwrap());
    assert_eq!((&told["is_verified"], &told["was_there"]), (&true.into(), &false.into()));
    assert_eq!(told["architecture"], "llama");
    let target = folder.path().join("kintsugi/models/nano.gguf");
    assert_eq!(kept(folder.path()), std::slice::from_ref(&target));
    assert_eq!(std::fs::read(&target).unwrap(), whole);

    // The second request asked for the rest alone, and nobody but the hub saw the token.
    let asked = hub.asked_of_storage();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert_eq!(asked[1]["range"], format!("bytes={}-", whole.len() / 2));
    assert_eq!(asked[1]["if-range"], hub::ETAG);
    assert!(asked.iter().all(|headers| !headers.contains_key("authorization")), "{asked:?}");
    assert!(hub.asked_of_hub().iter().all(|headers| headers["authorization"] == format!("Bearer {TOKEN}")));

    for name in ["nano", "nano.gguf"] {
        let mut inspect = kintsugi(&["models", "inspect", name, "--format", "json"]);
        let inspected = inspect.current_dir(folder.path()).env("XDG_DATA_HOME", folder.path()).output();
        assert_eq!(pulled(&inspected.unwrap())["architecture"], "llama");
    }
    let again = pulled(&pull(folder.path(), &hub, &format!("hf://{FILE}"), &[]).output().unwrap());
    assert_eq!(again["was_there"], true);
    assert_eq!(hub.asked_of_storage().len(), 3, "its hash is asked for, and nothing is fetched");
}

#[test]
fn a_model_of_which_nobody_says_how_long_it_is_comes_whole() {
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::start(model());
    hub.leave_length_out();
    let told = pulled(&pull(folder.path(), &hub, FILE, &[]).output().unwrap());
    assert_eq!(told["is_verified"], true);
    assert_eq!(std::fs::read(folder.path().join("kintsugi/models/nano.gguf")).unwrap(), model());
}

#[test]
fn a_pull_that_is_killed_leaves_no_model_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::start(model());
    let half = model().len() / 2;
    hub.hold_first(half);
    let mut child = pull(folder.path(), &hub, FILE, &[]).stdout(Stdio::null()).spawn().unwrap();
    let part = folder.path().join("kintsugi/models/nano.gguf.part");
    let begun = Instant::now();
    while std::fs::metadata(&part).map_or(0, |part| part.len()) < half as u64 {
        assert!(begun.elapsed() < Duration::from_mins(1), "nothing comes");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    refused(&pull(folder.path(), &hub, FILE, &[]).output().unwrap(), 3, &["being pulled already"]);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!folder.path().join("kintsugi/models/nano.gguf").exists());
    pulled(&pull(folder.path(), &hub, FILE, &[]).output().unwrap());
    assert_eq!(hub.asked_of_storage().last().unwrap()["range"], format!("bytes={half}-"));
    assert_eq!(kept(folder.path()), [folder.path().join("kintsugi/models/nano.gguf")]);
}

#[test]
fn another_version_on_the_server_is_fetched_from_its_beginning() {
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::start(model());
    let models = folder.path().join("models");
    let to = ["--to", models.to_str().unwrap(), "--name", "mine"];
    hub.cut_always(1000);
    let cut = pull(folder.path(), &hub, FILE, &to).output().unwrap();
    // Each try gets no further than the first: the cut is always at the same byte.
    refused(&cut, 3, &["the same command goes on"]);
    assert_eq!(std::fs::metadata(models.join("mine.gguf.part")).unwrap().len(), 1000);
    hub.cut_never();
    hub.another_version();
    let told = pulled(&pull(folder.path(), &hub, FILE, &to).output().unwrap());
    assert_eq!(told["model"], models.join("mine.gguf").to_str().unwrap());
    assert_eq!(std::fs::read(models.join("mine.gguf")).unwrap(), model());
}

#[test]
fn a_file_that_is_not_what_was_promised_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut broken = model();
    let last = broken.len() - 1;
    broken[last] ^= 1;
    let hub = Hub::start_with(broken, HASH);
    refused(&pull(folder.path(), &hub, FILE, &[]).output().unwrap(), 3, &["SHA-256", HASH]);
    assert_eq!(kept(folder.path()), Vec::<PathBuf>::new());

    let hub = Hub::start(model());
    let other = "0".repeat(64);
    let output = pull(folder.path(), &hub, FILE, &["--sha256", &other]).output().unwrap();
    refused(&output, 3, &["SHA-256", &other]);
    let no_model = Hub::start_with(b"<html>please log in</html>".to_vec(), "");
    refused(&pull(folder.path(), &no_model, FILE, &[]).output().unwrap(), 3, &["no GGUF file"]);
    // The header alone, and a promise that it is whole.
    let headless = Hub::start_with(model()[..4096].to_vec(), "");
    refused(&pull(folder.path(), &headless, FILE, &[]).output().unwrap(), 3, &["nano.gguf"]);
    assert_eq!(kept(folder.path()), Vec::<PathBuf>::new());
}

#[test]
fn what_cannot_be_pulled_is_told_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::start(model());
    let ask = |place: &str, more: &[&str]| pull(folder.path(), &hub, place, more).output().unwrap();
    refused(&ask("owner/gated/nano.gguf", &[]), 3, &["401", "HF_TOKEN"]);
    let mut with_token = pull(folder.path(), &hub, "owner/gated/nano.gguf", &[]);
    pulled(&with_token.env("HF_TOKEN", TOKEN).output().unwrap());
    refused(&ask("owner/nothing/nano.gguf", &[]), 3, &["404", "no such file"]);
    refused(&ask("owner/several", &[]), 2, &["owner/several/a.gguf", "owner/several/b.gguf"]);
    refused(&ask("owner/none", &[]), 2, &["no GGUF file"]);
    let wrong = ["nano", "../etc/passwd", "ftp://example.com/a.gguf", "http://example.com/a.gguf"];
    for place in wrong {
        refused(&ask(place, &[]), 2, &[]);
    }
    refused(&ask(FILE, &["--sha256", "abc"]), 2, &["--sha256"]);
    refused(&ask(FILE, &["--name", "../a"]), 2, &["--name"]);
    refused(&ask("http://127.0.0.1:9/a.gguf", &[]), 3, &["reach http://127.0.0.1:9/a.gguf"]);
    std::fs::write(folder.path().join("kintsugi/models/nano.gguf"), "something else").unwrap();
    refused(&ask(FILE, &[]), 2, &["--name"]);
}

#[test]
fn the_only_file_of_a_repository_need_not_be_named() {
    let folder = tempfile::tempdir().unwrap();
    let hub = Hub::start(model());
    let told = pulled(&pull(folder.path(), &hub, "owner/repo", &[]).output().unwrap());
    assert_eq!(told["model"], "nano.gguf");
    let storage = format!("{}?secret=7", hub.storage_url());
    let told = pulled(&pull(folder.path(), &hub, &storage, &["--name", "direct"]).output().unwrap());
    assert_eq!((&told["model"], &told["is_verified"]), (&"direct.gguf".into(), &false.into()));
}
