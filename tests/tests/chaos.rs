//! Faults on purpose: they strike where the seed says, stand in the log, and every goal ends all the same.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use kintsugi_chaos::FaultPlan;
use kintsugi_eventlog::embedded::Options;
use kintsugi_eventlog::{EmbeddedLog, LogReader as _};
use kintsugi_events::{Goal, InjectedFault, Payload};
use kintsugi_tests::audit::Audit;
use kintsugi_tests::counting_server::{Behaviour, CountingServer};
use kintsugi_tests::scripted_node::{Wiring, answer, goals, parts_with, prepare, tools, work};

/// The longest that any scenario may take.
const PATIENCE: Duration = Duration::from_mins(2);

/// How long the tool of the long outage is down.
const OUTAGE: Duration = Duration::from_secs(4);

fn run(
    folder: &Path,
    behaviour: Behaviour,
    agents: u32,
    count: usize,
    wiring: Wiring,
) -> (Audit, Arc<EmbeddedLog>) {
    let server = CountingServer::start(behaviour).unwrap();
    prepare(folder, &server.url()).unwrap();
    let log = Arc::new(EmbeddedLog::open(folder.join("log"), Options::default()).unwrap());
    let tools = tools(folder).unwrap();
    let parts = parts_with(folder, log.clone(), tools, agents, answer, wiring).unwrap();
    let goals: Vec<Goal> = goals(count)
        .unwrap()
        .into_iter()
        .zip(0..)
        .map(|(goal, index)| Goal { index: Some(index), ..goal })
        .collect();
    let audit = work(parts, &goals, PATIENCE, &mut |_| true).unwrap();
    assert!(server.acts().values().all(|acts| *acts == 1), "{:?}", server.acts());
    (audit, log)
}

fn fine() -> (u16, String) {
    (200, r#"{"charged":true}"#.to_owned())
}

fn faults(log: &EmbeddedLog) -> Vec<InjectedFault> {
    let mut faults = Vec::new();
    log.replay(log.start_lsn(), &mut |record| {
        if let Payload::Fault(fault) = record.to_event().unwrap().payload {
            faults.push(*fault);
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    faults
}

#[test]
fn every_goal_ends_and_the_same_seed_strikes_the_same_steps() {
    let strike = |seed| {
        let folder = tempfile::tempdir().unwrap();
        let chaos = Some(FaultPlan::new(0.3, seed));
        let wiring = Wiring { chaos, park_ms: Some(2_000), ..Wiring::default() };
        let (audit, log) = run(folder.path(), Arc::new(|_| fine()), 6, 40, wiring);
        let struck = faults(&log);
        assert!(struck.len() >= 10, "only {} faults struck", struck.len());
        let by_kind: BTreeMap<&str, usize> = struck.iter().fold(BTreeMap::new(), |mut counts, fault| {
            *counts.entry(fault.kind.name()).or_default() += 1;
            counts
        });
        assert!(by_kind.len() >= 4, "{by_kind:?}");
        assert!(!audit.healed.is_empty(), "nothing was healed: {by_kind:?}");
        // Where a fault leads a goal off its way, later steps are others: the first of each goal are the same.
        let first: BTreeSet<(String, &str)> = struck
            .iter()
            .filter(|fault| fault.step == 1 && fault.attempt == 1)
            .map(|fault| (fault.goal.as_ref().unwrap().to_string(), fault.kind.name()))
            .collect();
        first
    };
    let first = strike(1);
    assert!(!first.is_empty());
    assert_eq!(first, strike(1));
    assert_ne!(first, strike(2));
}

#[test]
fn a_long_outage_of_a_tool_that_many_agents_need_is_waited_out() {
    let folder = tempfile::tempdir().unwrap();
    // It begins with the first call, however long the node takes until then.
    let begun = OnceLock::new();
    let behaviour: Behaviour = Arc::new(move |_| {
        let begun = begun.get_or_init(Instant::now);
        if begun.elapsed() < OUTAGE { (503, "{}".to_owned()) } else { fine() }
    });
    // Held calls share one timer for each tool: with one each they would multiply at every probe.
    let (audit, _) = run(folder.path(), behaviour, 48, 96, Wiring::default());
    assert!(audit.healed.contains_key("circuit_breaker"), "{:?}", audit.healed);
}
