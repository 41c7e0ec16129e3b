//! What of a lane's log is still needed, and letting go of the rest.
//!
//! An agent comes back from its newest snapshot and what its journal holds after it. A dormant one writes neither any
//! more, so before the part of the log that holds its snapshot goes, the snapshot is written again at the end. What
//! stays is then enough to rebuild a lost cache. The ids of goals whose acceptance is gone are forgotten there too.

mod goals;

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::time::Duration;

use kintsugi_agent::{AgentState, STATE_VERSION};
use kintsugi_eventlog::{Append, LogError, Lsn, NewRecord, Record, Retained, Retention, TopicPartition};
use kintsugi_events::{Envelope, Event, Payload, Snapshot, Subject, Topic};
use kintsugi_types::{AgentId, ByteCount, SystemIds};
use serde::Deserialize;
use serde_json::value::RawValue;
use tracing::{debug, info};

use self::goals::OpenGoals;
use crate::lane_context::LaneContext;
use crate::partition::GATES_STATE;
use crate::restore::STAGE_PREFIX;
use crate::store::StoreError;

/// Snapshots that are written again in one append.
const RENEWED_AT_ONCE: usize = 64;

/// Bytes after which such an append ends.
const RENEWED_BYTES: usize = 1 << 20;

/// A longer state is not written again: the log stays as it is until the agent has a shorter one.
const STATE_BYTES_MAX: usize = 8 << 20;

/// What is deleted has to be so many times what is written again for it, or nothing is gained.
const GAIN_MIN: u64 = 2;

/// What is kept in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// What is younger.
    pub age_min: Duration,
    /// So many of the newest bytes.
    pub bytes_min: ByteCount,
    /// All from here on: where somebody is who reads the log and stores no position.
    pub from: Lsn,
}

/// Why nothing, or not all, was deleted.
#[derive(Debug, thiserror::Error)]
pub enum RetainError {
    /// The log cannot be read, written or cut.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The cache cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A snapshot cannot be read or written.
    #[error("snapshot of {of}: {source}")]
    Snapshot {
        /// Whose.
        of: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// An event by which an agent took a goal cannot be read.
    #[error("accepted goal at {lsn}: {source}")]
    Goal {
        /// Where.
        lsn: Lsn,
        /// What is wrong.
        source: serde_json::Error,
    },
}

/// What is read of a snapshot.
#[derive(Debug, Deserialize)]
struct SnapshotHead {
    of: String,
    version: u32,
    sequence: u64,
}

/// What is read of a stage's.
#[derive(Debug, Deserialize)]
struct StageHead {
    state: StageTaken,
}

#[derive(Debug, Deserialize)]
struct StageTaken {
    next: BTreeMap<Topic, u64>,
}

/// The newest snapshot of an agent.
#[derive(Debug, Clone, Copy)]
struct Snapshotted {
    sequence: u64,
    lsn: Lsn,
    bytes: u64,
}

/// How an agent's journal lies in the log.
#[derive(Debug, Default)]
struct Journal {
    snapshot: Option<Snapshotted>,
    /// The newest event's sequence.
    last: u64,
    /// The oldest event that the snapshot lacks.
    uncovered: Option<(u64, Lsn)>,
}

impl Journal {
    fn take_event(&mut self, sequence: u64, lsn: Lsn) {
        self.last = self.last.max(sequence);
        if self.snapshot.is_none_or(|snapshot| snapshot.sequence < sequence) {
            self.uncovered.get_or_insert((sequence, lsn));
        }
    }

    fn take_snapshot(&mut self, snapshot: Snapshotted) {
        if self.snapshot.is_some_and(|known| known.sequence > snapshot.sequence) {
            return;
        }
        self.snapshot = Some(snapshot);
        self.last = self.last.max(snapshot.sequence);
        if snapshot.sequence >= self.last {
            self.uncovered = None;
        }
    }

    /// The oldest place that the agent would come back from.
    fn oldest(&self) -> Lsn {
        let snapshot = self.snapshot.map_or(Lsn(u64::MAX), |snapshot| snapshot.lsn);
        self.uncovered.map_or(snapshot, |(_, lsn)| lsn.min(snapshot))
    }

    /// Whether nothing below `cut` is needed any more once a state at `sequence` is written at the end.
    fn is_covered_by(&self, sequence: u64, cut: Lsn) -> bool {
        self.snapshot.is_none_or(|snapshot| snapshot.sequence <= sequence)
            && self.uncovered.is_none_or(|(_, lsn)| lsn >= cut || self.last <= sequence)
    }
}

/// Where the newest snapshot of a stage lies.
#[derive(Debug, Clone, Copy)]
struct StageSnapshot {
    lsn: Lsn,
    offset: u64,
    bytes: u64,
}

/// What of a log is needed, as far as it was read. It reads nothing before something could go.
#[derive(Debug, Default)]
pub(crate) struct Needs {
    next: Lsn,
    agents: HashMap<String, Journal>,
    /// The newest snapshot of each stage.
    stages: BTreeMap<String, StageSnapshot>,
    goals: OpenGoals,
    /// The agent that was in the way the last time that one was.
    pinning: Option<String>,
}

impl Needs {
    /// Deletes what nobody needs of what `keep` lets go.
    ///
    /// Each bound is dearer to find than the one before it, and is looked for only where that one leaves something:
    ///
    /// - `wanted`: age and amount, which the settings give, and what consumers have read. The log has it in memory.
    /// - `floor`: the cache's mark, the place of the view, the goals without a result. For these the log is read on.
    /// - `low_water`: what the stages need too, whose newest snapshots are read. They are asked for newer ones where
    ///   they alone are in the way, so everybody but the agents comes before them.
    /// - `reachable`: the whole files below that, where they are worth what is written again for the agents. The sizes
    ///   are known, so nothing is unpacked for what is too dear.
    /// - `planned`: what the agents need whose states in the cache do not cover it. Each state is unpacked: last.
    pub(crate) fn let_go(&mut self, lane: &LaneContext, keep: &Keep) -> Result<Retained, RetainError> {
        let log = lane.core.log.as_ref();
        let (age_min, bytes_min) = (keep.age_min, keep.bytes_min.bytes());
        let below = |low_water| Retention { age_min, bytes_min, low_water };
        let start = log.start_lsn();
        let nothing = Retained { start_lsn: start, ..Retained::default() };
        let wanted = log.retainable(&below(Lsn(u64::MAX))).start_lsn;
        if wanted <= start {
            return Ok(nothing);
        }
        self.follow(lane)?;
        // Of what was not read yet nobody knows who needs it.
        let floor = self.floor(lane)?.min(keep.from).min(self.next);
        let low_water = floor.min(self.stages_floor(lane, &log.retainable(&below(floor)))?);
        let reachable = log.retainable(&below(low_water));
        let planned = self.planned(lane, reachable, |pin| log.retainable(&below(low_water.min(pin))))?;
        debug!(
            start = start.0,
            wanted = wanted.0,
            low_water = low_water.0,
            reachable = reachable.start_lsn.0,
            planned = planned.map(|planned| planned.start_lsn.0),
            "retention"
        );
        let Some(planned) = planned else { return Ok(nothing) };
        let agents: Vec<String> = self.renewed(planned.start_lsn).map(|(agent, _)| agent.clone()).collect();
        if !renew(lane, &agents)? {
            return Ok(nothing);
        }
        let retained = log.retain(&below(planned.start_lsn))?;
        let forgotten = lane.core.store.forget_goals_before(retained.start_lsn)?;
        info!(
            segments = retained.segments_deleted,
            bytes = retained.bytes_deleted,
            start = retained.start_lsn.0,
            snapshots_renewed = agents.len(),
            goals_forgotten = forgotten,
            "deleted the oldest of the log"
        );
        Ok(retained)
    }

    /// Reads what the log holds since the last time.
    fn follow(&mut self, lane: &LaneContext) -> Result<(), RetainError> {
        let log = lane.core.log.as_ref();
        let goals = TopicPartition::new(Topic::Goals, lane.core.place.number);
        // Before the log is read on: what it says is then seen too.
        let settled = log.position("partition", goals).unwrap_or(0);
        let topics = [Topic::Goals, Topic::Agents, Topic::Results, Topic::Snapshots];
        let mut failed = None;
        let from = self.next.max(log.start_lsn());
        let next = log.replay_topics(&topics, from, &mut |record| match self.take(&record) {
            Ok(()) => ControlFlow::Continue(()),
            Err(failure) => {
                failed = Some(failure);
                ControlFlow::Break(())
            }
        })?;
        if let Some(failure) = failed {
            // From the same place again: nothing is deleted past what cannot be read.
            return Err(failure);
        }
        self.next = next;
        self.goals.settle(settled);
        Ok(())
    }

    fn take(&mut self, record: &Record) -> Result<(), RetainError> {
        let Some(envelope) = &record.envelope else { return Ok(()) };
        match (record.topic, &envelope.goal) {
            (Topic::Goals, Some(goal)) => self.goals.publish(goal, record),
            (Topic::Results, Some(goal)) => self.goals.end(goal, &record.key),
            (Topic::Agents, goal) => {
                if let Some(goal) = goal {
                    let taken = self.goals.take_journal(goal, record);
                    taken.map_err(|source| RetainError::Goal { lsn: record.lsn, source })?;
                }
                let journal = self.agents.entry(record.key.clone()).or_default();
                journal.take_event(envelope.sequence.unwrap_or(0), record.lsn);
            }
            (Topic::Snapshots, _) => {
                let head: SnapshotHead = serde_json::from_slice(&record.value)
                    .map_err(|source| RetainError::Snapshot { of: record.key.clone(), source })?;
                let bytes = record.value.len() as u64;
                if head.of.starts_with(STAGE_PREFIX) {
                    let (lsn, offset) = (record.lsn, record.offset);
                    self.stages.insert(head.of, StageSnapshot { lsn, offset, bytes });
                } else if head.version == STATE_VERSION {
                    let snapshot = Snapshotted { sequence: head.sequence, lsn: record.lsn, bytes };
                    self.agents.entry(head.of).or_default().take_snapshot(snapshot);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The oldest place that the cache or an open goal needs.
    fn floor(&self, lane: &LaneContext) -> Result<Lsn, StoreError> {
        let mark = lane.core.store.replay_from()?;
        Ok(self.goals.oldest().map_or(mark, |goal| goal.min(mark)))
    }

    /// The oldest place that a stage needs. Where they alone are in the way of `without`, and it is worth while, they
    /// are asked for other snapshots.
    fn stages_floor(&self, lane: &LaneContext, without: &Retained) -> Result<Lsn, RetainError> {
        let mut low = Lsn(u64::MAX);
        for (name, snapshot) in &self.stages {
            low = low.min(snapshot.lsn);
            if name != GATES_STATE {
                low = low.min(first_to_take(lane, name, snapshot.offset)?);
            }
        }
        let is_missing = |name: &str| !self.stages.contains_key(&format!("{STAGE_PREFIX}{name}"));
        if lane.node.config.stages.names().any(is_missing) {
            low = Lsn::default();
        }
        let old = self.stages.values().filter(|snapshot| snapshot.lsn < without.start_lsn);
        let bytes: u64 = old.map(|snapshot| snapshot.bytes).sum();
        if low < without.start_lsn && bytes.saturating_mul(GAIN_MIN) <= without.bytes_deleted {
            lane.core.want_snapshots_past(without.start_lsn);
        }
        Ok(low)
    }

    /// What of `reachable` goes, where that is worth while: nothing that an agent needs whose state in the cache does not
    /// cover it. `below` tells what is left of `reachable` below the place that such a one needs.
    fn planned(
        &mut self,
        lane: &LaneContext,
        reachable: Retained,
        below: impl Fn(Lsn) -> Retained,
    ) -> Result<Option<Retained>, RetainError> {
        let mut planned = reachable;
        if !self.is_worth(&planned) {
            return Ok(None);
        }
        // Who was in the way the last time comes first: while it still is, no other state is unpacked.
        let pinning = self.pinning.take();
        let first = pinning.as_ref().and_then(|agent| self.agents.get_key_value(agent));
        for (agent, journal) in first.into_iter().chain(&self.agents) {
            if journal.oldest() >= planned.start_lsn {
                continue;
            }
            let state = state_of(lane, agent)?;
            // What is covered where more goes is covered where less does.
            if state.is_some_and(|(sequence, _)| journal.is_covered_by(sequence, planned.start_lsn)) {
                continue;
            }
            self.pinning = Some(agent.clone());
            planned = below(journal.oldest());
            if !self.is_worth(&planned) {
                return Ok(None);
            }
        }
        Ok(Some(planned))
    }

    /// Whether anything is `planned` to go, and it is worth what is written again for it.
    fn is_worth(&self, planned: &Retained) -> bool {
        let snapshots = self.renewed(planned.start_lsn).filter_map(|(_, journal)| journal.snapshot);
        let renewed: u64 = snapshots.map(|snapshot| snapshot.bytes).sum();
        planned.segments_deleted > 0 && renewed.saturating_mul(GAIN_MIN) <= planned.bytes_deleted
    }

    /// The agents whose states are written again before what lies below `cut` goes.
    fn renewed(&self, cut: Lsn) -> impl Iterator<Item = (&String, &Journal)> {
        self.agents.iter().filter(move |(_, journal)| journal.oldest() < cut)
    }
}

/// The oldest event that is not in the snapshot of a stage.
fn first_to_take(lane: &LaneContext, name: &str, offset: u64) -> Result<Lsn, RetainError> {
    let log = lane.core.log.as_ref();
    let of = |topic| TopicPartition::new(topic, lane.core.place.number);
    let mut low = Lsn(u64::MAX);
    let Some(record) = log.read(of(Topic::Snapshots), offset, 1, 0)?.pop() else { return Ok(low) };
    let head: StageHead = serde_json::from_slice(&record.value)
        .map_err(|source| RetainError::Snapshot { of: name.to_owned(), source })?;
    for (topic, next) in head.state.next {
        match log.read(of(topic), next, 1, 0) {
            Ok(records) => low = records.first().map_or(low, |record| low.min(record.lsn)),
            // It goes on with the oldest that is left.
            Err(LogError::Trimmed { .. }) => {}
            Err(failure) => return Err(failure.into()),
        }
    }
    Ok(low)
}

/// An agent's state in the cache, and its sequence, where it can be written to the log.
fn state_of(lane: &LaneContext, agent: &str) -> Result<Option<(u64, Snapshot)>, RetainError> {
    let Ok(id) = AgentId::new(agent) else { return Ok(None) };
    let Some(state) = lane.core.store.agent(&id)? else { return Ok(None) };
    let snapshot =
        snapshot_of(&state).map_err(|source| RetainError::Snapshot { of: agent.to_owned(), source })?;
    Ok((snapshot.state.get().len() <= STATE_BYTES_MAX).then_some((state.sequence, snapshot)))
}

fn snapshot_of(state: &AgentState) -> serde_json::Result<Snapshot> {
    let json = RawValue::from_string(serde_json::to_string(state)?)?;
    Ok(Snapshot {
        of: state.agent.to_string(),
        version: STATE_VERSION,
        sequence: state.sequence,
        state: json,
    })
}

/// Writes the states of `agents`, as the cache has them, to the end of the log. They are durable when this returns.
///
/// One that is newer by the time that this is written stays the newest: of two snapshots the higher sequence counts.
/// Returns whether all of them were written.
fn renew(lane: &LaneContext, agents: &[String]) -> Result<bool, RetainError> {
    let source: std::sync::Arc<str> = format!("/kintsugi/retention/{}", lane.core.place.number).into();
    let (mut append, mut bytes) = (Append::default(), 0);
    for agent in agents {
        let Some((_, snapshot)) = state_of(lane, agent)? else { return Ok(false) };
        let Ok(id) = AgentId::new(agent.as_str()) else { return Ok(false) };
        bytes += snapshot.state.get().len();
        let now = lane.node.clock.now();
        let envelope = Envelope::new(&mut SystemIds, source.clone(), Subject::Agent(id), now);
        let event = Event { envelope, payload: Payload::Snapshot(Box::new(snapshot)) };
        append.records.push(NewRecord::from_event(&event, lane.core.place.number)?);
        if append.records.len() >= RENEWED_AT_ONCE || bytes >= RENEWED_BYTES {
            lane.core.log.append_wait(&std::mem::take(&mut append))?;
            bytes = 0;
        }
    }
    if !append.records.is_empty() {
        lane.core.log.append_wait(&append)?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn snapshot(sequence: u64, lsn: u64) -> Snapshotted {
        Snapshotted { sequence, lsn: Lsn(lsn), bytes: 100 }
    }

    #[test]
    fn what_goes_has_to_be_worth_what_is_written_again_for_it() {
        let mut needs = Needs::default();
        for (agent, lsn) in [("a", 10), ("b", 20), ("c", 30)] {
            needs.agents.entry(agent.to_owned()).or_default().take_snapshot(snapshot(1, lsn));
        }
        let gone =
            |start, bytes| Retained { segments_deleted: 1, bytes_deleted: bytes, start_lsn: Lsn(start) };
        assert!(needs.is_worth(&gone(10, 1)), "nobody needs any of it");
        assert!(!needs.is_worth(&gone(11, 199)) && needs.is_worth(&gone(11, 200)));
        assert!(!needs.is_worth(&gone(40, 599)) && needs.is_worth(&gone(40, 600)));
        assert!(!needs.is_worth(&Retained { start_lsn: Lsn(10), ..Retained::default() }), "nothing goes");
    }

    #[test]
    fn an_agent_needs_its_newest_snapshot_and_what_that_lacks() {
        let mut journal = Journal::default();
        for sequence in 1..=3 {
            journal.take_event(sequence, Lsn(10 + sequence));
        }
        assert_eq!(journal.oldest(), Lsn(11), "without a snapshot all of it");
        assert!(!journal.is_covered_by(2, Lsn(100)) && journal.is_covered_by(3, Lsn(100)));
        journal.take_snapshot(snapshot(3, 14));
        assert_eq!(journal.oldest(), Lsn(14));
        journal.take_event(4, Lsn(20));
        journal.take_event(5, Lsn(21));
        assert_eq!(journal.oldest(), Lsn(14));
        assert!(journal.is_covered_by(3, Lsn(20)), "the journal goes on where the snapshot ends");
        assert!(!journal.is_covered_by(3, Lsn(21)) && !journal.is_covered_by(2, Lsn(15)));
        // The same one, written again at the end.
        journal.take_snapshot(snapshot(3, 30));
        assert_eq!(journal.oldest(), Lsn(20));
        journal.take_snapshot(snapshot(5, 31));
        journal.take_snapshot(snapshot(3, 32));
        assert_eq!(journal.oldest(), Lsn(31), "an older one that comes late changes nothing");
    }
}
