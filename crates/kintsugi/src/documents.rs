//! What goals, agents, seams and events look like to programs, on the command line and over HTTP alike.

use std::collections::{BTreeMap, HashMap};

use kintsugi_eventlog::{Record, RecordError};
use kintsugi_events::{
    Anomaly, Diagnosis, FaultType, GoalResult, HealthScores, Metric, Recovery, RecoveryAction, RecoveryPhase,
    Subject,
};
use kintsugi_gpu_scheduler::Residence;
use kintsugi_types::{AgentId, AgentKind, GoalId, ModelName, RecoveryId, Score, Timestamp};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::cli::GoalState;
use crate::outsiders::{bare_document, event_of};
use crate::view::{AgentView, GoalView, RunView, SeamView};

/// A goal and what became of it.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "GoalState")]
pub(crate) struct GoalDocument<'a> {
    /// Its id.
    id: &'a str,
    /// `published`, `queued`, `running`, `completed`, `partial`, `failed` or `refused`.
    state: &'static str,
    /// The kind of agent that it asks for.
    kind: Option<&'a AgentKind>,
    /// Who works it.
    agent: Option<&'a AgentId>,
    /// The goal in words.
    text: &'a str,
    /// How it ended.
    result: Option<&'a GoalResult>,
    /// Why it could not be taken.
    refused: Option<&'a str>,
}

impl<'a> GoalDocument<'a> {
    /// The document of the goal with this id.
    pub(crate) fn of(id: &'a str, goal: &'a GoalView) -> Self {
        Self {
            id,
            state: goal_state(goal),
            kind: goal.goal.kind.as_ref(),
            agent: goal.agent.as_ref(),
            text: &goal.goal.text,
            result: goal.results.first(),
            refused: goal.refused.as_deref(),
        }
    }
}

/// What a goal is at, in one word.
pub(crate) fn goal_state(goal: &GoalView) -> &'static str {
    let state = match goal.results.first() {
        Some(result) => return result.status.name(),
        None if goal.refused.is_some() => GoalState::Refused,
        None if goal.is_started => GoalState::Running,
        None if goal.agent.is_some() => GoalState::Queued,
        None => GoalState::Published,
    };
    state.name()
}

/// An agent as it is now.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "AgentState")]
pub(crate) struct AgentDocument<'a> {
    /// Its id.
    agent: &'a AgentId,
    /// Its kind.
    kind: &'a str,
    /// `idle`, `running`, `degraded`, `recovering` or `failed`.
    state: &'static str,
    /// Where its keys and values are: `resident` on the model's device, `swapped` in host memory; `waiting` where it has a
    /// goal and none yet, `dormant` where it is not in memory at all. Null where only its running node knows.
    residency: Option<&'static str>,
    /// Health after its last step.
    health: Option<Score>,
    /// The five parts of it.
    scores: Option<HealthScores>,
    /// The goal that it works.
    goal: Option<&'a GoalId>,
    /// The smaller model, where that gave the answer of its last step; missing where the node's main one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a ModelName>,
    /// Goals that wait for it.
    queued: usize,
    /// Goals that it ended.
    goals_ended: u64,
    /// The length of its journal.
    sequence: u64,
    /// Why it needs a person.
    quarantined: Option<&'a str>,
    /// Its newest recoveries, newest first.
    seams: Vec<SeamLine<'a>>,
}

/// An agent that is not in memory.
const DORMANT: &str = "dormant";

/// A recovery in short.
#[derive(Debug, Serialize, JsonSchema)]
struct SeamLine<'a> {
    recovery: &'a RecoveryId,
    fault_type: FaultType,
    action: RecoveryAction,
    phase: RecoveryPhase,
}

/// How many of an agent's seams are shown with it.
const SEAMS_SHOWN: usize = 5;

/// The newest recoveries of an agent, newest first.
pub(crate) fn last_seams<'a>(id: &AgentId, run: &'a RunView) -> impl Iterator<Item = &'a Recovery> {
    run.recoveries
        .values()
        .filter_map(|seam| seam.last())
        .filter(move |recovery| matches!(&recovery.agent, Subject::Agent(of) if of == id))
        .rev()
        .take(SEAMS_SHOWN)
}

impl<'a> AgentDocument<'a> {
    /// The document of the agent with this id.
    pub(crate) fn of(id: &'a AgentId, agent: &'a AgentView, run: &'a RunView) -> Self {
        let seam = |recovery: &'a Recovery| SeamLine {
            recovery: &recovery.recovery,
            fault_type: recovery.fault_type,
            action: recovery.action,
            phase: recovery.phase,
        };
        Self {
            agent: id,
            kind: &agent.kind,
            state: agent.shown(),
            residency: (!agent.has_load()).then_some(DORMANT),
            health: agent.last_metric.as_ref().map(|metric| metric.health),
            scores: agent.last_metric.as_ref().map(|metric| metric.scores),
            goal: agent.current.as_ref(),
            model: agent.last_metric.as_ref().and_then(|metric| metric.model.as_ref()),
            queued: agent.queued,
            goals_ended: agent.goals_ended,
            sequence: agent.sequence,
            quarantined: agent.quarantined.as_deref(),
            seams: last_seams(id, run).map(seam).collect(),
        }
    }

    /// The same, with what its running node knows of where agents are.
    pub(crate) fn in_node(mut self, residences: &BTreeMap<AgentId, Residence>) -> Self {
        self.residency = match residences.get(self.agent) {
            Some(Residence::Resident) => Some("resident"),
            Some(Residence::Swapped) => Some("swapped"),
            None => self.residency.or(Some("waiting")),
        };
        self
    }
}

/// A recovery with all that led to it.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Seam")]
pub(crate) struct SeamDocument<'a> {
    /// What the anomalies saw.
    pub(crate) metrics: Vec<&'a Metric>,
    /// What deviated.
    pub(crate) anomalies: Vec<&'a Anomaly>,
    /// What was wrong, and why.
    pub(crate) diagnosis: Option<&'a Diagnosis>,
    /// The newest phase of the recovery.
    pub(crate) recovery: Option<&'a Recovery>,
    /// All phases, in order.
    pub(crate) phases: Vec<PhaseDocument<'a>>,
}

/// One phase of a recovery.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "SeamPhase")]
pub(crate) struct PhaseDocument<'a> {
    pub(crate) time: &'a Timestamp,
    pub(crate) phase: RecoveryPhase,
    pub(crate) outcome: Option<&'a str>,
}

/// Metrics by agent and by the place in its journal that they saw. An anomaly names the same.
pub(crate) type MetricsByPlace<'a> = HashMap<(&'a AgentId, u64), &'a Metric>;

/// The metrics of a view, to be found by anomalies.
pub(crate) fn metrics_by_place(run: &RunView) -> MetricsByPlace<'_> {
    run.metrics.iter().map(|metric| ((&metric.agent, metric.sequence), metric)).collect()
}

impl<'a> SeamDocument<'a> {
    /// The document of a recovery.
    pub(crate) fn of(seam: &'a SeamView, run: &'a RunView, metrics: &MetricsByPlace<'a>) -> Self {
        let diagnosis =
            seam.last().and_then(|last| run.diagnoses.get(&last.diagnosis)).map(|(_, diagnosis)| diagnosis);
        let anomalies: Vec<&Anomaly> = diagnosis
            .iter()
            .flat_map(|diagnosis| &diagnosis.anomalies)
            .filter_map(|id| run.anomalies.get(id))
            .map(|(_, anomaly)| anomaly)
            .collect();
        let metrics = anomalies
            .iter()
            .filter_map(|anomaly| metrics.get(&(anomaly.agent.agent()?, anomaly.sequence)).copied())
            .collect();
        let phases = seam
            .phases
            .iter()
            .map(|(time, recovery)| PhaseDocument {
                time,
                phase: recovery.phase,
                outcome: recovery.outcome.as_deref(),
            })
            .collect();
        Self { metrics, anomalies, diagnosis, recovery: seam.last(), phases }
    }
}

/// The event in the CloudEvents JSON format with its place added. What somebody else wrote and is no event has its data
/// and its place alone.
pub(crate) fn cloud_event(record: &Record) -> Result<Value, RecordError> {
    let mut document = match record.to_event() {
        Ok(event) => event.to_cloud_event(),
        Err(failure) => match event_of(record) {
            Ok(_) => bare_document(record),
            Err(_) => return Err(failure),
        },
    };
    if let Some(members) = document.as_object_mut() {
        members.insert("topic".to_owned(), record.topic.name().into());
        members.insert("partition".to_owned(), record.partition.into());
        members.insert("offset".to_owned(), record.offset.into());
    }
    Ok(document)
}
