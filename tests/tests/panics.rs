//! An agent is made to panic at every kind of command, once and always: it heals, or it ends with a reason, and
//! nobody else is harmed.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kintsugi_eventlog::EmbeddedLog;
use kintsugi_eventlog::embedded::Options;
use kintsugi_events::{GoalStatus, RecoveryPhase};
use kintsugi_runtime::config::CommandProbe;
use kintsugi_tests::audit::Audit;
use kintsugi_tests::counting_server::CountingServer;
use kintsugi_tests::scripted_node::{Wiring, goals, parts, prepare, work};

const GOALS: usize = 12;

const PATIENCE: Duration = Duration::from_mins(1);

/// Commands that a scripted goal whose tool fails at first gives rise to.
const KINDS: [&str; 6] = ["accept_goal", "start_goal", "think_done", "action_done", "recover", "timer_due"];

/// Works the goals while an agent panics at commands of `kind`, the first `times` times.
fn work_with_panics(kind: &'static str, agent: Option<&'static str>, times: usize) -> Audit {
    let folder = tempfile::tempdir().unwrap();
    let server = CountingServer::start(Arc::new(|n| {
        if n < 2 { (503, "{}".to_owned()) } else { (200, r#"{"charged":true}"#.to_owned()) }
    }))
    .unwrap();
    prepare(folder.path(), &server.url()).unwrap();
    let log = Arc::new(EmbeddedLog::open(folder.path().join("log"), Options::default()).unwrap());
    let panics = Arc::new(AtomicUsize::new(0));
    let counted = panics.clone();
    let before_decide = Some(CommandProbe(Arc::new(move |id, command| {
        let is_meant = command.name() == kind && agent.is_none_or(|agent| agent == id.as_str());
        let is_time = is_meant && counted.fetch_add(1, Ordering::SeqCst) < times;
        assert!(!is_time, "made to panic at {kind}");
    })));
    let wiring = Wiring { before_decide, ..Wiring::default() };
    let parts = parts(folder.path(), log, wiring).unwrap();
    let audit = work(parts, &goals(GOALS).unwrap(), PATIENCE, &mut |_| true);
    let audit = audit.unwrap_or_else(|failure| panic!("{kind}: {failure:#}"));
    assert!(panics.load(Ordering::SeqCst) > 0, "{kind} never came");
    assert!(server.acts().values().all(|acts| *acts == 1), "{kind}: {:?}", server.acts());
    audit
}

#[test]
fn an_agent_that_panics_once_at_any_command_completes_its_goals() {
    for kind in KINDS {
        let audit = work_with_panics(kind, None, 1);
        for result in audit.goals.values().flatten() {
            assert_eq!(result.status, GoalStatus::Completed, "{kind}: {}: {:?}", result.goal, result.reason);
        }
    }
}

#[test]
fn an_agent_that_always_panics_is_quarantined_and_harms_no_other() {
    for kind in ["accept_goal", "start_goal", "think_done", "action_done"] {
        let audit = work_with_panics(kind, Some("clerk-0"), usize::MAX);
        for result in audit.goals.values().flatten() {
            let goal = &result.goal;
            if result.agent.as_str() == "clerk-0" {
                assert_eq!(result.status, GoalStatus::Failed, "{kind}: {goal}");
                assert!(result.reason.as_ref().unwrap().contains("killed the agent"), "{:?}", result.reason);
            } else {
                assert_eq!(result.status, GoalStatus::Completed, "{kind}: {goal}: {:?}", result.reason);
            }
        }
        assert!(audit.agents.values().any(|agent| agent.quarantined.is_some()), "{kind}");
    }
}

#[test]
fn a_recovery_that_kills_its_agent_is_abandoned_and_not_awaited() {
    let folder = tempfile::tempdir().unwrap();
    let server = CountingServer::start(Arc::new(|_| (503, "{}".to_owned()))).unwrap();
    prepare(folder.path(), &server.url()).unwrap();
    let log = Arc::new(EmbeddedLog::open(folder.path().join("log"), Options::default()).unwrap());
    let before_decide = Some(CommandProbe(Arc::new(|_, command| {
        assert!(command.name() != "recover", "made to panic");
    })));
    let wiring = Wiring { before_decide, ..Wiring::default() };
    let parts = parts(folder.path(), log, wiring).unwrap();
    let audit = work(parts, &goals(1).unwrap(), PATIENCE, &mut |_| true).unwrap();
    assert_eq!(audit.recoveries.values().collect::<Vec<_>>(), [&RecoveryPhase::Abandoned]);
    assert!(audit.anomalies.values().any(|is_ended| *is_ended), "{:?}", audit.anomalies);
    assert_eq!(audit.goals.values().flatten().next().unwrap().status, GoalStatus::Failed);
}
