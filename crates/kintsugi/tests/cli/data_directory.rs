//! A run's folder that somebody else has, that cannot be, or that is damaged.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::common::{example, kintsugi};
use super::{ask, join, said};

/// Far longer than a start takes, even where other programs have the machine.
const PATIENCE: Duration = Duration::from_mins(1);

fn run(folder: &Path, goals: &str) -> Command {
    let mut command = kintsugi(&["run"]);
    command.arg(example()).args(["--quiet", "--format", "json", "--goal-count", goals, "--data-dir", "data"]);
    command.current_dir(folder);
    command
}

/// A process that is stopped with the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until the first process did it.
fn wait_for(what: &str, is_done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_done() {
        assert!(begun.elapsed() < PATIENCE, "the first process did not {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

#[test]
fn a_second_process_on_a_run_is_refused_and_told_who_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = folder.path().join("data/manifest.json");
    let child = run(folder.path(), "300").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let first = Running(child);
    wait_for("begin", || manifest.is_file());
    let before = std::fs::read_to_string(&manifest).unwrap();
    let holder = format!("process {}", first.0.id());
    said(&mut run(folder.path(), "300")).is_refused(3, &["data/log", "in use by", &holder, "data directory"]);
    assert_eq!(std::fs::read_to_string(&manifest).unwrap(), before);
    // Looking needs no lock.
    let list = ["goals", "list", "--data-dir", "data"];
    wait_for("publish", || ask(folder.path(), &list).done().contains("desk-00001"));
}

/// A limit on the size of files stands for a full disk: both refuse a write.
#[test]
fn a_disk_without_room_is_told_with_the_way_out_and_the_run_begins_where_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let limited = |blocks: u32| {
        let mut run = Command::new("sh");
        // The signal would end the process before it could say anything.
        run.args(["-c", &format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"")]);
        run.arg(env!("CARGO_BIN_EXE_kintsugi")).args(["run", "--quiet", "--format", "json"]);
        run.args(["--goal-count", "24", "--data-dir", "data"]).arg(example()).current_dir(folder.path());
        run.env("RUST_BACKTRACE", "0");
        run
    };
    // Not even the example's data has room: nothing is left behind.
    said(&mut limited(200)).is_refused(3, &["data/files/shop.db", "File too large", "make room there"]);
    assert!(!folder.path().join("data").exists());
    // Room for the data but not for the cache.
    said(&mut limited(4_000)).is_refused(3, &["data/store", "agent cache", "make room there"]);
    let told = run(folder.path(), "24").output().unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let summary: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(summary["goals"]["completed"], 24);
}

#[test]
fn a_folder_that_cannot_be_written_is_told_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("data"), "a file").unwrap();
    for name in ["data", "data/below"] {
        let mut command = kintsugi(&["run"]);
        command.arg(example()).args(["--goal-count", "1", "--data-dir", name]).current_dir(folder.path());
        said(&mut command).is_refused(3, &[&format!("create {name}: "), "name a folder that you may write"]);
    }
}

#[test]
fn looking_where_no_run_is_tells_where_to_look() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for command in [["goals", "list"], ["agents", "list"], ["goals", "show"], ["agents", "show"]] {
        let id: &[&str] = if command[1] == "show" { &["x"] } else { &[] };
        ask(path, &join(&[&command, id]))
            .is_refused(3, &["there is no run", "kintsugi run DIR", "--data-dir"]);
        let there = join(&[&command, id, &["--data-dir", "gone"]]);
        ask(path, &there).is_refused(3, &["gone holds no run", "--data-dir"]);
    }
    ask(path, &["seams"]).is_refused(3, &["there is no run"]);
    ask(path, &["watch", "results", "--until-end"]).is_refused(3, &["there is no run"]);
    ask(path, &["watch", "results", "--log", "kafka://x:1"])
        .is_refused(3, &["no Kafka broker answers at x:1", "check the address"]);
}

/// The newest segment of a run's log.
fn segment(run: &Path) -> PathBuf {
    let files = std::fs::read_dir(run.join("log")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|file| file.extension().is_some_and(|found| found == "segment")).max().unwrap()
}

fn flip(file: &Path, place: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[place] ^= 0x40;
    std::fs::write(file, bytes).unwrap();
}

#[test]
fn a_damaged_log_is_found_and_named_and_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    assert_eq!(said(&mut run(path, "2")).document()["goals"]["submitted"], 2);
    let segment = segment(&path.join("data"));
    let name = segment.file_name().unwrap().to_str().unwrap();
    let middle = usize::try_from(segment.metadata().unwrap().len()).unwrap() / 2;
    flip(&segment, middle);
    let damaged = std::fs::read(&segment).unwrap();
    let words = [name, "is damaged at byte", "nothing was changed", "begin anew with --data-dir NEW"];
    ask(path, &["goals", "list", "--data-dir", "data"]).is_refused(3, &words);
    ask(path, &["watch", "results", "--from-beginning", "--until-end", "--data-dir", "data"])
        .is_refused(3, &words);

    // As if it had been killed just before its end.
    let manifest = path.join("data/manifest.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace("\"is_finished\": true", "\"is_finished\": false")).unwrap();
    said(&mut run(path, "2")).is_refused(3, &words);
    assert_eq!(std::fs::read(&segment).unwrap(), damaged);

    flip(&segment, middle);
    assert_eq!(ask(path, &["goals", "list", "--data-dir", "data"]).done().lines().count(), 3);
    let resumed = said(&mut run(path, "2")).document();
    assert_eq!(resumed["resumed"], true);
    assert_eq!(resumed["goals"]["submitted"], 2);
}
