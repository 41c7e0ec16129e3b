//! A run with a smaller model through the program that a user runs: real engines, one budget.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;
#[path = "common/half_model.rs"]
mod half_model;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::common::{example, kintsugi};
use crate::half_model::half_a_model;

/// Ahead of the others: a failed call puts the agent on lighter work.
const LIGHTEN: &str = "policies:\n  - name: lighten\n    priority: 20\n    when: { fault_type: tool_failure, subject: agent }\n    \
                       action: model_downshift\n    parameters: { attempts: 1, deadline_ms: 10000 }\n";

const GOALS: usize = 48;

/// The shipped example, with a policy more.
fn desk(folder: &Path) {
    let desk = folder.join("desk");
    for part in ["agents", "tools", "policies"] {
        std::fs::create_dir_all(desk.join(part)).unwrap();
        for file in std::fs::read_dir(example().join(part)).unwrap() {
            let file = file.unwrap().path();
            std::fs::copy(&file, desk.join(part).join(file.file_name().unwrap())).unwrap();
        }
    }
    for file in ["kintsugi.toml", "shop.db", "goals.jsonl"] {
        std::fs::copy(example().join(file), desk.join(file)).unwrap();
    }
    let policies = desk.join("policies/recovery.yaml");
    let text = std::fs::read_to_string(&policies).unwrap();
    assert!(text.contains("\npolicies:\n"), "{text}");
    std::fs::write(policies, text.replacen("policies:\n", LIGHTEN, 1)).unwrap();
}

fn printed(folder: &Path, arguments: &[&str]) -> String {
    let output = kintsugi(arguments).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn who_is_downshifted_is_answered_by_the_smaller_model_and_both_stay_within_the_budget() {
    let folder = tempfile::tempdir().unwrap();
    desk(folder.path());
    std::fs::write(folder.path().join("half.gguf"), half_a_model()).unwrap();
    let goals = GOALS.to_string();
    let run = ["run", "desk", "--data-dir", "data", "--goal-count", &goals, "--chaos", "0.3", "--quiet"];
    let with_smaller = ["--smaller-model", "half.gguf", "--memory-budget", "64MiB", "--format", "json"];
    let told: Value =
        serde_json::from_str(&printed(folder.path(), &[&run[..], &with_smaller].concat())).unwrap();
    let bytes = |of: &Value, what: &str| of["memory"][what].as_u64().unwrap();
    assert_eq!(bytes(&told, "budget_bytes"), 64 << 20);
    assert!(bytes(&told, "total_bytes_peak") <= 64 << 20, "{told}");
    let smaller = &told["smaller_model"];
    assert_eq!(
        (smaller["name"].as_str().unwrap(), bytes(smaller, "budget_bytes")),
        ("kintsugi-half", 16 << 20)
    );
    assert!(bytes(smaller, "total_bytes_peak") <= 16 << 20, "{smaller}");
    assert!(bytes(smaller, "weights_bytes") > 0 && bytes(smaller, "kv_bytes_peak") > 0, "{smaller}");
    assert!(bytes(smaller, "weights_bytes") < bytes(&told, "weights_bytes") / 2, "{told}");
    assert!(told["healing"]["recoveries"]["model_downshift"]["tried"].as_u64().unwrap() > 0, "{told}");

    let metrics = printed(
        folder.path(),
        &["watch", "metrics", "--from-beginning", "--until-end", "--data-dir", "data"],
    );
    let (mut steps, mut newest) = (0, BTreeMap::new());
    for metric in lines(&metrics) {
        let (agent, model) = (metric["data"]["agent"].to_string(), metric["data"]["model"].clone());
        steps += u64::from(!model.is_null() && metric["data"]["spent"].is_null());
        newest.insert(agent, model);
    }
    assert!(steps > 0, "the smaller model was never asked");
    assert_eq!(smaller["steps"].as_u64(), Some(steps));
    for agent in lines(&printed(folder.path(), &["agents", "list", "--data-dir", "data", "--format", "json"]))
    {
        assert_eq!(newest[&agent["agent"].to_string()], agent["model"], "{agent}");
    }
    assert!(newest.values().any(Value::is_string), "{newest:?}");
    let listed = printed(folder.path(), &["agents", "list", "--data-dir", "data"]);
    assert!(listed.contains("  by kintsugi-half"), "{listed}");

    // A seam whose fault was met while the smaller model answered tells that it did.
    let seams = lines(&printed(folder.path(), &["seams", "--data-dir", "data", "--format", "json"]));
    let is_by_smaller = |seam: &&Value| {
        seam["metrics"].as_array().unwrap().iter().any(|metric| metric["model"] == "kintsugi-half")
    };
    let seam = seams.iter().find(is_by_smaller).expect("no fault was met while the smaller model answered");
    let id = seam["recovery"]["recovery"].as_str().unwrap();
    let explained = printed(folder.path(), &["seams", "--explain", id, "--data-dir", "data"]);
    assert!(explained.contains(", by kintsugi-half"), "{explained}");
}

#[test]
fn without_a_smaller_model_a_summary_says_nothing_of_one() {
    let folder = tempfile::tempdir().unwrap();
    desk(folder.path());
    let run = ["run", "desk", "--data-dir", "data", "--goal-count", "4", "--quiet", "--format", "json"];
    let told: Value = serde_json::from_str(&printed(folder.path(), &run)).unwrap();
    assert!(told.get("smaller_model").is_none(), "{told}");
}
