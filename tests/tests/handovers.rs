//! Goals that change hands and agents that take none: nothing is lost, and nobody is asked in vain.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kintsugi_eventlog::embedded::Options;
use kintsugi_eventlog::{Append, EmbeddedLog, EventLog as _, LogReader as _, NewRecord};
use kintsugi_events::{
    Envelope, Event, Goal, GoalResult, GoalStatus, HandedCall, Handover, Payload, Subject, Topic,
};
use kintsugi_runtime::LanePlace;
use kintsugi_runtime::Node;
use kintsugi_runtime::config::CommandProbe;
use kintsugi_tests::audit::Audit;
use kintsugi_tests::counting_server::CountingServer;
use kintsugi_tests::scripted_node::{Wiring, answer, goals, parts_with, prepare, tools};
use kintsugi_types::{
    AgentId, AgentKind, Clock as _, EffectId, SystemClock, SystemIds, TokenUsage, ToolName,
};
use serde_json::json;

const PATIENCE: Duration = Duration::from_mins(1);

fn server() -> CountingServer {
    CountingServer::start(Arc::new(|_| (200, r#"{"charged":true}"#.to_owned()))).unwrap()
}

fn log_in(folder: &Path) -> Arc<EmbeddedLog> {
    Arc::new(EmbeddedLog::open(folder.join("log"), Options::default()).unwrap())
}

fn start(folder: &Path, log: &Arc<EmbeddedLog>, agents: u32, before_decide: Option<CommandProbe>) -> Node {
    let wiring = Wiring { before_decide, ..Wiring::default() };
    Node::start(parts_with(folder, log.clone(), tools(folder).unwrap(), agents, answer, wiring).unwrap())
        .unwrap()
}

/// Waits until so many goals are settled in this process.
fn settle(node: &Node, count: u64) {
    let begun = Instant::now();
    while node.status().goals_settled() < count {
        assert!(!node.has_ended(), "the node ended by itself: {:?}", node.status());
        assert!(begun.elapsed() < PATIENCE, "{:?}", node.status());
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

fn audited(node: Node, log: &EmbeddedLog) -> Audit {
    assert_eq!(node.status().goals_refused, 0);
    assert_eq!(node.invariants().total(), 0);
    node.stop();
    let audit = Audit::of(log).unwrap();
    assert_eq!((&audit.contradictions, audit.open_goals()), (&Vec::<String>::new(), 0));
    audit
}

/// Who answers each goal, in order of the goals' numbers.
fn result(audit: &Audit, number: usize) -> &GoalResult {
    let [result] = &audit.goals.iter().find(|(id, _)| id.as_str() == format!("goal-{number}")).unwrap().1[..]
    else {
        panic!("goal-{number} has another number of results")
    };
    result
}

fn named(mut goal: Goal, agent: &str) -> Goal {
    goal.agent = Some(AgentId::new(agent).unwrap());
    goal
}

#[test]
fn a_goal_that_is_handed_over_ends_however_large_it_grew_and_whoever_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let server = server();
    prepare(folder.path(), &server.url()).unwrap();
    let log = log_in(folder.path());
    let node = start(folder.path(), &log, 2, None);
    let call = HandedCall {
        effect: EffectId::new(&mut SystemIds),
        tool: ToolName::new("charge").unwrap(),
        args: json!({}),
        ok: false,
        write: false,
        output: "x".repeat(300 * 1024).into(),
        unsure: false,
    };
    let handover = Handover {
        epoch: 1,
        from: AgentId::new("clerk-0").unwrap(),
        reason: "test".to_owned(),
        started_at: None,
        steps: 3,
        tokens: TokenUsage { prompt: 7, ..TokenUsage::default() },
        seams: 1,
        calls: vec![call],
    };
    let mut handed = goals(2).unwrap();
    for goal in &mut handed {
        goal.handover = Some(Box::new(handover.clone()));
    }
    // Nobody can take this one.
    handed[1].kind = Some(AgentKind::new("nobody").unwrap());
    let records = handed.iter().map(|goal| {
        let subject = Subject::Agent(AgentId::new("clerk-0").unwrap());
        let source = "/kintsugi/agents/clerk".into();
        let envelope = Envelope::new(&mut SystemIds, source, subject, SystemClock.now());
        let event = Event { envelope, payload: Payload::Goal(Box::new(goal.clone())) };
        NewRecord::from_event(&event, LanePlace::ONLY.number).unwrap()
    });
    log.append_wait(&Append { records: records.collect(), positions: Vec::new() }).unwrap();
    node.publish(&[]).unwrap();
    settle(&node, 2);
    let audit = audited(node, &log);
    assert_eq!(result(&audit, 1).status, GoalStatus::Completed, "{:?}", result(&audit, 1).reason);
    assert_eq!(result(&audit, 1).agent.as_str(), "clerk-1");
    let refused = result(&audit, 2);
    assert_eq!(
        (refused.status, refused.steps, refused.tokens.prompt, refused.seams),
        (GoalStatus::Failed, 3, 7, 1)
    );
    assert_eq!(refused.actions.len(), 1);
    assert!(
        audit.dead_letters.iter().any(|reason| reason.contains("no kind of agent")),
        "{:?}",
        audit.dead_letters
    );
}

#[test]
fn who_takes_no_work_gets_none_after_a_restart_either() {
    let folder = tempfile::tempdir().unwrap();
    let server = server();
    prepare(folder.path(), &server.url()).unwrap();
    let log = log_in(folder.path());
    let goals = goals(12).unwrap();
    let breaks = CommandProbe(Arc::new(|id, command| {
        assert!(id.as_str() != "clerk-0" || command.name() != "start_goal", "made to panic");
    }));
    let node = start(folder.path(), &log, 3, Some(breaks));
    node.publish(&[named(goals[0].clone(), "clerk-0")]).unwrap();
    settle(&node, 1);
    let audit = audited(node, &log);
    assert_eq!(result(&audit, 1).status, GoalStatus::Failed);
    assert!(audit.agents.values().next().unwrap().quarantined.is_some());

    let node = start(folder.path(), &log, 3, None);
    node.publish(&goals[1..6]).unwrap();
    settle(&node, 5);
    // To name it does not make it look idle.
    let mut last = goals[6..].to_vec();
    last[0] = named(last[0].clone(), "clerk-0");
    node.publish(&last).unwrap();
    settle(&node, 11);
    let audit = audited(node, &log);
    for number in (2..=6).chain(8..=12) {
        let result = result(&audit, number);
        assert_eq!(result.status, GoalStatus::Completed, "{:?}", result.reason);
        assert_ne!(result.agent.as_str(), "clerk-0");
    }
    assert_eq!(result(&audit, 7).status, GoalStatus::Failed);
    let mut published = 0;
    log.replay(log.start_lsn(), &mut |record| {
        published += usize::from(record.topic == Topic::Goals);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(published, goals.len(), "a goal went there that did not name it, and was handed on");
}

#[test]
fn an_agent_that_can_neither_work_nor_be_given_up_stops_the_node_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let server = server();
    prepare(folder.path(), &server.url()).unwrap();
    let log = log_in(folder.path());
    let breaks = CommandProbe(Arc::new(|id, command| {
        let is_meant = ["think_done", "quarantine"].contains(&command.name());
        assert!(id.as_str() != "clerk-0" || !is_meant, "made to panic");
    }));
    let node = start(folder.path(), &log, 2, Some(breaks));
    node.publish(&[named(goals(1).unwrap().remove(0), "clerk-0")]).unwrap();
    let begun = Instant::now();
    while !node.has_ended() {
        assert!(begun.elapsed() < PATIENCE, "{:?}", node.status());
        std::thread::park_timeout(Duration::from_millis(1));
    }
    let reason = node.status().log_failure.unwrap();
    assert!(reason.contains("clerk-0 has goals and is broken"), "{reason}");
}
