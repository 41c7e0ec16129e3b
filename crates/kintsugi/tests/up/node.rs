//! A node that a test starts, asks and ends.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use ureq::Agent;

use crate::common::{example, kintsugi};

/// Far longer than anything takes, even where other programs have the machine.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// A running node. It is killed with the test, however that ends.
pub(crate) struct Node {
    child: Child,
    /// What it said of itself when it was up.
    pub(crate) said: Value,
    agent: Agent,
    token: Option<String>,
}

/// An answer of a node.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn document(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// It is this problem, as a problem document.
    pub(crate) fn is_problem(&self, status: u16, field: Option<&str>) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let document = self.document();
        assert_eq!(document["status"], status);
        assert!(document["type"].as_str().unwrap().starts_with("urn:kintsugi:problem:"));
        assert!(!document["title"].as_str().unwrap().is_empty());
        assert!(!document["detail"].as_str().unwrap().is_empty());
        assert_eq!(document["field"].as_str(), field, "{document}");
    }
}

/// The command that serves the shipped example from `folder/data` on a free port.
pub(crate) fn up_command(folder: &Path) -> Command {
    up_command_on(folder, "127.0.0.1:0")
}

/// The same at this address.
pub(crate) fn up_command_on(folder: &Path, listen: &str) -> Command {
    let mut command = kintsugi(&["up"]);
    command.arg(example()).args(["--data-dir", "data", "--listen", listen, "--format", "json"]);
    command.current_dir(folder).env_remove("KINTSUGI_HTTP_TOKEN");
    command
}

impl Node {
    pub(crate) fn start(folder: &Path) -> Self {
        Self::spawn(&mut up_command(folder), None)
    }

    /// Starts a node and returns when it takes goals.
    pub(crate) fn spawn(command: &mut Command, token: Option<&str>) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line.is_empty() {
            let output = child.wait_with_output().unwrap();
            panic!("the node did not start: {}", String::from_utf8_lossy(&output.stderr));
        }
        let agent = Agent::config_builder().http_status_as_error(false).build().into();
        Self { child, said: serde_json::from_str(&line).unwrap(), agent, token: token.map(str::to_owned) }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn url(&self) -> &str {
        self.said["url"].as_str().unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.get_with(path, &[])
    }

    pub(crate) fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = self.agent.get(format!("{}{path}", self.url()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        read(request.call().unwrap())
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> Answer {
        self.post_as("application/json", path, body)
    }

    pub(crate) fn post_as(&self, media_type: &str, path: &str, body: &str) -> Answer {
        let mut request = self.agent.post(format!("{}{path}", self.url())).header("content-type", media_type);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        read(request.send(body).unwrap())
    }

    /// Publishes a goal that has to be taken, and returns its id.
    pub(crate) fn publish(&self, body: &Value) -> String {
        let answer = self.post("/v1/goals", &body.to_string());
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.document()["id"].as_str().unwrap().to_owned()
    }

    /// Opens an event stream.
    pub(crate) fn events(&self, query: &str, last_event_id: Option<u64>) -> crate::events::Events {
        let mut request = self.agent.get(format!("{}/v1/events?{query}", self.url()));
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id.to_string());
        }
        let response = request.call().unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        crate::events::Events::new(Box::new(BufReader::new(response.into_body().into_reader())))
    }

    /// Waits until each of these goals has ended.
    pub(crate) fn wait_for(&self, goals: &[String]) {
        let mut open: Vec<&String> = goals.iter().collect();
        for (_, event) in self.events("topics=results&from=beginning", None) {
            open.retain(|id| event["data"]["goal"] != id.as_str());
            if open.is_empty() {
                return;
            }
        }
        panic!("the stream ended before the goals {open:?}");
    }

    /// Ends the node by a signal, and returns its status and what it said.
    pub(crate) fn signal(mut self, name: &str) -> (Option<i32>, String) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let mut said = String::new();
        std::io::Read::read_to_string(&mut self.child.stderr.take().unwrap(), &mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }

    /// What the node says from now on, line by line. It can be killed after this, and no longer be asked to end.
    pub(crate) fn says(&mut self) -> impl Iterator<Item = String> + use<> {
        BufReader::new(self.child.stderr.take().unwrap()).lines().map(Result::unwrap)
    }

    /// Kills the node: it gets no time for anything.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(mut response: ureq::http::Response<ureq::Body>) -> Answer {
    let headers = response
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    let status = response.status().as_u16();
    Answer { status, headers, text: response.body_mut().read_to_string().unwrap() }
}

/// The example's goals, in order.
pub(crate) fn example_goals(count: usize) -> Vec<Value> {
    let file: PathBuf = example().join("goals.jsonl");
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().take(count).map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The command ended with this status and said these words.
pub(crate) fn refused(output: &Output, status: i32, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
}

/// What a document is made of: its members with the types of their values.
pub(crate) fn shape(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            members.iter().map(|(name, member)| (name.clone(), shape(member))).collect()
        }
        Value::Array(items) => Value::Array(items.first().map(shape).into_iter().collect()),
        Value::String(_) => "text".into(),
        Value::Number(_) => "number".into(),
        Value::Bool(_) => "flag".into(),
        Value::Null => Value::Null,
    }
}

/// The same, but for what differs from run to run at these places.
pub(crate) fn shape_but(value: &Value, places: &[&str]) -> Value {
    let mut shape = shape(value);
    for place in places {
        *shape.pointer_mut(place).unwrap() = "varies".into();
    }
    shape
}
