//! What is going on in a node, for progress lines and summaries: counters, never a source of truth.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use kintsugi_events::{AgentEvent, Event, GoalStatus, Payload, RecoveryAction, RecoveryPhase, Topic};
use kintsugi_types::TokenUsage;
use serde::Serialize;

/// Counters of a node at one time.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct StatusSnapshot {
    /// Goals that were accepted by an agent, by this process.
    pub goals_accepted: u64,
    /// Goals that ended, by status.
    pub goals_completed: u64,
    /// See `goals_completed`.
    pub goals_partial: u64,
    /// See `goals_completed`.
    pub goals_failed: u64,
    /// Goals that could not be taken: they are dead letters.
    pub goals_refused: u64,
    /// Agents with load, by the state that is shown.
    pub agents: BTreeMap<&'static str, u64>,
    /// Steps that were measured.
    pub steps: u64,
    /// Tool calls that ended.
    pub tool_calls: u64,
    /// Tokens of thoughts.
    pub tokens: TokenUsage,
    /// Anomalies that were found.
    pub anomalies: u64,
    /// Diagnoses that were made.
    pub diagnoses: u64,
    /// Recoveries that were planned.
    pub plans: u64,
    /// Recoveries that helped.
    pub healed: u64,
    /// Recoveries that did not.
    pub not_healed: u64,
    /// Faults that only a person can mend, and that one was told of.
    pub needing_person: u64,
    /// The newest lines about seams, oldest first.
    pub seam_lines: Vec<String>,
    /// Set when the log takes no more appends: the node cannot go on.
    pub log_failure: Option<String>,
}

impl StatusSnapshot {
    /// Goals that ended.
    pub const fn goals_ended(&self) -> u64 {
        self.goals_completed + self.goals_partial + self.goals_failed
    }

    /// Goals of which nothing more is to come: they ended, or could not be taken.
    pub const fn goals_settled(&self) -> u64 {
        self.goals_ended() + self.goals_refused
    }
}

/// The most lines about seams that wait to be shown; the oldest are dropped.
const SEAM_LINES_MAX: usize = 256;

/// The counters of a running node.
#[derive(Debug, Default)]
pub struct Status {
    inner: Mutex<StatusSnapshot>,
    /// Agents with load by the state that is shown, for each lane.
    agents: Mutex<BTreeMap<u32, BTreeMap<&'static str, u64>>>,
    /// What came of each time that the model was to be asked for a diagnosis.
    asks: Mutex<BTreeMap<&'static str, u64>>,
}

impl Status {
    /// The counters now. Lines about seams are handed out once.
    pub fn take(&self) -> StatusSnapshot {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = std::mem::take(&mut inner.seam_lines);
        let mut snapshot = inner.clone();
        drop(inner);
        snapshot.seam_lines = lines;
        for agents in self.agents.lock().unwrap_or_else(PoisonError::into_inner).values() {
            for (state, count) in agents {
                *snapshot.agents.entry(state).or_insert(0) += count;
            }
        }
        snapshot
    }

    /// Notes what the agents with load of lane number `lane` are at.
    pub(crate) fn count_agents(&self, lane: u32, agents: BTreeMap<&'static str, u64>) {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner).insert(lane, agents);
    }

    /// Forgets the agents of a lane that is closed.
    pub(crate) fn forget_lane(&self, lane: u32) {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner).remove(&lane);
    }

    /// Notes what came of asking the model for a diagnosis.
    pub(crate) fn count_ask(&self, outcome: &'static str) {
        *self.asks.lock().unwrap_or_else(PoisonError::into_inner).entry(outcome).or_default() += 1;
    }

    /// What came of each time that the model was to be asked for a diagnosis.
    pub(crate) fn asks(&self) -> BTreeMap<&'static str, u64> {
        self.asks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn log_failed(&self, reason: String) {
        // What came first is the cause.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).log_failure.get_or_insert(reason);
    }

    /// Counts events that were committed.
    pub(crate) fn count(&self, events: &[Event]) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        for event in events {
            match &event.payload {
                Payload::Result(result) => match result.status {
                    GoalStatus::Completed => inner.goals_completed += 1,
                    GoalStatus::Partial => inner.goals_partial += 1,
                    GoalStatus::Failed => inner.goals_failed += 1,
                },
                Payload::DeadLetter(letter) if letter.source_topic == Topic::Goals.name() => {
                    inner.goals_refused += 1;
                }
                Payload::Metric(metric) => {
                    // That nothing more could be spent was no step.
                    inner.steps += u64::from(metric.spent.is_none());
                    inner.tokens += metric.tokens;
                    inner.tool_calls += u64::from(metric.tool.is_some());
                }
                Payload::Anomaly(_) => inner.anomalies += 1,
                Payload::Diagnosis(_) => inner.diagnoses += 1,
                Payload::Recovery(recovery) if recovery.phase == RecoveryPhase::Planned => inner.plans += 1,
                Payload::Recovery(recovery) if recovery.phase.is_terminal() => {
                    match recovery.phase {
                        // Who told a person has mended nothing.
                        RecoveryPhase::Completed if recovery.action == RecoveryAction::NotifyHuman => {
                            inner.needing_person += 1;
                        }
                        RecoveryPhase::Completed => inner.healed += 1,
                        RecoveryPhase::Failed => inner.not_healed += 1,
                        _ => {}
                    }
                    if recovery.phase != RecoveryPhase::Abandoned {
                        if inner.seam_lines.len() == SEAM_LINES_MAX {
                            inner.seam_lines.remove(0);
                        }
                        let line = seam_line(recovery);
                        inner.seam_lines.push(line);
                    }
                }
                Payload::Agent(agent_event) => match **agent_event {
                    AgentEvent::GoalAccepted { .. } => inner.goals_accepted += 1,
                    // It is accepted again, elsewhere.
                    AgentEvent::GoalReassigned { .. } => {
                        inner.goals_accepted = inner.goals_accepted.saturating_sub(1);
                    }
                    _ => {}
                },
                _ => {}
            }
        }
    }
}

fn seam_line(recovery: &kintsugi_events::Recovery) -> String {
    let health = |score: Option<kintsugi_types::Score>| {
        score.map_or_else(|| "?".to_owned(), |score| format!("{:.2}", score.get()))
    };
    format!(
        "{} {}: {} {} in {} ms, health {} to {}",
        recovery.agent,
        recovery.fault_type.name(),
        recovery.action.name(),
        recovery.phase.name(),
        recovery.duration_ms.unwrap_or(0),
        health(recovery.health_before),
        health(recovery.health_after),
    )
}
