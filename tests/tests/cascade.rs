//! The cascade at work: a model that answers nonsense until a remedy changes what it is asked.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use kintsugi_agent::prompt::{Action, decision_text};
use kintsugi_eventlog::EmbeddedLog;
use kintsugi_eventlog::embedded::Options;
use kintsugi_events::{GoalStatus, HealthState};
use kintsugi_runtime::Node;
use kintsugi_runtime::node::Part;
use kintsugi_tests::audit::Audit;
use kintsugi_tests::counting_server::CountingServer;
use kintsugi_tests::scripted_node::{Wiring, answer, goals, ledger, parts_with, prepare, tools, work};
use kintsugi_types::{CompletionRequest, Grammar, Role};

const PATIENCE: Duration = Duration::from_mins(2);
const AGENTS: u32 = 6;
const GOALS: usize = 12;
const GOALS_HEALED: u64 = 12;
const ORDINARY_ANSWER_TOKENS: u32 = 160;

/// What has to change before the model answers sensibly.
type Cure = fn(&CompletionRequest) -> bool;

fn is_light(request: &CompletionRequest) -> bool {
    request.tokens_max < ORDINARY_ANSWER_TOKENS
}

/// Another agent's prompt begins with what the one before it did.
fn is_handed_over(request: &CompletionRequest) -> bool {
    let mut after_goal = request.messages.iter().skip_while(|message| message.role != Role::User).skip(1);
    after_goal.next().is_some_and(|message| message.role == Role::Tool)
}

fn is_without_tools(request: &CompletionRequest) -> bool {
    matches!(&request.grammar, Grammar::JsonSchema(schema) if !schema.contains("charge"))
}

/// Charges; then talks nonsense until it is cured, and goes on where it was.
fn ill_after_charging(request: &CompletionRequest, cure: Cure) -> String {
    let has_charged = request.messages.iter().any(|message| message.role == Role::Tool);
    if has_charged && !cure(request) {
        return "nonsense".to_owned();
    }
    if is_without_tools(request) {
        return decision_text("no tools", &Action::Finish { answer: "ask us again later".to_owned() });
    }
    let mut cured = request.clone();
    // The script counts what it said; what another agent said counts too.
    if is_handed_over(request) {
        let said = kintsugi_types::Message::new(Role::Assistant, "charged before");
        cured.messages.insert(2, said);
    }
    answer(&cured)
}

fn work_until_cured(cure: Cure, during: &mut dyn FnMut(&Node) -> bool) -> (Audit, CountingServer) {
    let folder = tempfile::tempdir().unwrap();
    let server = CountingServer::start(Arc::new(|_| (200, r#"{"charged":true}"#.to_owned()))).unwrap();
    prepare(folder.path(), &server.url()).unwrap();
    let log = Arc::new(EmbeddedLog::open(folder.path().join("log"), Options::default()).unwrap());
    let wiring = Wiring { without_policies: true, park_ms: Some(2_000), ..Wiring::default() };
    let answer = move |request: &CompletionRequest| ill_after_charging(request, cure);
    let parts =
        parts_with(folder.path(), log, tools(folder.path()).unwrap(), AGENTS, answer, wiring).unwrap();
    let audit = work(parts, &goals(GOALS).unwrap(), PATIENCE, during).unwrap();
    assert!(ledger(folder.path()).unwrap().values().all(|count| *count == 1), "something was done twice");
    (audit, server)
}

fn completed(audit: &Audit) -> usize {
    audit.goals.values().flatten().filter(|result| result.status == GoalStatus::Completed).count()
}

fn healed(audit: &Audit, action: &str) -> u64 {
    audit.healed.get(action).copied().unwrap_or(0)
}

#[test]
fn a_lighter_model_helps_who_has_too_much_to_say() {
    let (audit, _server) = work_until_cured(is_light, &mut |_| true);
    assert_eq!(completed(&audit), GOALS, "{:?}", audit.goals);
    assert_eq!(healed(&audit, "model_downshift"), GOALS_HEALED, "{:?}", audit.healed);
}

#[test]
fn another_agent_goes_on_with_what_was_done_and_repeats_nothing() {
    let (audit, server) = work_until_cured(is_handed_over, &mut |_| true);
    assert_eq!(completed(&audit), GOALS, "{:?}", audit.goals);
    assert_eq!(healed(&audit, "agent_redistribute"), GOALS_HEALED, "{:?}", audit.healed);
    assert_eq!(server.acts().values().sum::<usize>(), GOALS, "a charge was made twice");
    for result in audit.goals.values().flatten() {
        let tools: Vec<_> = result.actions.iter().map(|action| action.tool.as_str()).collect();
        assert_eq!(tools, ["charge", "record"], "the result tells what both agents did");
    }
}

#[test]
fn a_partition_that_dies_during_handovers_loses_and_repeats_nothing() {
    let mut deaths = 0;
    let (audit, server) = work_until_cured(is_handed_over, &mut |node| {
        let ended = node.status().goals_settled();
        if deaths < 3 && ended >= deaths * 3 {
            deaths += 1;
            node.break_part(Part::Partition);
        }
        deaths == 3
    });
    assert_eq!(completed(&audit), GOALS, "{:?}", audit.goals);
    assert_eq!(server.acts().values().sum::<usize>(), GOALS, "a charge was made twice");
}

#[test]
fn simple_replies_end_a_goal_that_no_tool_can_end() {
    let (audit, _server) = work_until_cured(is_without_tools, &mut |_| true);
    assert_eq!(completed(&audit), GOALS, "{:?}", audit.goals);
    assert_eq!(healed(&audit, "degrade_gracefully"), GOALS_HEALED, "{:?}", audit.healed);
}

#[test]
fn whom_nothing_helps_is_given_up_last_and_its_goals_go_elsewhere() {
    let (audit, _server) = work_until_cured(|_| false, &mut |_| true);
    assert_eq!(completed(&audit), 0);
    assert!(healed(&audit, "notify_human") > 0, "{:?}", audit.healed);
    for result in audit.goals.values().flatten() {
        assert!(result.reason.is_some(), "{result:?}");
        // Who could hand all of its goals on may have come to no end yet.
        let ended_by = &audit.agents[&result.agent];
        assert_eq!(ended_by.health_state, HealthState::Failed, "{result:?}");
    }
}
