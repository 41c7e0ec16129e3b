//! Who may ask a node, and where it may listen.

use std::net::TcpListener;
use std::process::Output;

use crate::node::{Node, up_command, up_command_on};

const TOKEN: &str = "a-token-that-nobody-guesses";

fn refused(folder: &std::path::Path, listen: &str, token: Option<&str>) -> Output {
    let mut command = up_command_on(folder, listen);
    if let Some(token) = token {
        command.env("KINTSUGI_HTTP_TOKEN", token);
    }
    command.output().unwrap()
}

fn check(output: &Output, status: i32, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
    assert!(output.stdout.is_empty());
}

#[test]
fn an_address_that_others_reach_needs_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let told = refused(folder.path(), "0.0.0.0:0", None);
    check(&told, 2, &["0.0.0.0:0", "KINTSUGI_HTTP_TOKEN", "token_file"]);
    for short in ["short", "with spaces in the middle of it"] {
        check(&refused(folder.path(), "127.0.0.1:0", Some(short)), 2, &["holds no token"]);
    }
    check(&refused(folder.path(), "nowhere", None), 2, &["nowhere", "HOST:PORT"]);
    assert!(!folder.path().join("data").exists(), "a start that is refused leaves nothing");
}

#[test]
fn a_node_with_a_token_answers_those_who_know_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let start = |token| Node::spawn(up_command(folder.path()).env("KINTSUGI_HTTP__TOKEN_FILE", &file), token);
    let node = start(None);
    for path in ["/v1/agents", "/v1/goals/x", "/v1/events", "/metrics", "/openapi.json", "/nowhere"] {
        let answer = node.get(path);
        answer.is_problem(401, None);
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        let wrong = format!("Bearer {TOKEN}x");
        node.get_with(path, &[("authorization", &wrong)]).is_problem(401, None);
    }
    node.post("/v1/goals", "{\"text\":\"hello\"}").is_problem(401, None);
    assert_eq!(node.get("/healthz").status, 200);
    assert_eq!(node.get("/readyz").status, 200);
    drop(node);
    let node = start(Some(TOKEN));
    assert_eq!(node.get("/v1/agents").status, 200);
    // Whoever knows the token may come by any name.
    assert_eq!(node.get_with("/v1/agents", &[("host", "node.example.com")]).status, 200);
    assert_eq!(node.post("/v1/goals", "{\"text\":\"hello\"}").status, 202);
}

#[test]
fn a_page_that_asks_under_a_foreign_name_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path());
    node.get_with("/v1/agents", &[("host", "evil.example.com")]).is_problem(421, None);
    assert_eq!(node.get_with("/v1/agents", &[("host", "localhost:7878")]).status, 200);
    assert_eq!(node.get_with("/v1/agents", &[("host", "[::1]:7878")]).status, 200);
}

#[test]
fn a_port_that_is_taken_is_told_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    check(&refused(folder.path(), &address, None), 3, &[&address, "another program has it", "--listen"]);
}

#[test]
fn a_second_node_on_the_same_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let _node = Node::start(folder.path());
    check(&refused(folder.path(), "127.0.0.1:0", None), 3, &["data/log", "in use by"]);
}
