//! A run as its log tells it: read from the log alone, while it runs or after.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use kintsugi_eventlog::{LogReader, Lsn};
use kintsugi_events::{
    AgentEvent, Anomaly, Diagnosis, Event, Goal, GoalResult, HealthState, Metric, Payload, Recovery, Subject,
    Topic,
};
use kintsugi_types::{AgentId, AnomalyId, DiagnosisId, GoalId, RecoveryId, Timestamp};

use crate::failure::Failure;

/// A goal and what became of it.
#[derive(Debug)]
pub(crate) struct GoalView {
    pub(crate) goal: Goal,
    pub(crate) agent: Option<AgentId>,
    pub(crate) is_started: bool,
    pub(crate) results: Vec<GoalResult>,
    /// Why it could not be taken, where it is a dead letter.
    pub(crate) refused: Option<String>,
}

/// An agent's newest state.
#[derive(Debug, Default)]
pub(crate) struct AgentView {
    pub(crate) kind: String,
    pub(crate) sequence: u64,
    pub(crate) health: HealthState,
    pub(crate) current: Option<GoalId>,
    pub(crate) queued: usize,
    pub(crate) goals_ended: u64,
    pub(crate) last_metric: Option<Metric>,
    pub(crate) quarantined: Option<String>,
}

impl AgentView {
    /// The one word that is shown.
    pub(crate) const fn shown(&self) -> &'static str {
        match self.health {
            HealthState::Failed => "failed",
            HealthState::Recovering => "recovering",
            HealthState::Degraded => "degraded",
            HealthState::Healthy if self.current.is_some() => "running",
            HealthState::Healthy => "idle",
        }
    }
}

/// One recovery with all its phases.
#[derive(Debug)]
pub(crate) struct SeamView {
    pub(crate) phases: Vec<(Timestamp, Recovery)>,
}

impl SeamView {
    /// The newest phase.
    pub(crate) fn last(&self) -> Option<&Recovery> {
        self.phases.last().map(|(_, recovery)| recovery)
    }
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct RunView {
    pub(crate) goals: BTreeMap<GoalId, GoalView>,
    pub(crate) agents: BTreeMap<AgentId, AgentView>,
    pub(crate) anomalies: BTreeMap<AnomalyId, (Timestamp, Anomaly)>,
    pub(crate) diagnoses: BTreeMap<DiagnosisId, (Timestamp, Diagnosis)>,
    pub(crate) recoveries: BTreeMap<RecoveryId, SeamView>,
    pub(crate) metrics: Vec<Metric>,
    /// Faults that were injected, by kind.
    pub(crate) faults: BTreeMap<&'static str, u64>,
    pub(crate) dead_letters: u64,
    pub(crate) events: u64,
    /// What contradicts the promises, in words.
    pub(crate) contradictions: Vec<String>,
    goals_by_offset: BTreeMap<u64, GoalId>,
}

impl RunView {
    /// Reads the whole log.
    pub(crate) fn read(log: &dyn LogReader) -> Result<Self, Failure> {
        let mut view = Self::default();
        let mut refused = None;
        let from: Lsn = log.start_lsn();
        log.replay(from, &mut |record| match record.to_event() {
            Ok(event) => {
                view.take(event, record.offset);
                ControlFlow::Continue(())
            }
            Err(failure) => {
                refused = Some(Failure::outside(format_args!(
                    "{} offset {}: {failure}",
                    record.topic, record.offset
                )));
                ControlFlow::Break(())
            }
        })?;
        refused.map_or(Ok(view), Err)
    }

    /// Goals that could not be taken.
    pub(crate) fn refused_goals(&self) -> impl Iterator<Item = (&GoalId, &str)> {
        self.goals.iter().filter_map(|(id, goal)| Some((id, goal.refused.as_deref()?)))
    }

    /// Goals that have no result yet.
    pub(crate) fn open_goals(&self) -> usize {
        self.goals.values().filter(|goal| goal.results.is_empty() && goal.refused.is_none()).count()
    }

    fn take(&mut self, event: Event, offset: u64) {
        self.events += 1;
        let Event { envelope, payload } = event;
        match payload {
            Payload::Goal(goal) => {
                if let Some(id) = goal.id.clone().or(envelope.goal) {
                    self.goals_by_offset.insert(offset, id.clone());
                    self.goals.entry(id).or_insert_with(|| GoalView {
                        goal: *goal,
                        agent: None,
                        is_started: false,
                        results: Vec::new(),
                        refused: None,
                    });
                }
            }
            Payload::Result(result) => {
                let id = result.goal.clone();
                match self.goals.get_mut(&id) {
                    Some(goal) => {
                        if !goal.results.is_empty() {
                            self.contradictions.push(format!("goal {id} ended more than once"));
                        }
                        goal.results.push(*result);
                    }
                    None => self.contradictions.push(format!("goal {id} ended and was never published")),
                }
            }
            Payload::Agent(agent_event) => {
                if let Subject::Agent(agent) = envelope.subject {
                    self.take_journal(agent, envelope.sequence.unwrap_or(0), &agent_event);
                }
            }
            Payload::Metric(metric) => {
                if let Some(agent) = self.agents.get_mut(&metric.agent) {
                    agent.last_metric = Some((*metric).clone());
                }
                self.metrics.push(*metric);
            }
            Payload::Anomaly(anomaly) => {
                self.anomalies.insert(anomaly.anomaly, (envelope.time, *anomaly));
            }
            Payload::Diagnosis(diagnosis) => {
                self.diagnoses.insert(diagnosis.diagnosis, (envelope.time, *diagnosis));
            }
            Payload::Recovery(recovery) => self.take_recovery(envelope.time, *recovery),
            Payload::Fault(fault) => *self.faults.entry(fault.kind.name()).or_default() += 1,
            Payload::DeadLetter(letter) => {
                self.dead_letters += 1;
                let goal = letter
                    .source_offset
                    .filter(|_| letter.source_topic == Topic::Goals.name())
                    .and_then(|offset| self.goals_by_offset.get(&offset))
                    .and_then(|id| self.goals.get_mut(id));
                if let Some(goal) = goal {
                    goal.refused = Some(letter.reason);
                }
            }
            Payload::Approval(_) | Payload::Snapshot(_) => {}
        }
    }

    fn take_recovery(&mut self, time: Timestamp, recovery: Recovery) {
        let seam =
            self.recoveries.entry(recovery.recovery).or_insert_with(|| SeamView { phases: Vec::new() });
        // The recoverer may have closed it at its deadline before the agent told its own end: the first end counts.
        if seam.last().is_none_or(|last| !last.phase.is_terminal()) {
            seam.phases.push((time, recovery));
        }
    }

    fn take_journal(&mut self, agent: AgentId, sequence: u64, event: &AgentEvent) {
        let view = self.agents.entry(agent.clone()).or_default();
        if sequence != view.sequence + 1 {
            self.contradictions.push(format!("journal of {agent}: {sequence} follows {}", view.sequence));
        }
        view.sequence = sequence;
        match event {
            AgentEvent::Created { kind, .. } => view.kind = kind.to_string(),
            AgentEvent::GoalAccepted { goal } => {
                view.queued += 1;
                if let Some(known) = goal.id.as_ref().and_then(|id| self.goals.get_mut(id)) {
                    known.agent = Some(agent);
                }
            }
            AgentEvent::GoalStarted { goal, .. } => {
                view.queued = view.queued.saturating_sub(1);
                view.current = Some(goal.clone());
                if let Some(known) = self.goals.get_mut(goal) {
                    known.is_started = true;
                }
            }
            AgentEvent::GoalEnded(end) => {
                if view.current.take_if(|current| *current == end.goal).is_none() {
                    view.queued = view.queued.saturating_sub(1);
                }
                view.goals_ended += 1;
            }
            AgentEvent::CheckpointTaken(checkpoint) => view.health = checkpoint.health_state,
            AgentEvent::RecoveryStarted { .. } => view.health = HealthState::Recovering,
            AgentEvent::Quarantined { reason } => {
                view.health = HealthState::Failed;
                view.quarantined = Some(reason.clone());
            }
            AgentEvent::Resumed { .. } => {
                view.health = HealthState::Healthy;
                view.quarantined = None;
            }
            _ => {}
        }
    }
}
