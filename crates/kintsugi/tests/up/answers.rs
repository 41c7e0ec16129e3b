//! Goals in, and what is answered.

use serde_json::{Value, json};

use crate::node::{Node, example_goals, shape, shape_but, up_command};

#[test]
fn a_goal_is_taken_worked_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path());
    assert_eq!(node.said["example"], "support-desk");
    assert_eq!(node.said["resumed"], false);
    assert_eq!(node.get("/healthz").document()["status"], "ok");
    assert_eq!(node.get("/readyz").status, 200);

    let goal = example_goals(1).remove(0);
    let id = goal["id"].as_str().unwrap();
    let taken = node.post("/v1/goals", &goal.to_string());
    assert_eq!(taken.status, 202, "{taken:?}");
    assert_eq!(taken.headers["location"], format!("/v1/goals/{id}"));
    insta::assert_json_snapshot!("accepted", shape(&taken.document()));
    // What was acknowledged can be asked for at once.
    assert_eq!(node.get(&format!("/v1/goals/{id}")).status, 200);
    node.wait_for(&[id.to_owned()]);
    let shown = node.get(&format!("/v1/goals/{id}")).document();
    assert_eq!(shown["state"], shown["result"]["status"]);
    insta::assert_json_snapshot!("goal", shape(&shown));

    let again = node.post("/v1/goals", &goal.to_string()).document();
    assert_eq!(again["is_known"], true);
    let mut other = goal.clone();
    other["text"] = "something else".into();
    node.post("/v1/goals", &other.to_string()).is_problem(409, None);
    node.get("/v1/goals/nobody").is_problem(404, None);

    let agent = shown["agent"].as_str().unwrap();
    let agent = node.get(&format!("/v1/agents/{agent}")).document();
    assert_eq!(agent["goals_ended"], 1);
    insta::assert_json_snapshot!("agent", shape_but(&agent, &["/scores", "/seams"]));
    let page = node.get("/v1/agents?limit=1").document();
    assert_eq!(page["agents"].as_array().unwrap().len(), 1);
    assert_eq!(node.get("/v1/agents/support-35").document()["state"], "idle");
    node.get("/v1/agents/support-36").is_problem(404, None);
    node.post("/v1/agents/support-35/resume", "").is_problem(409, None);

    let (status, said) = node.signal("TERM");
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("stopped with 0 goals open"), "{said}");

    let node = Node::start(folder.path());
    assert_eq!(node.said["resumed"], true);
    assert_eq!(node.get(&format!("/v1/goals/{id}")).document(), shown);
    assert_eq!(node.post("/v1/goals", &goal.to_string()).document()["is_known"], true);
    let (status, said) = node.signal("INT");
    assert_eq!(status, Some(130), "{said}");
    assert!(said.contains("the same command goes on"), "{said}");
}

#[test]
fn agents_are_listed_page_by_page() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path());
    let ids: Vec<String> = example_goals(9).iter().map(|goal| node.publish(goal)).collect();
    node.wait_for(&ids);
    let whole = node.get("/v1/agents").document();
    assert!(whole["next"].is_null());
    let (mut pages, mut after) = (Vec::new(), String::new());
    loop {
        let page = node.get(&format!("/v1/agents?limit=2&after={after}")).document();
        pages.extend(page["agents"].as_array().unwrap().iter().map(|agent| agent["agent"].clone()));
        let Some(next) = page["next"].as_str() else { break };
        next.clone_into(&mut after);
    }
    let listed: Vec<Value> =
        whole["agents"].as_array().unwrap().iter().map(|agent| agent["agent"].clone()).collect();
    assert!(listed.len() > 2);
    assert_eq!(pages, listed);
    node.get("/v1/agents?limit=0").is_problem(400, Some("limit"));
    node.get("/v1/agents?limit=1001").is_problem(400, Some("limit"));
    node.get("/v1/seams?limit=many").is_problem(400, Some("query"));
    node.get("/v1/seams?before=x").is_problem(400, Some("before"));
}

#[test]
fn what_is_wrong_with_a_goal_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path());
    let check = |body: &Value, field: &str| {
        node.post("/v1/goals", &body.to_string()).is_problem(400, Some(field));
    };
    check(&json!({"txt": "hello"}), "text");
    check(&json!({"text": "  "}), "text");
    check(&json!({"text": 7}), "text");
    check(&json!({"text": "x", "id": ""}), "id");
    check(&json!({"text": "x", "id": "a\nb"}), "id");
    check(&json!({"text": "x", "kind": "nobody"}), "kind");
    check(&json!({"text": "x", "agent": "support-36"}), "agent");
    check(&json!({"text": "x", "tenant": "other"}), "tenant");
    check(&json!({"text": "x", "urgency": "high"}), "urgency");
    check(&json!({"text": "x", "deadline": "soon"}), "deadline");
    check(&json!({"text": "x", "budget": {"steps": -1}}), "budget");
    check(&json!({"text": "x", "input": []}), "input");
    check(&json!({"text": "x", "expect": {"tool": []}}), "expect");
    check(&json!(["text"]), "");
    node.post("/v1/goals", "{\"text\":").is_problem(400, Some(""));
    node.post("/v1/goals", "").is_problem(400, Some(""));
    node.post_as("text/plain", "/v1/goals", "{\"text\":\"x\"}").is_problem(415, None);
    let long = json!({"text": "x".repeat(256 * 1024)});
    node.post("/v1/goals", &long.to_string()).is_problem(413, None);
    let wrong_method = node.get("/v1/goals");
    wrong_method.is_problem(405, None);
    assert_eq!(wrong_method.headers["allow"], "POST");
    node.get("/v2/goals").is_problem(404, None);
    // Nothing of it reached the log.
    let metrics = node.get("/metrics").text;
    assert!(metrics.contains("kintsugi_goals_published_total 0"), "{metrics}");
    assert!(metrics.contains("kintsugi_dead_letters_total 0"), "{metrics}");
}

#[test]
fn a_full_node_says_when_to_ask_again() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::spawn(up_command(folder.path()).env("KINTSUGI_HTTP__OPEN_GOALS_MAX", "1"), None);
    let mut taken = Vec::new();
    // A goal takes far longer to work than the next takes to be published.
    let refused = loop {
        let answer = node.post(
            "/v1/goals",
            &example_goals(1)[0].to_string().replace("desk-", &format!("{}-", taken.len())),
        );
        if answer.status != 202 {
            break answer;
        }
        taken.push(answer.document()["id"].as_str().unwrap().to_owned());
        assert!(taken.len() < 1_000, "the node takes everything");
    };
    refused.is_problem(429, None);
    assert!(refused.headers["retry-after"].parse::<u64>().unwrap() >= 1);
    node.wait_for(&taken);
    node.publish(&json!({"text": "now there is room"}));
}
