//! Server-sent events: a client that is cut off goes on where it was.

use std::collections::BTreeSet;
use std::io::BufRead;
use std::time::Instant;

use serde_json::{Value, json};

use crate::node::{Node, PATIENCE, example_goals};

/// The events of a stream, each with its id.
pub(crate) struct Events {
    reader: Box<dyn BufRead>,
    begun: Instant,
    /// The id that the stream named last, with an event or without.
    pub(crate) last_id: Option<u64>,
}

impl Events {
    pub(crate) fn new(reader: Box<dyn BufRead>) -> Self {
        Self { reader, begun: Instant::now(), last_id: None }
    }
}

impl Iterator for Events {
    type Item = (u64, Value);

    fn next(&mut self) -> Option<Self::Item> {
        let mut data = None;
        loop {
            // A stream without news sends signs of life, so this is looked at again and again.
            assert!(self.begun.elapsed() < PATIENCE, "the stream brought nothing for too long");
            let mut line = String::new();
            if self.reader.read_line(&mut line).unwrap_or(0) == 0 {
                return None;
            }
            let line = line.trim_end();
            if let Some(id) = line.strip_prefix("id: ") {
                self.last_id = Some(id.parse().unwrap());
            } else if let Some(text) = line.strip_prefix("data: ") {
                data = Some(serde_json::from_str(text).unwrap());
            } else if line.is_empty()
                && let Some(data) = data.take()
            {
                return Some((self.last_id.unwrap(), data));
            }
        }
    }
}

#[test]
fn a_stream_that_is_cut_goes_on_without_gap_or_repeat() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path());
    let query = "topics=goals,agents,results&from=beginning";
    let mut seen = Vec::new();
    // The client loses its connection after each few events, while goals are published and worked.
    for goal in example_goals(8) {
        node.publish(&goal);
        let mut stream = node.events(query, seen.last().map(|(id, _)| *id));
        seen.extend(stream.by_ref().take(5));
    }
    let goals: BTreeSet<String> =
        example_goals(8).iter().map(|goal| goal["id"].as_str().unwrap().to_owned()).collect();
    node.wait_for(&goals.iter().cloned().collect::<Vec<_>>());
    let last_seen = seen.last().map(|(id, _)| *id);
    let is_end = |(_, event): &(u64, Value)| event["type"].as_str().unwrap().contains("goal.ended");
    let mut ended = seen.iter().filter(|event| is_end(event)).count();
    for event in node.events(query, last_seen) {
        ended += usize::from(is_end(&event));
        seen.push(event);
        if ended == goals.len() {
            break;
        }
    }
    let whole: Vec<(u64, Value)> = node.events(query, None).take(seen.len()).collect();
    assert_eq!(seen, whole);
    assert!(seen.is_sorted_by(|(one, _), (next, _)| one < next));
    for (_, event) in &seen {
        assert_eq!(event["specversion"], "1.0");
        assert!(event["offset"].is_u64() && event["partition"].is_u64(), "{event}");
    }
}

#[test]
fn a_stream_begins_now_and_ends_when_the_node_stops() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path());
    let first = node.publish(&json!({"text": "hello"}));
    node.wait_for(std::slice::from_ref(&first));
    let mut stream = node.events("topics=goals", None);
    let second = node.publish(&json!({"text": "hello again"}));
    let (_, event) = stream.next().unwrap();
    assert_eq!(event["data"]["id"], second.as_str());
    let (status, _) = node.signal("TERM");
    assert_eq!(status, Some(0));
    assert!(stream.next().is_none());
}

#[test]
fn what_is_wrong_with_a_stream_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path());
    node.get("/v1/events?topics=gaols").is_problem(400, Some("topics"));
    node.get("/v1/events?from=yesterday").is_problem(400, Some("from"));
    node.get("/v1/events?topic=goals").is_problem(400, Some("query"));
    for id in ["999999", "first", "-1", "18446744073709551615"] {
        node.get_with("/v1/events", &[("last-event-id", id)]).is_problem(400, Some("Last-Event-ID"));
    }
}

#[test]
fn there_are_no_more_streams_than_the_settings_say() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = crate::node::up_command(folder.path());
    let node = Node::spawn(command.env("KINTSUGI_HTTP__STREAMS_MAX", "2"), None);
    let streams = [node.events("", None), node.events("", None)];
    let refused = node.get("/v1/events");
    refused.is_problem(503, None);
    assert!(refused.headers.contains_key("retry-after"));
    drop(streams);
    // The node sees that a client is gone when it writes to it.
    let begun = Instant::now();
    loop {
        node.publish(&json!({"text": "hello"}));
        let metrics = node.get("/metrics").text;
        if metrics.contains("kintsugi_http_event_streams 0") {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "the streams stay open");
    }
    let _again = node.events("", None);
}
