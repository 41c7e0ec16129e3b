//! Faults of what an agent leans on, its tools and the engine, through a whole node: each heals or ends with a
//! reason, nothing is doubled, and nobody else is harmed.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kintsugi_eventlog::embedded::Options;
use kintsugi_eventlog::{EmbeddedLog, LogReader as _, Record};
use kintsugi_events::{AgentEvent, GoalStatus, Payload, Topic};
use kintsugi_gpu_scheduler::{BackendFactory, EngineState, RebuildPolicy};
use kintsugi_runtime::Node;
use kintsugi_runtime::node::NodeParts;
use kintsugi_tests::audit::Audit;
use kintsugi_tests::counting_server::CountingServer;
use kintsugi_tests::scripted_node::{
    AGENTS, Wiring, answer, charge_tool, goals, ledger, parts, parts_with, prepare_with, tools, work,
};
use kintsugi_tools::{Tool, ToolCall, ToolError, ToolOutput};
use kintsugi_types::{CompletionRequest, EffectId, RetryPolicy, ToolName, ToolSafety, ToolSpec};
use tempfile::TempDir;

const GOALS: usize = 12;

/// How often a tool misbehaves before it works.
const MISHAPS: usize = 2;

const FLOOD_BYTES: usize = 20 << 20;

/// The longest that any scenario may take.
const PATIENCE: Duration = Duration::from_mins(1);

const CHARGED: &str = r#"{"charged":true}"#;

/// What the HTTP tool promises where a test adds this to its declaration.
const OUTPUT_SCHEMA: &str = "\n[output_schema]\ntype = \"object\"\nrequired = [\"charged\"]\n\
    [output_schema.properties.charged]\ntype = \"boolean\"\n";

/// Where one node lives.
struct Place {
    folder: TempDir,
    log: Arc<EmbeddedLog>,
}

impl Place {
    /// A place whose HTTP tool is declared by `charge`.
    fn new(charge: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        prepare_with(folder.path(), charge).unwrap();
        let log = Arc::new(EmbeddedLog::open(folder.path().join("log"), Options::default()).unwrap());
        Self { folder, log }
    }

    fn parts(&self, wiring: Wiring) -> NodeParts {
        parts(self.folder.path(), self.log.clone(), wiring).unwrap()
    }

    /// Works `count` goals to their end.
    fn work(&self, parts: NodeParts, count: usize, during: &mut dyn FnMut(&Node) -> bool) -> Audit {
        let audit = work(parts, &goals(count).unwrap(), PATIENCE, during).unwrap();
        assert!(ledger(self.folder.path()).unwrap().values().all(|rows| *rows == 1), "recorded twice");
        audit
    }

    fn records(&self) -> Vec<Record> {
        let mut records = Vec::new();
        let visit = &mut |record| {
            records.push(record);
            ControlFlow::Continue(())
        };
        self.log.replay(self.log.start_lsn(), visit).unwrap();
        records
    }

    /// Whatever a tool said, no record has become large by it.
    fn assert_records_are_small(&self, case: &str) {
        for record in self.records() {
            let bytes_max = if record.topic == Topic::Agents { 8 << 10 } else { 64 << 10 };
            let bytes = record.value.len();
            assert!(bytes <= bytes_max, "{case}: {} of {bytes} bytes", record.event_type);
        }
    }
}

/// Why goals ended partial; the others are completed.
fn reasons(audit: &Audit) -> Vec<&str> {
    let is_open = |status| status != GoalStatus::Completed;
    let ended = audit.goals.values().flatten().filter(|result| is_open(result.status));
    ended
        .map(|result| {
            assert_eq!(result.status, GoalStatus::Partial, "{:?}", result.reason);
            result.reason.as_deref().unwrap()
        })
        .collect()
}

fn assert_done_once(server: &CountingServer) {
    assert!(server.acts().values().all(|acts| *acts == 1), "{:?}", server.acts());
}

/// A server that takes every request, counts it and never answers.
fn hanging_server() -> (CountingServer, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    let behaviour = move |_: usize| -> (u16, String) {
        counted.fetch_add(1, Ordering::SeqCst);
        loop {
            std::thread::park();
        }
    };
    (CountingServer::start(Arc::new(behaviour)).unwrap(), asked)
}

#[test]
fn an_unkeyed_tool_that_hangs_is_called_once_and_nobody_can_tell_whether_it_acted() {
    // The tool gives up, or the node does.
    for (timeout_ms, tool_ms_max) in [(500, 30_000), (10_000, 500)] {
        let (server, asked) = hanging_server();
        let place = Place::new(&charge_tool(&server.url(), "unkeyed", timeout_ms));
        let count = AGENTS as usize;
        let (tool_ms_max, tool_threads) = (Some(tool_ms_max), Some(count));
        let parts = place.parts(Wiring { tool_ms_max, tool_threads, ..Wiring::default() });
        let audit = place.work(parts, count, &mut |_| true);
        let reasons = reasons(&audit);
        assert_eq!((asked.load(Ordering::SeqCst), reasons.len()), (count, count), "{reasons:?}");
        for reason in reasons {
            assert!(reason.contains("nobody can tell whether charge acted"), "{reason}");
        }
    }
}

#[test]
fn a_repeatable_tool_that_hangs_is_tried_again_and_its_goals_end_with_the_reason() {
    for (safety, timeout_ms, tool_ms_max) in [("keyed", 200, 30_000), ("read_only", 10_000, 200)] {
        let (server, asked) = hanging_server();
        let place = Place::new(&charge_tool(&server.url(), safety, timeout_ms));
        let wiring = Wiring { tool_ms_max: Some(tool_ms_max), park_ms: Some(2_000), ..Wiring::default() };
        let audit = place.work(place.parts(wiring), 2, &mut |_| true);
        assert_eq!(reasons(&audit).len(), 2);
        for reason in reasons(&audit) {
            let is_told = reason.contains("not answer in time") || reason.contains("no answer within 200 ms");
            assert!(is_told, "{safety}: {reason}");
        }
        for result in audit.goals.values().flatten() {
            // All tries were one effect.
            assert!(matches!(result.actions.as_slice(), [action] if !action.ok), "{:?}", result.actions);
        }
        let asked = asked.load(Ordering::SeqCst);
        assert!((4..=16).contains(&asked), "{safety}: asked {asked} times");
    }
}

#[test]
fn a_tool_that_lies_about_its_schema_is_called_once_and_its_goals_end_with_the_lie() {
    for safety in ["unkeyed", "keyed", "read_only"] {
        let server = CountingServer::start(Arc::new(|n| {
            let answer = if n < MISHAPS { r#"{"charged":"perhaps"}"# } else { CHARGED };
            (200, answer.to_owned())
        }))
        .unwrap();
        let place = Place::new(&(charge_tool(&server.url(), safety, 20_000) + OUTPUT_SCHEMA));
        // It acted, whatever it said: an agent without patience must not call an unkeyed one again.
        let park_ms = (safety == "unkeyed").then_some(0);
        let parts = place.parts(Wiring { park_ms, ..Wiring::default() });
        let audit = place.work(parts, GOALS, &mut |_| true);
        let reasons = reasons(&audit);
        assert_eq!(reasons.len(), MISHAPS, "{safety}: {reasons:?}");
        for reason in reasons {
            assert!(
                reason.contains("tool lies about its schema: charged: \"perhaps\""),
                "{safety}: {reason}"
            );
        }
        assert_eq!(server.acts().len(), GOALS, "{safety}");
        assert_done_once(&server);
    }
}

#[test]
fn a_service_that_answers_twenty_megabytes_leaves_small_records() {
    for (safety, status, partial) in [("unkeyed", 200, 0), ("keyed", 500, 0), ("unkeyed", 500, MISHAPS)] {
        let case = format!("{safety}, {status}");
        let flood = format!("\"{}\"", flood());
        let server = CountingServer::start(Arc::new(move |n| {
            if n < MISHAPS { (status, flood.clone()) } else { (200, CHARGED.to_owned()) }
        }))
        .unwrap();
        let place = Place::new(&charge_tool(&server.url(), safety, 20_000));
        let audit = place.work(place.parts(Wiring::default()), GOALS, &mut |_| true);
        assert_eq!(reasons(&audit).len(), partial, "{case}: {:?}", reasons(&audit));
        assert_done_once(&server);
        place.assert_records_are_small(&case);
    }
}

fn flood() -> String {
    "x".repeat(FLOOD_BYTES)
}

/// How a tool misbehaves.
type Mishap = fn() -> Result<ToolOutput, ToolError>;

/// What a tool says of a lost call, given how often it was called by now.
type PostCondition = fn(&AtomicUsize) -> Option<bool>;

/// A tool that misbehaves in its first calls.
#[derive(Debug)]
struct Broken {
    spec: ToolSpec,
    calls: Arc<AtomicUsize>,
    mishap: Mishap,
    post_condition: PostCondition,
}

impl Tool for Broken {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn call(&self, _: &ToolCall) -> Result<ToolOutput, ToolError> {
        if self.calls.fetch_add(1, Ordering::SeqCst) < MISHAPS {
            return (self.mishap)();
        }
        Ok(ToolOutput { text: CHARGED.to_owned(), truncated: false })
    }

    fn post_condition(&self, _: EffectId) -> Option<bool> {
        (self.post_condition)(&self.calls)
    }
}

/// Works the goals with a broken tool in place of the HTTP one. Returns the calls of it as well.
fn work_with_broken(
    safety: ToolSafety,
    mishap: Mishap,
    post_condition: PostCondition,
    wiring: Wiring,
) -> (Place, Audit, usize) {
    let place = Place::new(&charge_tool("http://127.0.0.1:9", "unkeyed", 20_000));
    let mut tools = tools(place.folder.path()).unwrap();
    let spec = tools.spec(&ToolName::new("charge").unwrap()).unwrap();
    let spec = ToolSpec { safety, ..spec.clone() };
    let calls = Arc::new(AtomicUsize::new(0));
    tools.insert(Arc::new(Broken { spec, calls: calls.clone(), mishap, post_condition })).unwrap();
    let log = place.log.clone();
    let parts = parts_with(place.folder.path(), log, tools, AGENTS, answer, wiring).unwrap();
    let audit = place.work(parts, GOALS, &mut |_| true);
    (place, audit, calls.load(Ordering::SeqCst))
}

#[test]
fn a_tool_that_says_twenty_megabytes_in_whatever_way_leaves_small_records() {
    use ToolSafety::{Keyed, Unkeyed};
    // How often it is called, and how many goals end partial.
    let (once, again) = (GOALS, GOALS + MISHAPS);
    let cases: [(&str, ToolSafety, Mishap, usize, usize); 6] = [
        ("answer", Unkeyed, || Ok(ToolOutput { text: flood(), truncated: false }), once, 0),
        ("transient", Keyed, || Err(ToolError::transient("busy", flood())), again, 0),
        ("recoverable", Keyed, || Err(ToolError::recoverable("refused", flood())), once, 0),
        ("fatal", Keyed, || Err(ToolError::fatal("broken", flood())), once, MISHAPS),
        ("unknown", Unkeyed, || Err(ToolError::fatal("outcome_unknown", flood())), once, MISHAPS),
        // A panic that is not printed.
        ("panic", Unkeyed, || std::panic::resume_unwind(Box::new(flood())), once, MISHAPS),
    ];
    for (case, safety, mishap, called, partial) in cases {
        let (place, audit, calls) = work_with_broken(safety, mishap, |_| None, Wiring::default());
        assert_eq!((calls, reasons(&audit).len()), (called, partial), "{case}");
        place.assert_records_are_small(case);
    }
}

#[test]
fn a_tool_that_panics_ends_its_goals_with_the_reason_and_harms_no_other() {
    for (safety, said) in [
        (ToolSafety::Unkeyed, "nobody can tell whether charge acted"),
        (ToolSafety::Keyed, "needs a person"),
        (ToolSafety::ReadOnly, "needs a person"),
    ] {
        let mishap: Mishap = || panic!("made to panic in the tool");
        let (_, audit, calls) = work_with_broken(safety, mishap, |_| None, Wiring::default());
        let reasons = reasons(&audit);
        assert_eq!((calls, reasons.len()), (GOALS, MISHAPS), "{safety:?}: {reasons:?}");
        for reason in reasons {
            assert!(reason.contains(said) && reason.contains("made to panic in the tool"), "{reason}");
        }
    }
}

#[test]
fn a_call_that_finds_no_free_thread_is_made_later_and_not_lost() {
    // Both threads are taken for longer than the node waits for a call.
    let (tool_ms_max, tool_threads) = (Some(1_000), Some(MISHAPS));
    let wiring = Wiring { tool_ms_max, tool_threads, park_ms: Some(2_000), ..Wiring::default() };
    let mishap: Mishap = || {
        std::thread::sleep(Duration::from_secs(3));
        Err(ToolError::transient("busy", "too late"))
    };
    let (_, audit, calls) = work_with_broken(ToolSafety::Unkeyed, mishap, |_| None, wiring);
    let reasons = reasons(&audit);
    assert_eq!((calls, reasons.len()), (GOALS, MISHAPS), "{reasons:?}");
    assert!(reasons.iter().all(|reason| reason.contains("no answer within 1000 ms")), "{reasons:?}");
}

#[test]
fn a_post_condition_that_panics_cannot_tell() {
    let mishap: Mishap = || Err(ToolError::fatal("outcome_unknown", "cut off"));
    let post_condition: PostCondition = |_| panic!("made to panic in the post-condition");
    let (_, audit, calls) = work_with_broken(ToolSafety::Unkeyed, mishap, post_condition, Wiring::default());
    let reasons = reasons(&audit);
    assert_eq!((calls, reasons.len()), (GOALS, MISHAPS), "{reasons:?}");
    assert!(reasons.iter().all(|reason| reason.contains("nobody can tell")), "{reasons:?}");
}

#[test]
fn a_post_condition_that_takes_its_time_keeps_nobody_from_work() {
    let mishap: Mishap = || Err(ToolError::fatal("outcome_unknown", "cut off"));
    // It tells that the call acted once other agents are at their second goals. Where they never are it gives up before
    // the node does.
    let post_condition: PostCondition = |calls| {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(25) {
            if calls.load(Ordering::SeqCst) > AGENTS as usize {
                return Some(true);
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        None
    };
    let (_, audit, calls) = work_with_broken(ToolSafety::Unkeyed, mishap, post_condition, Wiring::default());
    assert_eq!((calls, reasons(&audit)), (GOALS, Vec::new()));
}

/// The script's answers from an engine that panics in its first `panics` steps.
fn answer_after(panics: usize) -> impl Fn(&CompletionRequest) -> String + Send + Sync + 'static {
    let steps = AtomicUsize::new(0);
    move |request| {
        assert!(steps.fetch_add(1, Ordering::SeqCst) >= panics, "made to panic in a step");
        answer(request)
    }
}

/// Engines that cannot be built while `is_broken`.
fn built_unless(is_broken: Arc<AtomicBool>, mut build: BackendFactory) -> BackendFactory {
    Box::new(move || if is_broken.load(Ordering::SeqCst) { Err("no such model".to_owned()) } else { build() })
}

/// Rebuilds in quick succession.
fn rebuild(attempts_max: u32, window: Duration) -> RebuildPolicy {
    let backoff = RebuildPolicy::default().backoff;
    let backoff = RetryPolicy { first_delay_ms: 1, delay_max_ms: 4, ..backoff };
    RebuildPolicy { attempts_max, window, backoff }
}

/// A working HTTP tool and a place for a node that uses it.
fn sound_tools() -> (CountingServer, Place) {
    let server = CountingServer::start(Arc::new(|_| (200, CHARGED.to_owned()))).unwrap();
    let place = Place::new(&charge_tool(&server.url(), "unkeyed", 20_000));
    (server, place)
}

#[test]
fn an_engine_that_panics_is_rebuilt_and_runs_the_same_inferences_again() {
    // Once is between the scheduler and the engine; more often than the scheduler runs a request, the agent asks again.
    for panics in [1, 8] {
        let (server, place) = sound_tools();
        let tools = tools(place.folder.path()).unwrap();
        let answer = answer_after(panics);
        let log = place.log.clone();
        let mut parts =
            parts_with(place.folder.path(), log, tools, AGENTS, answer, Wiring::default()).unwrap();
        parts.scheduler.rebuild = rebuild(16, Duration::from_mins(1));
        let mut stats = None;
        let audit = place.work(parts, GOALS, &mut |node| {
            stats = Some(node.scheduler_stats());
            node.status().healed > 0
        });
        assert_eq!(reasons(&audit), Vec::<&str>::new());
        assert!(audit.healed.contains_key("rebuild_engine"), "{:?}", audit.healed);
        let stats = stats.unwrap();
        assert_eq!((stats.faults, stats.rebuilds), (panics as u64, panics as u64));
        assert_eq!(server.acts().len(), GOALS);
        assert_done_once(&server);

        let mut failed = 0;
        let mut answers: BTreeMap<EffectId, usize> = BTreeMap::new();
        for record in place.records() {
            let Payload::Agent(event) = record.to_event().unwrap().payload else { continue };
            match *event {
                AgentEvent::ThinkRequested { effect, .. } => {
                    answers.entry(effect).or_default();
                }
                AgentEvent::ThinkFailed { .. } => failed += 1,
                AgentEvent::ThoughtRecorded(thought) => *answers.get_mut(&thought.effect).unwrap() += 1,
                _ => {}
            }
        }
        assert_eq!(answers.len(), GOALS * 3, "an inference was given up for another");
        assert!(answers.values().all(|answers| *answers == 1), "{answers:?}");
        assert_eq!(failed > 0, panics > 1, "{failed} inferences failed");
    }
}

#[test]
fn an_engine_that_was_down_comes_back_and_every_goal_is_completed() {
    let (server, place) = sound_tools();
    let mut parts = place.parts(Wiring { park_ms: Some(2_000), ..Wiring::default() });
    let is_broken = Arc::new(AtomicBool::new(true));
    parts.backend = built_unless(is_broken.clone(), parts.backend);
    parts.scheduler.rebuild = rebuild(2, Duration::from_millis(100));
    let audit = place.work(parts, GOALS, &mut |node| {
        let stats = node.scheduler_stats();
        if matches!(stats.engine, EngineState::Down { .. }) && stats.refused >= u64::from(AGENTS) {
            is_broken.store(false, Ordering::SeqCst);
        }
        true
    });
    assert!(!is_broken.load(Ordering::SeqCst), "the engine was never down");
    assert_eq!(reasons(&audit), Vec::<&str>::new());
    assert_eq!(server.acts().len(), GOALS);
    assert_done_once(&server);
}

#[test]
fn an_engine_that_never_comes_back_ends_its_goals_with_the_reason() {
    for can_be_built in [false, true] {
        let (server, place) = sound_tools();
        let tools = tools(place.folder.path()).unwrap();
        let answer = answer_after(usize::MAX);
        let wiring = Wiring { park_ms: Some(50), ..Wiring::default() };
        let log = place.log.clone();
        let mut parts = parts_with(place.folder.path(), log, tools, AGENTS, answer, wiring).unwrap();
        let is_broken = Arc::new(AtomicBool::new(!can_be_built));
        parts.backend = built_unless(is_broken, parts.backend);
        parts.scheduler.rebuild = rebuild(2, Duration::from_millis(50));
        let audit = place.work(parts, GOALS, &mut |_| true);
        let reasons = reasons(&audit);
        assert_eq!(reasons.len(), GOALS);
        for reason in reasons {
            assert!(reason.contains("the inference failed: engine fault: "), "{reason}");
            assert!(reason.ends_with(" tries)"), "{reason}");
        }
        assert!(server.acts().is_empty(), "{:?}", server.acts());
    }
}
