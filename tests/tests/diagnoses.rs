//! The model is asked where the rules are not sure, and whatever becomes of that, each anomaly gets one diagnosis.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use kintsugi_eventlog::EmbeddedLog;
use kintsugi_eventlog::embedded::{Boundary, Options, ReadOnlyLog};
use kintsugi_events::{Anomaly, Diagnosis, FaultType, RecoveryAction};
use kintsugi_gpu_scheduler::scripted::{self, ScriptedShape};
use kintsugi_runtime::node::{NodeParts, Part};
use kintsugi_runtime::{AskSettings, Node, Stages};
use kintsugi_tests::diagnosing::{self, diagnoses, is_diagnosing, looping, slow_call};
use kintsugi_tests::scripted_node::{self, Wiring, goals, parts, prepare};
use kintsugi_types::{Clock as _, CompletionRequest, Score, SystemClock};

/// The longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// No test meets this deadline by chance.
fn ask() -> AskSettings {
    AskSettings { below: Score::new(0.7), deadline: 2 * PATIENCE, tokens_max: 64 }
}

fn shape(confidence: f64) -> ScriptedShape {
    ScriptedShape { confidence: Score::new(confidence), ..ScriptedShape::default() }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Keeps the model from answering until it is opened.
#[derive(Default)]
struct Gate {
    entered: AtomicUsize,
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn pass(&self) {
        self.entered.fetch_add(1, Ordering::SeqCst);
        let is_open = self.is_open.lock().unwrap();
        drop(self.opened.wait_while(is_open, |is_open| !*is_open).unwrap());
    }

    fn wait_for(&self, count: usize) {
        wait_until("the model is not asked", || self.entered.load(Ordering::SeqCst) >= count);
    }

    fn open(&self) {
        *self.is_open.lock().unwrap() = true;
        self.opened.notify_all();
    }
}

/// A test that fails must not wait for a model that waits for the test.
struct OpenOnDrop(Arc<Gate>);

impl Drop for OpenOnDrop {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// A log with anomalies, and nodes that do nothing about them but diagnose.
struct Clinic {
    folder: tempfile::TempDir,
    log: Arc<EmbeddedLog>,
    /// Questions for a diagnosis that came to the model.
    asked: Arc<AtomicUsize>,
}

impl Clinic {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path(), "http://127.0.0.1:9").unwrap();
        let log = Arc::new(EmbeddedLog::open(folder.path().join("log"), Options::default()).unwrap());
        Self { folder, log, asked: Arc::default() }
    }

    fn parts(
        &self,
        ask: Option<AskSettings>,
        shape: ScriptedShape,
        answer: impl Fn(&CompletionRequest) -> String + Send + Sync + 'static,
    ) -> NodeParts {
        let stages = Stages { diagnose: true, ..Stages::NONE };
        let mut parts =
            parts(self.folder.path(), self.log.clone(), Wiring { stages, ask, ..Wiring::default() }).unwrap();
        let asked = self.asked.clone();
        parts.backend = scripted::shaped(shape, move |request| {
            asked.fetch_add(usize::from(is_diagnosing(request)), Ordering::SeqCst);
            answer(request)
        });
        parts
    }

    /// A node whose model answers as surely as this.
    fn open(&self, ask: Option<AskSettings>, confidence: f64) -> Node {
        Node::start(self.parts(ask, shape(confidence), diagnosing::answer)).unwrap()
    }

    fn find(&self, anomalies: &[Anomaly]) {
        diagnosing::append(self.log.as_ref(), anomalies, SystemClock.now()).unwrap();
    }

    /// Waits until there are so many diagnoses, and returns them.
    fn diagnoses(&self, count: usize) -> Vec<Diagnosis> {
        let mut found = Vec::new();
        wait_until("a diagnosis is missing", || {
            found = diagnoses(self.log.as_ref()).unwrap();
            found.len() >= count
        });
        assert_eq!(found.len(), count);
        found
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn who(diagnoses: &[Diagnosis]) -> Vec<&str> {
    diagnoses.iter().map(|diagnosis| diagnosis.diagnosed_by.as_str()).collect()
}

#[test]
fn the_model_is_asked_only_where_the_rules_are_not_sure() {
    let anomalies = [looping(0).unwrap(), slow_call(1, "charge").unwrap()];
    let clinic = Clinic::new();
    let node = clinic.open(Some(ask()), 0.9);
    clinic.find(&anomalies);
    let found = clinic.diagnoses(2);
    assert_eq!(who(&found), ["rules", "model"]);
    assert_eq!(
        (found[1].fault_type, found[1].recommended_action),
        (FaultType::ToolFailure, RecoveryAction::NotifyHuman)
    );
    assert_eq!(
        (found[1].root_cause.as_str(), found[1].confidence),
        ("the service behind it is down", Score::new(0.9))
    );
    assert!(found[1].reasoning.contains("the model, asked, says tool_failure"), "{}", found[1].reasoning);
    assert!(!found[0].reasoning.contains("model"), "{}", found[0].reasoning);
    assert_eq!(clinic.asked(), 2, "what, and why");
    assert_eq!(node.diagnosis_asks(), BTreeMap::from([("taken", 1)]));

    let clinic = Clinic::new();
    let _node = clinic.open(None, 0.9);
    clinic.find(&anomalies);
    let found = clinic.diagnoses(2);
    assert_eq!(who(&found), ["rules", "rules"]);
    assert!(!found[1].reasoning.contains("model"), "{}", found[1].reasoning);
    assert_eq!(clinic.asked(), 0);
}

#[test]
fn the_same_symptom_is_asked_about_once() {
    let clinic = Clinic::new();
    let node = clinic.open(Some(ask()), 0.9);
    let calls = [(1, "charge"), (2, "charge"), (3, "record"), (4, "charge")];
    clinic.find(&calls.map(|(agent, tool)| slow_call(agent, tool).unwrap()));
    let found = clinic.diagnoses(4);
    assert_eq!(who(&found), ["model", "cache", "model", "cache"]);
    assert_eq!(clinic.asked(), 4);
    let finding =
        |diagnosis: &Diagnosis| (diagnosis.fault_type, diagnosis.root_cause.clone(), diagnosis.confidence);
    assert_eq!(finding(&found[1]), finding(&found[0]));
    assert_eq!(found[1].agent, slow_call(2, "charge").unwrap().agent);
    node.stop();
    // Another process may have another model.
    let _node = clinic.open(Some(ask()), 0.9);
    clinic.find(&[slow_call(5, "charge").unwrap()]);
    assert_eq!(who(&clinic.diagnoses(5))[4], "model");
}

#[test]
fn an_answer_that_is_not_surer_than_the_rules_is_not_taken() {
    let clinic = Clinic::new();
    let node = clinic.open(Some(ask()), 0.6);
    clinic.find(&[slow_call(1, "charge").unwrap(), slow_call(2, "charge").unwrap()]);
    let found = clinic.diagnoses(2);
    assert_eq!(who(&found), ["rules", "rules"]);
    for (diagnosis, words) in
        found.iter().zip(["the model, asked, says", "asked about the same symptom before"])
    {
        assert_eq!(diagnosis.fault_type, FaultType::LatencyDegradation);
        assert!(diagnosis.reasoning.contains(words), "{}", diagnosis.reasoning);
        assert!(diagnosis.reasoning.ends_with("(0.60 sure), which is not surer"), "{}", diagnosis.reasoning);
    }
    assert_eq!(clinic.asked(), 1, "why is of no interest then");
    assert_eq!(node.diagnosis_asks(), BTreeMap::from([("not_surer", 1)]));
}

/// The rules' finding holds for the anomaly of agent 1, the failure is told there and counted under `name`. What is said
/// of an engine that broke is another matter.
#[track_caller]
fn falls_back(clinic: &Clinic, node: &Node, name: &str, words: &str) {
    let mut found = Vec::new();
    wait_until("the diagnosis is missing", || {
        found = diagnoses(clinic.log.as_ref()).unwrap();
        found.retain(|diagnosis| diagnosis.agent.agent().is_some());
        !found.is_empty()
    });
    assert_eq!((who(&found), found[0].fault_type), (vec!["rules"], FaultType::LatencyDegradation));
    assert!(found[0].reasoning.contains(words), "{}", found[0].reasoning);
    assert_eq!(node.diagnosis_asks().into_iter().collect::<Vec<_>>(), [(name, 1)]);
}

#[test]
fn a_model_that_fails_leaves_the_finding_to_the_rules() {
    let fail = |shape, answer: fn(&CompletionRequest) -> String, name, words| {
        let clinic = Clinic::new();
        let node = Node::start(clinic.parts(Some(ask()), shape, answer)).unwrap();
        clinic.find(&[slow_call(1, "charge").unwrap()]);
        falls_back(&clinic, &node, name, words);
    };
    fail(
        shape(0.9),
        |_| "{\"fault_type\":".to_owned(),
        "unreadable",
        "the model was asked, and its answer cannot be read",
    );
    fail(shape(0.9), |_| panic!("broken on purpose"), "engine_fault", "did not answer: engine fault");
    let small = ScriptedShape { context_tokens: 100, ..shape(0.9) };
    fail(small, diagnosing::answer, "refused", "exceed the context of 100");
}

#[test]
fn a_model_that_is_slow_is_waited_for_until_the_deadline() {
    let (clinic, gate) = (Clinic::new(), Arc::new(Gate::default()));
    let shut = gate.clone();
    let short = AskSettings { deadline: Duration::from_millis(300), ..ask() };
    let node = clinic.parts(Some(short), shape(0.9), move |request| {
        shut.pass();
        diagnosing::answer(request)
    });
    let node = Node::start(node).unwrap();
    let _open = OpenOnDrop(gate);
    // Found in the future it has not waited yet, however long it takes until it is looked at.
    let found_at = SystemClock.now() + PATIENCE;
    diagnosing::append(clinic.log.as_ref(), &[slow_call(1, "charge").unwrap()], found_at).unwrap();
    falls_back(&clinic, &node, "deadline", "the model was asked and did not answer within");
}

#[test]
fn an_anomaly_that_waited_too_long_is_not_asked_about() {
    let clinic = Clinic::new();
    let node = clinic.open(Some(ask()), 0.9);
    let found_at = SystemClock.now() - 2 * PATIENCE;
    diagnosing::append(clinic.log.as_ref(), &[slow_call(1, "charge").unwrap()], found_at).unwrap();
    falls_back(&clinic, &node, "late", "the model was not asked: the anomaly had waited for 60000 ms");
    assert_eq!(clinic.asked(), 0);
}

#[test]
fn a_full_queue_before_the_model_is_no_reason_to_wait() {
    let (clinic, gate) = (Clinic::new(), Arc::new(Gate::default()));
    let shut = gate.clone();
    let mut parts = clinic.parts(Some(ask()), shape(0.9), move |request| {
        shut.pass();
        scripted_node::answer(request)
    });
    (parts.scheduler.slots, parts.scheduler.queue_max) = (1, 0);
    let node = Node::start(parts).unwrap();
    let _open = OpenOnDrop(gate.clone());
    // An agent has the one slot.
    node.publish(&goals(1).unwrap()).unwrap();
    gate.wait_for(1);
    clinic.find(&[slow_call(1, "charge").unwrap()]);
    falls_back(&clinic, &node, "queue_full", "too many requests wait for the model");
}

#[test]
fn while_the_model_thinks_the_stage_stays_in_order_and_the_node_goes_on() {
    let (clinic, gate) = (Clinic::new(), Arc::new(Gate::default()));
    let shut = gate.clone();
    let parts = clinic.parts(Some(ask()), shape(0.9), move |request| {
        shut.pass();
        if is_diagnosing(request) { diagnosing::answer(request) } else { scripted_node::answer(request) }
    });
    let node = Node::start(parts).unwrap();
    let _open = OpenOnDrop(gate.clone());
    clinic.find(&[looping(1).unwrap(), slow_call(2, "charge").unwrap(), looping(3).unwrap()]);
    gate.wait_for(1);
    clinic.find(&[looping(4).unwrap()]);
    // The actors of the lane share one thread with the stage.
    node.publish(&goals(2).unwrap()).unwrap();
    wait_until("no goal is accepted", || node.status().goals_accepted == 2);
    assert_eq!(who(&clinic.diagnoses(1)), ["rules"], "what came before is settled, what comes after is not");
    gate.open();
    let found = clinic.diagnoses(4);
    assert_eq!(who(&found), ["rules", "model", "rules", "rules"]);
    assert_eq!(
        found.iter().map(|diagnosis| diagnosis.agent.to_string()).collect::<Vec<_>>(),
        ["clerk-1", "clerk-2", "clerk-3", "clerk-4"]
    );
}

#[test]
fn a_diagnoser_that_dies_while_the_model_thinks_asks_again() {
    let (clinic, gate) = (Clinic::new(), Arc::new(Gate::default()));
    let shut = gate.clone();
    let parts = clinic.parts(Some(ask()), shape(0.9), move |request| {
        shut.pass();
        diagnosing::answer(request)
    });
    let node = Node::start(parts).unwrap();
    let _open = OpenOnDrop(gate.clone());
    clinic.find(&[slow_call(1, "charge").unwrap(), looping(2).unwrap(), slow_call(3, "record").unwrap()]);
    gate.wait_for(1);
    node.break_part(Part::Diagnose);
    wait_until("nobody asks again", || node.scheduler_stats().leases_granted >= 2);
    assert_eq!(diagnoses(clinic.log.as_ref()).unwrap(), []);
    gate.open();
    assert_eq!(who(&clinic.diagnoses(3)), ["model", "rules", "model"]);
    node.stop();
    clinic.diagnoses(3);
}

/// A process that ends with the test, however that ends.
struct EndOnDrop(Child);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One life of a process that has four anomalies diagnosed; whether it came to its end.
fn live(folder: &Path, die_at: Option<&str>) -> bool {
    let mut command = Command::new(env!("CARGO_BIN_EXE_node-under-test"));
    command.arg(folder).args(["0", "--anomalies", "4"]).stderr(Stdio::inherit());
    command.args(die_at.map(|die_at| ["--die-at", die_at]).into_iter().flatten());
    let mut child = EndOnDrop(command.spawn().unwrap());
    let mut ended = None;
    wait_until("the node hangs", || {
        ended = child.0.try_wait().unwrap();
        ended.is_some()
    });
    ended.unwrap().success()
}

#[test]
fn a_process_that_is_killed_while_it_asks_diagnoses_each_anomaly_once() {
    let asks = (1..=8).map(|count| (format!("ask:{count}"), true));
    let commits = Boundary::ALL
        .iter()
        .flat_map(|boundary| [2, 4, 6].map(|count| (format!("{}:{count}", boundary.name()), false)));
    for (die_at, is_passed_for_certain) in asks.chain(commits) {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path(), "http://127.0.0.1:9").unwrap();
        let survived = live(folder.path(), Some(&die_at));
        assert!(!survived || !is_passed_for_certain, "{die_at} was never passed");
        assert!(live(folder.path(), None), "after {die_at}");
        let log = ReadOnlyLog::open(folder.path().join("log")).unwrap();
        let found = diagnoses(&log).unwrap();
        let mut told: Vec<String> = found.iter().map(|diagnosis| diagnosis.agent.to_string()).collect();
        told.sort();
        assert_eq!(told, ["clerk-0", "clerk-1", "clerk-2", "clerk-3"], "after {die_at}");
        assert_eq!(who(&found), ["model"; 4], "after {die_at}");
    }
}
