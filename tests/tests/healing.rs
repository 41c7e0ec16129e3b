//! The loop once around: a tool fails, and is retried with back-off, or its breaker opens, half-opens and closes; the
//! whole way stands in the log.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kintsugi_agent::{Command, Effect};
use kintsugi_eventlog::embedded::Options;
use kintsugi_eventlog::{EmbeddedLog, LogReader as _};
use kintsugi_events::{Goal, GoalStatus, Mode, Payload, RecoveryAction, RecoveryPhase};
use kintsugi_recover::PolicySet;
use kintsugi_runtime::config::CommandProbe;
use kintsugi_runtime::node::Part;
use kintsugi_runtime::{Node, SharedPolicies};
use kintsugi_tests::audit::Audit;
use kintsugi_tests::counting_server::{Behaviour, CountingServer};
use kintsugi_tests::scripted_node::{Wiring, goals, goals_from, ledger, parts, prepare};
use kintsugi_types::AgentId;

/// The longest that any scenario may take.
const PATIENCE: Duration = Duration::from_mins(2);

/// Works `count` goals against a server that behaves as told, with `during` called again and again meanwhile.
fn work(
    count: usize,
    behaviour: Behaviour,
    wiring: Wiring,
    during: &mut dyn FnMut(&Node),
) -> (Audit, CountingServer) {
    work_beginning_with(count, count, behaviour, wiring, during)
}

/// The same, where only the first `first` of the goals are there at once, and `during` publishes the others.
fn work_beginning_with(
    first: usize,
    count: usize,
    behaviour: Behaviour,
    wiring: Wiring,
    during: &mut dyn FnMut(&Node),
) -> (Audit, CountingServer) {
    let folder = tempfile::tempdir().unwrap();
    let server = CountingServer::start(behaviour).unwrap();
    prepare(folder.path(), &server.url()).unwrap();
    let log = Arc::new(EmbeddedLog::open(folder.path().join("log"), Options::default()).unwrap());
    let node = Node::start(parts(folder.path(), log.clone(), wiring).unwrap()).unwrap();
    node.publish(&goals(first).unwrap()).unwrap();
    let begun = Instant::now();
    while node.status().goals_settled() < count as u64 {
        assert!(!node.has_ended(), "the node ended by itself");
        assert!(begun.elapsed() < PATIENCE, "{:?}", Audit::of(log.as_ref()).unwrap());
        during(&node);
        std::thread::park_timeout(Duration::from_millis(1));
    }
    assert_eq!(node.invariants().total(), 0);
    node.stop();
    let audit = Audit::of(log.as_ref()).unwrap();
    assert_eq!(audit.contradictions, Vec::<String>::new());
    assert_eq!((audit.goals.len(), audit.open_goals()), (count, 0));
    assert!(server.acts().values().all(|acts| *acts == 1), "{:?}", server.acts());
    assert!(ledger(folder.path()).unwrap().values().all(|rows| *rows == 1));
    (audit, server)
}

fn completed(audit: &Audit) -> usize {
    audit.goals.values().flatten().filter(|result| result.status == GoalStatus::Completed).count()
}

fn fine() -> (u16, String) {
    (200, r#"{"charged":true}"#.to_owned())
}

#[test]
fn a_tool_that_fails_for_a_moment_is_retried_with_backoff() {
    let behaviour: Behaviour = Arc::new(|n| if n < 2 { (503, "{}".to_owned()) } else { fine() });
    let (audit, server) = work(1, behaviour, Wiring::default(), &mut |_| {});
    assert_eq!(completed(&audit), 1);
    assert_eq!(server.acts().len(), 1);
    assert!(audit.healed.get("retry_with_backoff").is_some_and(|healed| *healed >= 1), "{:?}", audit.healed);
    assert!(audit.anomalies.values().all(|is_ended| *is_ended), "an anomaly came to no end");
}

#[test]
fn a_tool_that_is_down_gets_a_breaker_that_opens_and_closes_again() {
    // Each of six agents meets the outage. If one of them makes every probe, it still has tries left at its end.
    let behaviour: Behaviour = Arc::new(|n| if n < 9 { (503, "{}".to_owned()) } else { fine() });
    let (audit, server) = work(6, behaviour, Wiring::default(), &mut |_| {});
    assert_eq!(completed(&audit), 6);
    assert_eq!(server.acts().len(), 6);
    assert!(audit.healed.contains_key("circuit_breaker"), "{:?}", audit.healed);
}

#[test]
fn a_node_that_only_watches_plans_and_does_nothing() {
    for mode in [Mode::Observe, Mode::Recommend] {
        let behaviour: Behaviour = Arc::new(|n| if n < 4 { (503, "{}".to_owned()) } else { fine() });
        let (audit, _) = work(2, behaviour, Wiring { mode, ..Wiring::default() }, &mut |_| {});
        // The agents help themselves.
        assert_eq!(completed(&audit), 2, "{mode:?}");
        assert!(!audit.recoveries.is_empty(), "{mode:?}: nothing was planned");
        let is_abandoned = |phase: &RecoveryPhase| *phase == RecoveryPhase::Abandoned;
        assert!(audit.recoveries.values().all(is_abandoned), "{mode:?}: {:?}", audit.recoveries);
        assert!(audit.healed.is_empty(), "{mode:?}: {:?}", audit.healed);
    }
}

#[test]
fn a_tool_that_stays_down_ends_its_goals_with_a_reason() {
    let behaviour: Behaviour = Arc::new(|_| (401, r#"{"error":"no"}"#.to_owned()));
    let (audit, _) = work(2, behaviour, Wiring::default(), &mut |_| {});
    for result in audit.goals.values().flatten() {
        assert_eq!(result.status, GoalStatus::Partial);
        assert!(result.reason.as_ref().unwrap().contains("401"), "{:?}", result.reason);
    }
}

#[test]
fn an_answer_of_twenty_megabytes_is_cut_and_the_goal_goes_on() {
    let flood = format!("\"{}\"", "x".repeat(20 << 20));
    let behaviour: Behaviour = Arc::new(move |_| (200, flood.clone()));
    let (audit, _) = work(2, behaviour, Wiring::default(), &mut |_| {});
    assert_eq!(completed(&audit), 2);
}

#[test]
fn a_part_that_panics_is_started_again_from_the_log() {
    // Goals come in portions, each but the first once a part was broken in the midst of the one before: the run is not
    // over before every part was.
    const PORTION: usize = 8;
    let mut parts = [Part::Monitor, Part::Diagnose, Part::Recover, Part::Partition].into_iter();
    let behaviour: Behaviour = Arc::new(|n| if n % 5 == 0 { (503, "{}".to_owned()) } else { fine() });
    let mut published = PORTION;
    // A recovery that was on its way to an agent when a part died may come too late for it: the agent helps itself.
    let wiring = Wiring { park_ms: Some(1_000), ..Wiring::default() };
    let (audit, _) = work_beginning_with(PORTION, 5 * PORTION, behaviour, wiring, &mut |node| {
        let is_in_the_midst = node.status().goals_ended() >= (published - PORTION / 2) as u64;
        if is_in_the_midst && let Some(part) = parts.next() {
            node.break_part(part);
            node.publish(&goals_from(published + 1, PORTION).unwrap()).unwrap();
            published += PORTION;
        }
    });
    assert_eq!(parts.next(), None, "not every part was broken");
    // A call that was under way when the partition died comes back to the next one.
    let others: Vec<_> =
        audit.goals.values().flatten().filter(|result| result.status != GoalStatus::Completed).collect();
    assert!(others.is_empty(), "{others:?}");
}

#[test]
fn a_node_that_is_stopped_leaves_its_agents_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let server = CountingServer::start(Arc::new(|_| fine())).unwrap();
    prepare(folder.path(), &server.url()).unwrap();
    let log = Arc::new(EmbeddedLog::open(folder.path().join("log"), Options::default()).unwrap());
    let begun = Instant::now();
    for start in 1..=4 {
        let node = Node::start(parts(folder.path(), log.clone(), Wiring::default()).unwrap()).unwrap();
        if start == 1 {
            node.publish(&goals(200).unwrap()).unwrap();
        }
        while node.status().goals_ended() < 10 {
            assert!(begun.elapsed() < PATIENCE, "start {start} does not get on");
            std::thread::park_timeout(Duration::from_millis(1));
        }
        node.stop();
    }
    // A failure that the stop itself made would use up tries, and park agents that nobody then mends.
    let mut failed = Vec::new();
    log.replay(log.start_lsn(), &mut |record| {
        if record.event_type.contains("thought.failed") {
            failed.push(record.lsn);
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(failed, []);
}

#[test]
fn a_call_that_waits_before_a_closed_gate_is_not_made_for_a_goal_that_ended_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let behaviour: Behaviour = Arc::new(|n| if n < 3 { (503, "{}".to_owned()) } else { fine() });
    let server = CountingServer::start(behaviour).unwrap();
    prepare(folder.path(), &server.url()).unwrap();
    let log = Arc::new(EmbeddedLog::open(folder.path().join("log"), Options::default()).unwrap());
    let before_decide = Some(CommandProbe(Arc::new(|_, command| {
        let Command::AcceptGoal { goal } = command else { return };
        assert!(goal.id.as_ref().unwrap().as_str() != "goal-3", "made to panic");
    })));
    let mut parts = parts(folder.path(), log.clone(), Wiring { before_decide, ..Wiring::default() }).unwrap();
    // So long that the gate stays closed until both goals behind it have ended, and within the recovery's deadline.
    let policies = include_str!("../../crates/recover/tests/short.yaml")
        .replace("half_open_ms: 300, open_ms: 1500", "half_open_ms: 15000, open_ms: 20000");
    parts.config.policies = SharedPolicies::new(Arc::new(PolicySet::parse(&policies, "short.yaml").unwrap()));
    let node = Node::start(parts).unwrap();
    let goals = goals(3).unwrap();
    let to = |number: usize, agent: &str| {
        let agent = Some(AgentId::new(agent).unwrap());
        node.publish(&[Goal { agent, ..goals[number - 1].clone() }]).unwrap();
    };
    let wait = |what: &str, is_over: &dyn Fn(&Audit) -> bool| {
        let begun = Instant::now();
        loop {
            let audit = Audit::of(log.as_ref()).unwrap();
            if is_over(&audit) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{what}: {audit:?}");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    };
    let is_acting = |audit: &Audit| {
        let held = audit.agents.values().find(|agent| agent.agent.as_str() == "clerk-1");
        held.is_some_and(|agent| matches!(agent.open_effect(), Some(Effect::Call(_))))
    };
    to(1, "clerk-0");
    wait("closed", &|_| is_closed(&log));
    to(2, "clerk-1");
    wait("held", &is_acting);
    to(3, "clerk-1");
    wait("ended", &|audit| audit.open_goals() == 0);
    node.stop();
    let audit = Audit::of(log.as_ref()).unwrap();
    let status = |number: usize| audit.goals[goals[number - 1].id.as_ref().unwrap()][0].status;
    assert_eq!([1, 2, 3].map(status), [GoalStatus::Completed, GoalStatus::Failed, GoalStatus::Failed]);
    assert_eq!(server.acts().keys().collect::<Vec<_>>(), ["/charge/1"]);
}

/// Whether a gate was ever closed.
fn is_closed(log: &EmbeddedLog) -> bool {
    let mut is_closed = false;
    log.replay(log.start_lsn(), &mut |record| {
        if let Payload::Recovery(recovery) = record.to_event().unwrap().payload {
            is_closed |= recovery.action == RecoveryAction::CircuitBreaker
                && recovery.phase == RecoveryPhase::Started
                && recovery.agent.agent().is_none();
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    is_closed
}
