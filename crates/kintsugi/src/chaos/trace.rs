//! What a run's log tells of its faults and of all that may have come of them. A fold: it does no IO.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use kintsugi_eventlog::LogReader;
use kintsugi_events::expect::evaluate;
use kintsugi_events::{
    AgentEvent, Anomaly, Envelope, Event, GoalResult, GoalStatus, InjectedFault, Payload, Recovery,
    RecoveryPhase, Subject,
};
use kintsugi_types::{AgentId, AnomalyId, DiagnosisId, EventId, GoalId, RecoveryId, Timestamp, ToolName};
use serde_json::Value;

use crate::failure::Failure;
use crate::view::for_each_event;

/// Where an event stands: its place among all events of the log, and its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At {
    pub(super) place: u64,
    pub(super) time: Timestamp,
}

/// One agent's work on one goal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Work {
    pub(super) agent: AgentId,
    pub(super) goal: GoalId,
}

/// One measured try of a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Try {
    pub(super) at: At,
    pub(super) step: u32,
    /// Inference and tool without queueing, in milliseconds.
    pub(super) ms: f64,
}

/// An anomaly, with the work and the step that it was measured in.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) at: At,
    pub(super) anomaly: Anomaly,
    /// Missing where nobody measured it: an engine's.
    pub(super) place: Option<(Work, u32)>,
}

/// What became of a goal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Became {
    pub(super) status: GoalStatus,
    /// Missing where nobody said what would be right.
    pub(super) is_correct: Option<bool>,
}

/// A run, as far as faults are concerned.
#[derive(Debug, Default)]
pub(super) struct Trace {
    pub(super) faults: Vec<(At, InjectedFault)>,
    pub(super) anomalies: Vec<Found>,
    /// The diagnoses that name an anomaly.
    pub(super) diagnoses: HashMap<AnomalyId, Vec<DiagnosisId>>,
    /// Each recovery's phases.
    pub(super) recoveries: BTreeMap<RecoveryId, Vec<(At, Recovery)>>,
    /// Measured tries of steps, in order.
    pub(super) tries: HashMap<Work, Vec<Try>>,
    /// The tokens of each inference, in order.
    pub(super) thoughts: HashMap<Work, Vec<(At, u64)>>,
    pub(super) results: BTreeMap<GoalId, GoalResult>,
    expected: BTreeMap<GoalId, Value>,
    writes: BTreeSet<ToolName>,
    measured: HashMap<EventId, (Work, u32)>,
    events: u64,
}

impl Trace {
    /// Reads the whole log.
    pub(super) fn read(log: &dyn LogReader) -> Result<Self, Failure> {
        let mut trace = Self::default();
        for_each_event(log, &mut |event, _| trace.take(event))?;
        Ok(trace)
    }

    /// Takes in the next event.
    pub(super) fn take(&mut self, event: Event) {
        let Event { envelope, payload } = event;
        let at = At { place: self.events, time: envelope.time };
        self.events += 1;
        match payload {
            Payload::Fault(fault) => self.faults.push((at, *fault)),
            Payload::Metric(metric) => {
                let work = Work { agent: metric.agent, goal: metric.goal };
                self.measured.insert(envelope.id, (work.clone(), metric.step));
                let measured = Try { at, step: metric.step, ms: metric.latency_ms.total };
                self.tries.entry(work).or_default().push(measured);
            }
            Payload::Anomaly(anomaly) => {
                let measured = envelope.causation.and_then(|cause| self.measured.get(&cause)).cloned();
                let named = || match (&anomaly.agent, &anomaly.goal) {
                    (Subject::Agent(agent), Some(goal)) => {
                        Some((Work { agent: agent.clone(), goal: goal.clone() }, anomaly.step))
                    }
                    _ => None,
                };
                let place = measured.or_else(named);
                self.anomalies.push(Found { at, anomaly: *anomaly, place });
            }
            Payload::Diagnosis(diagnosis) => {
                for anomaly in &diagnosis.anomalies {
                    self.diagnoses.entry(*anomaly).or_default().push(diagnosis.diagnosis);
                }
            }
            Payload::Recovery(recovery) => {
                self.recoveries.entry(recovery.recovery).or_default().push((at, *recovery));
            }
            Payload::Goal(goal) => {
                if let (Some(id), Some(expect)) = (goal.id.or(envelope.goal), goal.expect) {
                    self.expected.entry(id).or_insert(expect);
                }
            }
            Payload::Result(result) => {
                self.results.entry(result.goal.clone()).or_insert(*result);
            }
            Payload::Agent(journal) => self.take_journal(at, envelope, *journal),
            _ => {}
        }
    }

    fn take_journal(&mut self, at: At, envelope: Envelope, event: AgentEvent) {
        match event {
            AgentEvent::ActionRequested { call, safety, .. } if safety.is_write() => {
                self.writes.insert(call.tool);
            }
            AgentEvent::ThoughtRecorded(thought) => {
                if let (Subject::Agent(agent), Some(goal)) = (envelope.subject, envelope.goal) {
                    let tokens = thought.tokens.prompt + thought.tokens.completion;
                    self.thoughts.entry(Work { agent, goal }).or_default().push((at, tokens));
                }
            }
            _ => {}
        }
    }

    /// What became of a goal; nothing where it was lost.
    pub(super) fn became(&self, goal: &GoalId) -> Option<Became> {
        let result = self.results.get(goal)?;
        let is_write = |tool: &ToolName| self.writes.contains(tool);
        let is_met = |expect: &Value| evaluate(expect, result, &is_write).unwrap_or(false);
        Some(Became { status: result.status, is_correct: self.expected.get(goal).map(is_met) })
    }

    /// Goals whose outcome is what their producer said would be right.
    pub(super) fn correct(&self) -> BTreeSet<&GoalId> {
        let is_correct = |id: &&GoalId| self.became(id).is_some_and(|became| became.is_correct == Some(true));
        self.results.keys().filter(is_correct).collect()
    }

    /// The recoveries that were decided on for an anomaly.
    pub(super) fn recoveries_for(&self, anomaly: AnomalyId) -> impl Iterator<Item = &[(At, Recovery)]> {
        let diagnoses = self.diagnoses.get(&anomaly).map_or(&[][..], Vec::as_slice);
        let is_of = |phases: &&[(At, Recovery)]| {
            phases.first().is_some_and(|(_, r)| diagnoses.contains(&r.diagnosis))
        };
        self.recoveries.values().map(Vec::as_slice).filter(is_of)
    }
}

/// Whether a recovery was taken up.
pub(super) fn is_tried(phases: &[(At, Recovery)]) -> bool {
    phases.iter().any(|(_, recovery)| recovery.phase == RecoveryPhase::Started)
}

/// The end of a recovery, where it has one. The recover stage may give one up that the agent completes all the same:
/// what was measured counts.
pub(super) fn end(phases: &[(At, Recovery)]) -> Option<&(At, Recovery)> {
    let completed = phases.iter().find(|(_, recovery)| recovery.phase == RecoveryPhase::Completed);
    completed.or_else(|| phases.iter().find(|(_, recovery)| recovery.phase.is_terminal()))
}
