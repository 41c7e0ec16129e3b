//! An audit of a log: folds it again from nothing and counts what contradicts the promises.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use anyhow::{Result, anyhow};
use kintsugi_agent::AgentState;
use kintsugi_eventlog::{LogReader, Lsn};
use kintsugi_events::{AgentEvent, GoalResult, Payload, RecoveryPhase, Subject};
use kintsugi_types::{AgentId, AgentKind, AnomalyId, DiagnosisId, GoalId, RecoveryId, TenantId};

/// What a log holds, folded from its first event.
#[derive(Debug, Default)]
pub struct Audit {
    /// Goals that were published, and how often each ended.
    pub goals: BTreeMap<GoalId, Vec<GoalResult>>,
    /// Agents as their journals fold.
    pub agents: BTreeMap<AgentId, AgentState>,
    /// Checkpoints whose hash was compared with the fold.
    pub checkpoints: u64,
    /// Anomalies, and whether a recovery that ended came of each.
    pub anomalies: BTreeMap<AnomalyId, bool>,
    /// Recoveries with their newest phase.
    pub recoveries: BTreeMap<RecoveryId, RecoveryPhase>,
    /// Recoveries that helped, by action.
    pub healed: BTreeMap<&'static str, u64>,
    /// Dead letters, by reason.
    pub dead_letters: Vec<String>,
    /// What contradicts the promises, in words.
    pub contradictions: Vec<String>,
    diagnoses: BTreeMap<DiagnosisId, Vec<AnomalyId>>,
}

impl Audit {
    /// Reads the whole log.
    pub fn of(log: &dyn LogReader) -> Result<Self> {
        let mut audit = Self::default();
        audit.follow(log, log.start_lsn())?;
        for (goal, results) in &audit.goals {
            if results.len() > 1 {
                audit.contradictions.push(format!("goal {goal} ended {} times", results.len()));
            }
        }
        Ok(audit)
    }

    /// Takes in what the log holds from `from` on, and returns where to go on.
    pub fn follow(&mut self, log: &dyn LogReader, from: Lsn) -> Result<Lsn> {
        let mut failed = None;
        let next = log.replay(from, &mut |record| match record.to_event() {
            Ok(event) => {
                let sequence = event.envelope.sequence;
                self.take(event.envelope.subject, sequence, event.payload);
                ControlFlow::Continue(())
            }
            Err(failure) => {
                failed = Some(anyhow!("{} offset {}: {failure}", record.topic, record.offset));
                ControlFlow::Break(())
            }
        })?;
        failed.map_or(Ok(next), Err)
    }

    /// Goals without a result.
    pub fn open_goals(&self) -> usize {
        self.goals.values().filter(|results| results.is_empty()).count()
    }

    fn take(&mut self, subject: Subject, sequence: Option<u64>, payload: Payload) {
        match payload {
            Payload::Goal(goal) => {
                if let Some(id) = goal.id {
                    self.goals.entry(id).or_default();
                }
            }
            Payload::Result(result) => match self.goals.get_mut(&result.goal) {
                Some(results) => results.push(*result),
                None => self.contradictions.push(format!("goal {} ended unpublished", result.goal)),
            },
            Payload::Agent(event) => {
                if let Subject::Agent(agent) = subject {
                    self.fold(&agent, sequence.unwrap_or(0), &event);
                }
            }
            Payload::Anomaly(anomaly) => {
                self.anomalies.insert(anomaly.anomaly, false);
            }
            Payload::Diagnosis(diagnosis) => {
                self.diagnoses.insert(diagnosis.diagnosis, diagnosis.anomalies);
            }
            Payload::Recovery(recovery) => {
                // The recoverer may close it at its deadline before the agent tells its own end: the first counts.
                let known = self.recoveries.entry(recovery.recovery).or_insert(recovery.phase);
                if known.is_terminal() && *known != recovery.phase {
                    return;
                }
                *known = recovery.phase;
                if recovery.phase == RecoveryPhase::Completed {
                    *self.healed.entry(recovery.action.name()).or_default() += 1;
                }
                if recovery.phase.is_terminal() {
                    for anomaly in self.diagnoses.get(&recovery.diagnosis).into_iter().flatten() {
                        self.anomalies.insert(*anomaly, true);
                    }
                }
            }
            Payload::DeadLetter(letter) => self.dead_letters.push(letter.reason),
            Payload::Metric(_) | Payload::Approval(_) | Payload::Snapshot(_) | Payload::Fault(_) => {}
        }
    }

    fn fold(&mut self, agent: &AgentId, sequence: u64, event: &AgentEvent) {
        let state = match self.agents.entry(agent.clone()) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(new) => {
                let Ok(kind) = AgentKind::new(agent.as_str()) else { return };
                new.insert(AgentState::new(agent.clone(), kind, TenantId::default()))
            }
        };
        if sequence != state.sequence + 1 {
            self.contradictions.push(format!("journal of {agent}: {sequence} follows {}", state.sequence));
        }
        if let AgentEvent::CheckpointTaken(checkpoint) = event {
            self.checkpoints += 1;
            if checkpoint.state_hash != state.hash() {
                self.contradictions
                    .push(format!("{agent} at {sequence}: the live state was not the folded one"));
            }
        }
        state.apply(event);
    }
}
