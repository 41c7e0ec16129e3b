//! A smaller model beside the main one, in a whole node: who is downshifted asks it, the journal says so, and nothing
//! that breaks there takes the main one down.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use kintsugi_eventlog::embedded::{Options, ReadOnlyLog};
use kintsugi_eventlog::{EmbeddedLog, LogReader};
use kintsugi_events::{AgentEvent, Anomaly, AnomalyKind, GoalStatus, Payload, RecoveryAction, Subject};
use kintsugi_gpu_scheduler::scripted::{self, ScriptedShape};
use kintsugi_gpu_scheduler::{EngineState, RebuildPolicy, SchedulerStats};
use kintsugi_runtime::node::NodeParts;
use kintsugi_tests::audit::Audit;
use kintsugi_tests::counting_server::CountingServer;
use kintsugi_tests::scripted_node::{AGENTS, Wiring, goals, ledger, prepare, work};
use kintsugi_tests::smaller_model::{
    SMALLER, SMALLER_BUDGET, ill_parts, ill_unless_light, is_light, sound, with_smaller,
};
use kintsugi_types::{AgentId, ByteCount, CompletionRequest, EffectId, RetryPolicy};

const PATIENCE: Duration = Duration::from_mins(2);
const GOALS: usize = 12;

/// Steps of a goal after the charge: those that only who is downshifted can do.
const STEPS_LEFT: usize = 2;

struct Place {
    folder: tempfile::TempDir,
    log: Arc<EmbeddedLog>,
    server: CountingServer,
}

fn server() -> CountingServer {
    CountingServer::start(Arc::new(|_| (200, r#"{"charged":true}"#.to_owned()))).unwrap()
}

impl Place {
    fn new() -> Self {
        let (folder, server) = (tempfile::tempdir().unwrap(), server());
        prepare(folder.path(), &server.url()).unwrap();
        let log = Arc::new(EmbeddedLog::open(folder.path().join("log"), Options::default()).unwrap());
        Self { folder, log, server }
    }

    fn parts(&self, answer: impl Fn(&CompletionRequest) -> String + Send + Sync + 'static) -> NodeParts {
        let parts = ill_parts(self.folder.path(), self.log.clone(), Wiring::default()).unwrap();
        with_smaller(parts, answer).unwrap()
    }

    /// Works the goals until `is_enough`; gives what both models together and the smaller one were at last.
    fn work(
        parts: NodeParts,
        mut is_enough: impl FnMut(&SchedulerStats) -> bool,
    ) -> (Audit, SchedulerStats, SchedulerStats) {
        let mut last = None;
        let audit = work(parts, &goals(GOALS).unwrap(), PATIENCE, &mut |node| {
            let (name, smaller) = node.smaller_stats().unwrap();
            assert_eq!(name.as_str(), SMALLER);
            let is_enough = is_enough(&smaller);
            last = Some((node.scheduler_stats(), smaller));
            is_enough
        })
        .unwrap();
        let (both, smaller) = last.unwrap();
        (audit, both, smaller)
    }

    /// Every goal is completed, and everything was done once.
    fn check(&self, audit: &Audit) {
        check(audit, self.folder.path(), &self.server);
    }
}

fn check(audit: &Audit, folder: &Path, server: &CountingServer) {
    for result in audit.goals.values().flatten() {
        assert_eq!(result.status, GoalStatus::Completed, "{result:?}");
    }
    assert_eq!((server.acts().len(), ledger(folder).unwrap().len()), (GOALS, GOALS));
    assert!(server.acts().values().all(|count| *count == 1), "a charge was made twice");
    assert!(ledger(folder).unwrap().values().all(|count| *count == 1), "something was recorded twice");
}

/// Who was asked for an inference, try by try, and who answered it.
#[derive(Debug, Default)]
struct Inference {
    asked: Vec<Option<String>>,
    answered: Vec<Option<String>>,
}

/// The inferences of a log, the agents that took a downshift up, and the anomalies of engines.
#[derive(Default)]
struct Told {
    inferences: BTreeMap<EffectId, Inference>,
    downshifted: BTreeSet<AgentId>,
    engine_faults: Vec<Anomaly>,
    /// Steps whose metric says that the smaller model answered.
    steps_by_smaller: usize,
}

fn told(log: &dyn LogReader) -> Told {
    let mut told = Told::default();
    let named = |model: Option<kintsugi_types::ModelName>| model.map(|model| model.as_str().to_owned());
    log.replay(log.start_lsn(), &mut |record| {
        let event = record.to_event().unwrap();
        match event.payload {
            Payload::Agent(agent_event) => match *agent_event {
                AgentEvent::ThinkRequested { effect, model, .. } => {
                    told.inferences.entry(effect).or_default().asked.push(named(model));
                }
                AgentEvent::ThoughtRecorded(thought) => {
                    told.inferences.entry(thought.effect).or_default().answered.push(named(thought.model));
                }
                AgentEvent::RecoveryStarted { plan, .. } if plan.action == RecoveryAction::ModelDownshift => {
                    told.downshifted.extend(plan.agent.agent().cloned());
                }
                _ => {}
            },
            Payload::Metric(metric) => told.steps_by_smaller += usize::from(metric.model.is_some()),
            Payload::Anomaly(anomaly) if anomaly.kind == AnomalyKind::EngineFault => {
                told.engine_faults.push(*anomaly);
            }
            _ => {}
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    told
}

fn smaller() -> String {
    SMALLER.to_owned()
}

/// Rebuilds in quick succession, and then no more for the rest of the test.
fn rebuild(attempts_max: u32) -> RebuildPolicy {
    let backoff = RebuildPolicy::default().backoff;
    let backoff = RetryPolicy { first_delay_ms: 1, delay_max_ms: 4, ..backoff };
    RebuildPolicy { attempts_max, window: Duration::from_mins(10), backoff }
}

#[test]
fn who_is_downshifted_is_answered_by_the_smaller_model_in_its_own_part_of_the_memory() {
    let place = Place::new();
    let is_any_light = Arc::new(AtomicUsize::new(0));
    let seen = is_any_light.clone();
    let parts = place.parts(move |request| {
        seen.fetch_add(usize::from(is_light(request)), Ordering::SeqCst);
        sound(request)
    });
    let main_budget = parts.scheduler.memory_budget;
    let (audit, both, small) =
        Place::work(parts, |smaller| smaller.completions >= (GOALS * STEPS_LEFT) as u64);
    place.check(&audit);
    assert_eq!(audit.healed.get("model_downshift"), Some(&(GOALS as u64)), "{:?}", audit.healed);
    assert_eq!(is_any_light.load(Ordering::SeqCst), 0, "the smaller model is not asked for less as well");

    let told = told(place.log.as_ref());
    let by_smaller =
        told.inferences.values().filter(|inference| inference.answered.contains(&Some(smaller()))).count();
    assert_eq!((by_smaller, told.steps_by_smaller), (GOALS * STEPS_LEFT, GOALS * STEPS_LEFT));
    for inference in told.inferences.values() {
        assert_eq!(inference.asked, inference.answered, "who is asked answers");
    }
    // Both keep within what is theirs, and what is told of both is the sum.
    assert_eq!(small.memory_budget, SMALLER_BUDGET);
    assert!(small.memory_peak <= SMALLER_BUDGET && small.completions == by_smaller as u64, "{small:?}");
    assert_eq!(both.memory_budget.0, main_budget.0 + SMALLER_BUDGET.0);
    assert!(both.memory_peak.0 - small.memory_peak.0 <= main_budget.0, "{both:?}");
    assert_eq!(both.lease_waits.count, both.leases_granted);
}

/// Keeps the smaller model's answers back until it is opened.
#[derive(Default)]
struct Gate {
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn open(&self) {
        *self.is_open.lock().unwrap() = true;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let is_closed = |is_open: &mut bool| !*is_open;
        drop(self.opened.wait_while(self.is_open.lock().unwrap(), is_closed).unwrap());
    }
}

#[test]
fn a_downshifted_agents_keys_and_values_leave_the_main_model_while_the_smaller_one_answers() {
    let place = Place::new();
    let gate = Arc::new(Gate::default());
    let at_gate = gate.clone();
    let mut parts = place.parts(move |request| {
        at_gate.pass();
        sound(request)
    });
    // One that keeps conversations between their requests.
    let shape = ScriptedShape { kv_host: ByteCount::mib(8), ..ScriptedShape::default() };
    parts.backend = scripted::shaped(shape, ill_unless_light);
    // No lease ends while the smaller model waits at the gate.
    parts.smaller.as_mut().unwrap().scheduler.lease_ms_max = 60_000;
    let few = AGENTS as usize;
    let mut kept_most = 0;
    // Else the node would wait for ever.
    let patience = Duration::from_secs(30);
    let audit = work(parts, &goals(few).unwrap(), patience, &mut |node| {
        let (_, small) = node.smaller_stats().unwrap();
        let kept_by_both = node.scheduler_stats().waiting_on_device;
        // Two looks, and things change between them; not what is told of the smaller one once all wait at the gate.
        let Some(kept_by_main) = kept_by_both.checked_sub(small.waiting_on_device) else { return true };
        kept_most = kept_most.max(kept_by_main);
        if small.leases_out == few && kept_by_main == 0 {
            gate.open();
        }
        true
    });
    // The engine waits at it even where the test fails.
    gate.open();
    audit.unwrap();
    assert!(kept_most > 0, "the main model never kept a conversation");
}

#[test]
fn a_smaller_model_that_breaks_leaves_the_main_one_alone_and_is_stood_in_for() {
    let place = Place::new();
    let mut parts = place.parts(|_| panic!("the smaller model breaks"));
    parts.smaller.as_mut().unwrap().scheduler.rebuild = rebuild(3);
    let (audit, both, small) =
        Place::work(parts, |smaller| matches!(smaller.engine, EngineState::Down { .. }));
    place.check(&audit);
    assert!(small.faults >= 3 && small.completions == 0, "{small:?}");
    assert_eq!(both.faults, small.faults, "the main engine broke too");
    assert_eq!(both.engine, EngineState::Up);

    let told = told(place.log.as_ref());
    assert_eq!(told.steps_by_smaller, 0);
    let stood_in = told
        .inferences
        .values()
        .filter(|inference| inference.asked.contains(&Some(smaller())))
        .collect::<Vec<_>>();
    assert!(stood_in.len() >= GOALS, "{} inferences", stood_in.len());
    for inference in stood_in {
        assert_eq!(inference.asked, [Some(smaller()), None], "the main one is asked in its stead");
        assert_eq!(inference.answered, [None]);
    }
    // What is told of its engine is told of it, not of the main one.
    assert!(!told.engine_faults.is_empty());
    for anomaly in &told.engine_faults {
        assert_eq!(anomaly.agent, Subject::Model(SMALLER.parse().unwrap()));
    }
}

#[test]
fn a_smaller_model_that_cannot_be_built_any_more_is_stood_in_for() {
    let place = Place::new();
    let mut parts = place.parts(sound);
    let built_by = parts.smaller.as_mut().unwrap();
    built_by.backend = Box::new(|| Err("no such file".to_owned()));
    built_by.scheduler.rebuild = rebuild(2);
    let (audit, both, small) =
        Place::work(parts, |smaller| matches!(smaller.engine, EngineState::Down { .. }));
    place.check(&audit);
    assert_eq!(small.completions, 0);
    assert_eq!(both.faults, small.faults);
}

/// One that breaks once comes back, and its recovery is told as a seam of the model.
#[test]
fn a_smaller_model_that_broke_once_is_rebuilt_and_answers() {
    let place = Place::new();
    let breaks = Arc::new(AtomicUsize::new(1));
    let mut parts = place.parts(move |request| {
        let left = breaks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        assert!(left.is_err(), "the smaller model breaks once");
        sound(request)
    });
    parts.smaller.as_mut().unwrap().scheduler.rebuild = rebuild(16);
    let mut healed = 0;
    let audit = work(parts, &goals(GOALS).unwrap(), PATIENCE, &mut |node| {
        let (_, smaller) = node.smaller_stats().unwrap();
        healed = smaller.rebuilds;
        node.status().healed > GOALS as u64
    })
    .unwrap();
    place.check(&audit);
    assert_eq!(healed, 1);
    assert_eq!(audit.healed.get("rebuild_engine"), Some(&1), "{:?}", audit.healed);
    let told = told(place.log.as_ref());
    assert_eq!(told.steps_by_smaller, GOALS * STEPS_LEFT, "its requests ran again");
}

fn live(folder: &Path, flags: &[&str]) -> ExitStatus {
    let mut command = Command::new(env!("CARGO_BIN_EXE_node-under-test"));
    command.arg(folder).arg(GOALS.to_string()).args(flags).stderr(Stdio::inherit());
    let mut child = command.spawn().unwrap();
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(begun.elapsed() < PATIENCE, "the node hangs in {}", folder.display());
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// A node that is killed while its smaller model is asked for the `count`th time; and its log.
fn killed_while_asked(count: usize) -> (tempfile::TempDir, CountingServer, BTreeSet<EffectId>) {
    let (folder, server) = (tempfile::tempdir().unwrap(), server());
    prepare(folder.path(), &server.url()).unwrap();
    let die_at = format!("smaller-asked:{count}");
    let status = live(folder.path(), &["--ill", "--smaller", "--die-at", &die_at]);
    assert!(!status.success(), "the smaller model was never asked {count} times");
    let told = told(&ReadOnlyLog::open(folder.path().join("log")).unwrap());
    let open: BTreeSet<EffectId> = told
        .inferences
        .iter()
        .filter(|(_, inference)| {
            inference.answered.is_empty() && inference.asked.last() == Some(&Some(smaller()))
        })
        .map(|(effect, _)| *effect)
        .collect();
    assert!(!open.is_empty(), "nobody waited for the smaller model");
    (folder, server, open)
}

#[test]
fn an_inference_that_a_kill_cut_off_is_asked_again_of_the_same_model() {
    for count in [1, 5] {
        let (folder, server, open) = killed_while_asked(count);
        assert!(live(folder.path(), &["--ill", "--smaller"]).success());
        let log = ReadOnlyLog::open(folder.path().join("log")).unwrap();
        check(&Audit::of(&log).unwrap(), folder.path(), &server);
        let told = told(&log);
        for effect in open {
            let inference = &told.inferences[&effect];
            assert_eq!(
                (&inference.asked, &inference.answered),
                (&vec![Some(smaller())], &vec![Some(smaller())])
            );
        }
    }
}

#[test]
fn a_node_that_comes_back_without_its_smaller_model_asks_the_main_one_for_less() {
    let (folder, server, open) = killed_while_asked(1);
    assert!(live(folder.path(), &["--ill"]).success());
    let log = ReadOnlyLog::open(folder.path().join("log")).unwrap();
    check(&Audit::of(&log).unwrap(), folder.path(), &server);
    let told = told(&log);
    for effect in open {
        // The journal still says whom it was asked of; the main one answered, and says so.
        let inference = &told.inferences[&effect];
        assert_eq!((&inference.asked, &inference.answered), (&vec![Some(smaller())], &vec![None]));
    }
    let later = told.inferences.values().filter(|inference| inference.answered == [Some(smaller())]).count();
    assert_eq!(told.steps_by_smaller, later);
}
