//! Commands around a node: publishing, settings, looking back, models, completions.

use std::io::Write as _;
use std::process::{Output, Stdio};

use serde_json::{Value, json};

use crate::common::{example, kintsugi};
use crate::node::{Node, example_goals, refused, shape_but, up_command};
use crate::watching::{SEAM, SEAM_ID, write_log};

fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn goals_are_published_to_a_running_node_and_into_the_log_of_one_that_is_down() {
    let folder = tempfile::tempdir().unwrap();
    let ask = |arguments: &[&str]| kintsugi(arguments).current_dir(folder.path()).output().unwrap();
    let file = folder.path().join("goals.jsonl");
    let lines: Vec<String> = example_goals(4).iter().map(Value::to_string).collect();
    std::fs::write(&file, lines[..3].join("\n")).unwrap();
    let node = Node::start(folder.path());
    let url = node.url().to_owned();
    let published = ask(&["goals", "publish", "goals.jsonl", "--url", &url]);
    assert_eq!(done(&published), "3 goals published, 0 were known\n");
    // While a node has the folder, it is the one to ask.
    refused(&ask(&["goals", "publish", "goals.jsonl", "--data-dir", "data"]), 3, &["in use by", "--url"]);
    // From stdin, and with a mistake in the second line.
    let mut child = kintsugi(&["goals", "publish", "--url", &url, "--format", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(child.stdin.take().unwrap(), "{}\n{{\"text\":\"\"}}", lines[0]).unwrap();
    let told = child.wait_with_output().unwrap();
    refused(&told, 2, &["-:2: `text` is empty"]);
    let known: Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(known, json!({"id": "desk-00001", "is_known": true}));
    assert_eq!(node.signal("TERM").0, Some(0));

    refused(
        &ask(&["goals", "publish", "goals.jsonl", "--url", &url]),
        3,
        &["ask the node at", "kintsugi up"],
    );
    std::fs::write(&file, lines.join("\n")).unwrap();
    let published = ask(&["goals", "publish", "goals.jsonl", "--data-dir", "data"]);
    assert_eq!(done(&published), "1 goals published, 3 were known\n");
    std::fs::write(&file, "{\"id\":\"desk-00001\",\"text\":\"other\"}").unwrap();
    refused(
        &ask(&["goals", "publish", "goals.jsonl", "--data-dir", "data"]),
        2,
        &["goals.jsonl:1", "is taken"],
    );
    std::fs::write(&file, "{\"text\":\"x\",\"kind\":\"refundz\"}").unwrap();
    refused(
        &ask(&["goals", "publish", "goals.jsonl", "--data-dir", "data"]),
        2,
        &["goals.jsonl:1", "no kind of agent `refundz`", "did you mean `refunds`?"],
    );
    std::fs::write(&file, "{\"text\":\"x\",\"agent\":\"refunds-12\"}").unwrap();
    refused(&ask(&["goals", "publish", "goals.jsonl", "--data-dir", "data"]), 2, &["no agent `refunds-12`"]);
    let node = Node::start(folder.path());
    let ids: Vec<String> =
        example_goals(4).iter().map(|goal| goal["id"].as_str().unwrap().to_owned()).collect();
    node.wait_for(&ids);
    // The newest folder below .kintsugi is not asked for: this one is named.
    let listed = done(&ask(&["goals", "list", "--data-dir", "data", "--format", "json"]));
    assert_eq!(listed.lines().count(), 4);
}

#[test]
fn a_run_takes_no_further_goals() {
    let folder = tempfile::tempdir().unwrap();
    let run = kintsugi(&["run"])
        .arg(example())
        .args(["--goal-count", "1", "--quiet", "--data-dir", "data"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    done(&run);
    let publish = kintsugi(&["goals", "publish", "--data-dir", "data"]).current_dir(folder.path()).output();
    refused(&publish.unwrap(), 2, &["holds a run", "--url"]);
    refused(&up_command(folder.path()).output().unwrap(), 2, &["whose goals are fixed", "--data-dir"]);
}

#[test]
fn an_agent_is_shown_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path());
    let id = node.publish(&example_goals(1)[0]);
    node.wait_for(std::slice::from_ref(&id));
    let agent = node.get(&format!("/v1/goals/{id}")).document()["agent"].as_str().unwrap().to_owned();
    let show = |more: &[&str]| {
        let mut command = kintsugi(&["agents", "show", &agent, "--data-dir", "data", "--format", "json"]);
        command.args(more).current_dir(folder.path()).output().unwrap()
    };
    let document = |output: &Output| serde_json::from_str::<Value>(&done(output)).unwrap();
    let now = document(&show(&[]));
    let last = now["sequence"].as_u64().unwrap();
    let mut at_last = document(&show(&["--at", &last.to_string()]));
    assert_eq!(at_last["journal_state"]["sequence"], last);
    let members = at_last.as_object_mut().unwrap();
    members.remove("at");
    members.remove("journal_state");
    assert_eq!(at_last["goals_ended"], now["goals_ended"]);
    let first = document(&show(&["--at", "1"]));
    assert_eq!(first["sequence"], 1);
    assert_eq!(first["goals_ended"], 0);
    let working: Vec<Value> = (2..last).map(|at| document(&show(&["--at", &at.to_string()]))).collect();
    assert!(working.iter().any(|then| then["goal"] == id.as_str() && then["state"] == "running"));
    refused(&show(&["--at", &(last + 1).to_string()]), 2, &[&format!("1 to {last}")]);
    refused(&show(&["--at", "0"]), 2, &["the first event is 1"]);
}

#[test]
fn an_agent_that_is_quarantined_is_brought_back() {
    let folder = tempfile::tempdir().unwrap();
    // As an earlier run of the node left it.
    write_log(folder.path(), &["agent.created", "agent.quarantined"]);
    let node = Node::start(folder.path());
    let agent = node.get("/v1/agents/support-17").document();
    assert_eq!((&agent["state"], &agent["quarantined"]), (&json!("failed"), &json!("every rung was tried")));
    let url = node.url().to_owned();
    let resume = || kintsugi(&["agents", "resume", "support-17", "--url", &url]).output().unwrap();
    assert_eq!(done(&resume()), "support-17 is idle\n");
    // It takes goals again, and there is nothing more to bring back.
    let id = node.publish(&json!({"text": "where is my order?", "agent": "support-17"}));
    node.wait_for(std::slice::from_ref(&id));
    assert_eq!(node.get(&format!("/v1/goals/{id}")).document()["agent"], "support-17");
    refused(&resume(), 2, &["support-17"]);
}

#[test]
fn a_seam_is_explained_from_the_log_alone() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("data")).unwrap();
    write_log(folder.path(), &SEAM);
    std::fs::write(folder.path().join("data/manifest.json"), "{}").unwrap();
    let explain = |id: &str, format: &str| {
        let arguments = ["seams", "--explain", id, "--data-dir", "data", "--format", format];
        kintsugi(&arguments).current_dir(folder.path()).output().unwrap()
    };
    let id = SEAM_ID;
    let text = done(&explain(id, "text"));
    let words: Vec<&str> = text.lines().filter(|line| !line.starts_with(' ')).collect();
    for name in
        ["seam", "metric", "anomaly", "diagnosis", "reasoning", "policy", "parameters", "before", "after"]
    {
        assert!(words.iter().any(|line| line.starts_with(name)), "no {name} in {text}");
    }
    let document: Value = serde_json::from_str(&done(&explain(id, "json"))).unwrap();
    assert_eq!(document["recovery"]["recovery"], id);
    assert_eq!(document["phases"].as_array().unwrap().len(), 3);
    refused(&explain("rec_01931f2a7c0070008000000000000009", "text"), 2, &["no seam", "recovery.recovery"]);
    refused(&explain("nothing", "text"), 2, &["no seam's id"]);
}

#[test]
fn each_setting_is_shown_with_its_origin() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = up_command(folder.path());
    command.args(["--print-config", "--slots", "3"]).env("KINTSUGI_NODE__TOOL_THREADS", "2");
    let told = done(&command.output().unwrap());
    let settings: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let check = |key: &str, value: &Value, origin: &str| {
        let found = settings.iter().find(|setting| setting["key"] == key);
        let found = found.unwrap_or_else(|| panic!("no {key} in {told}"));
        assert_eq!(found["value"], *value, "{found}");
        assert!(found["origin"].as_str().unwrap().ends_with(origin), "{found}");
    };
    check("node.slots", &json!(3), "--slots");
    check("node.seed", &json!(7), "support-desk/kintsugi.toml:6");
    check("node.tool_threads", &json!(2), "KINTSUGI_NODE__TOOL_THREADS");
    check("node.tool_ms_max", &json!(30_000), "default");
    check("http.listen", &json!("127.0.0.1:0"), "--listen");
    assert!(!folder.path().join("data").exists(), "showing settings starts nothing");
    let text = kintsugi(&["up"]).arg(example()).arg("--print-config").output().unwrap();
    assert!(done(&text).contains("# default"));
}

#[test]
fn a_model_is_told_with_what_it_needs() {
    let inspect = |slots: &str| {
        let arguments = ["models", "inspect", "kintsugi-nano", "--slots", slots, "--format", "json"];
        serde_json::from_str::<Value>(&done(&kintsugi(&arguments).output().unwrap())).unwrap()
    };
    let (one, four) = (inspect("1"), inspect("4"));
    assert_eq!(one["architecture"], "llama");
    let bytes = |model: &Value, of: &str| model["memory"][of].as_u64().unwrap();
    assert_eq!(bytes(&one, "kv_bytes") * 4, bytes(&four, "kv_bytes"));
    assert_eq!(
        bytes(&one, "weights_bytes") + bytes(&one, "kv_bytes") + bytes(&one, "scratch_bytes"),
        bytes(&one, "total_bytes")
    );
    insta::assert_json_snapshot!("model", shape_but(&one, &["/quantization"]));
    let list = done(&kintsugi(&["models", "list"]).output().unwrap());
    assert!(list.starts_with("MODEL ") && list.contains("\nkintsugi-nano "), "{list}");
    refused(&kintsugi(&["models", "inspect", "nothing.gguf"]).output().unwrap(), 3, &["there is no model"]);
}

#[test]
fn completions_name_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let text = done(&kintsugi(&["completions", shell]).output().unwrap());
        assert!(text.contains("kintsugi") && text.contains("publish"), "{shell}");
    }
}

#[test]
fn policies_are_taken_over_while_the_node_is_up_and_broken_ones_are_told_and_left() {
    let folder = tempfile::tempdir().unwrap();
    let desk = folder.path().join("desk");
    for part in ["agents", "tools", "policies"] {
        std::fs::create_dir_all(desk.join(part)).unwrap();
        for file in std::fs::read_dir(example().join(part)).unwrap() {
            let file = file.unwrap().path();
            std::fs::copy(&file, desk.join(part).join(file.file_name().unwrap())).unwrap();
        }
    }
    for file in ["kintsugi.toml", "shop.db"] {
        std::fs::copy(example().join(file), desk.join(file)).unwrap();
    }
    let mut up =
        kintsugi(&["up", "desk", "--data-dir", "data", "--listen", "127.0.0.1:0", "--format", "json"]);
    let mut node = Node::spawn(up.current_dir(folder.path()), None);
    let mut says = node.says();
    let file = desk.join("policies/recovery.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let mut edited = |text: &str, word: &str| {
        std::fs::write(&file, text).unwrap();
        says.by_ref().find(|line| line.contains(word)).unwrap()
    };
    let line = 1 + text.lines().position(|line| line.contains("action: rebuild_engine")).unwrap();
    let told = edited(&text.replace("action: rebuild_engine", "action: rebuild_engin"), "stay");
    assert!(told.starts_with(&format!("desk/policies/recovery.yaml:{line}:13: ")), "{told}");
    assert!(told.contains("did you mean \"rebuild_engine\"?; the policies stay as they were"), "{told}");
    let told = edited(&text.replace("rebuild-engine", "rebuild-it"), "policies");
    assert_eq!(told, "policies: taken over from desk/policies/recovery.yaml");
    node.kill();
}
