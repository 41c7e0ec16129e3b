//! Coming back: what the cache lacks is folded from the log.

use std::collections::HashMap;
use std::ops::ControlFlow;

use kintsugi_agent::{AgentState, STATE_VERSION};
use kintsugi_eventlog::{LogError, Lsn, Record, RecordError};
use kintsugi_events::{AgentEvent, Payload, Subject, Topic};
use kintsugi_types::{AgentId, AgentKind, Invariant, NameError, TenantId};
use tracing::{info, warn};

use crate::config::StageName;
use crate::lane_context::LaneContext;
use crate::lane_core::LaneCore;
use crate::publish::content_of;
use crate::store::{KnownGoal, StoreBatch, StoreError};

/// Why an agent or a node cannot come back.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The log cannot be read.
    #[error("read log: {0}")]
    Log(#[from] LogError),
    /// The cache cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A record of the journal cannot be read.
    #[error("journal record at {lsn}: {source}")]
    Record {
        /// Where.
        lsn: Lsn,
        /// What is wrong.
        source: RecordError,
    },
    /// A journal lacks events.
    #[error("journal of {agent} has a gap: {found} follows {last} at {lsn}")]
    Gap {
        /// Whose.
        agent: AgentId,
        /// The last sequence before the gap.
        last: u64,
        /// The sequence after it.
        found: u64,
        /// Where.
        lsn: Lsn,
    },
    /// The beginning of a journal was deleted, and no snapshot is left that this program reads.
    #[error(
        "journal of {agent} begins at {found}, and no snapshot of what was before has version {}: run the program \
         that wrote the log",
        STATE_VERSION
    )]
    Uncovered {
        /// Whose.
        agent: AgentId,
        /// The first sequence that is left.
        found: u64,
    },
    /// A name in the journal cannot be one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A state cannot be written as JSON.
    #[error("pack the state of {agent}: {source}")]
    Pack {
        /// Whose.
        agent: AgentId,
        /// What is wrong.
        source: serde_json::Error,
    },
}

/// What the name of a stage's snapshot begins with.
pub(crate) const STAGE_PREFIX: &str = "stage:";

/// What a partition comes back with.
#[derive(Debug, Default)]
pub struct Restored {
    /// Agents with load, and those that take no work.
    pub agents: Vec<AgentState>,
    /// Where the log ended.
    pub end: Lsn,
}

/// Whether a partition has to be told of the agent: it has goals, or it takes none.
fn is_told_of(state: &AgentState) -> bool {
    state.has_load() || state.quarantined.is_some()
}

/// A placeholder until `agent.created`, the first event of every journal, is folded in.
fn unborn(agent: &AgentId, kind: Option<AgentKind>, tenant: &TenantId) -> Result<AgentState, RestoreError> {
    let kind = match kind {
        Some(kind) => kind,
        None => AgentKind::new(agent.as_str())?,
    };
    Ok(AgentState::new(agent.clone(), kind, tenant.clone()))
}

/// Folds one record of the journal into `state`. A sequence that was folded in before is passed over.
fn fold(
    lane: &LaneContext,
    state: &mut AgentState,
    record: &Record,
    event: &AgentEvent,
) -> Result<(), RestoreError> {
    let found = record.envelope.as_ref().and_then(|envelope| envelope.sequence).unwrap_or(0);
    if found <= state.sequence {
        return Ok(());
    }
    let follows = found == state.sequence + 1;
    if state.sequence == 0 && !follows && lane.core.log.start_lsn() > Lsn(0) {
        return Err(RestoreError::Uncovered { agent: state.agent.clone(), found });
    }
    if !lane.node.invariants.check(Invariant::SequenceWithoutGap, follows) {
        return Err(RestoreError::Gap {
            agent: state.agent.clone(),
            last: state.sequence,
            found,
            lsn: record.lsn,
        });
    }
    if let AgentEvent::CheckpointTaken(checkpoint) = event {
        // Another form of the state has another hash.
        let is_same = checkpoint.state_version != STATE_VERSION || checkpoint.state_hash == state.hash();
        if !lane.node.invariants.check(Invariant::CheckpointHashMatches, is_same) {
            warn!(agent = %state.agent, sequence = found, "the folded state is not the one that was live");
        }
    }
    state.apply(event);
    Ok(())
}

/// Restores the node: folds what the cache lacks, brings the cache up to date, and returns the agents with load and
/// those that take no work.
pub fn restore(lane: &LaneContext) -> Result<Restored, RestoreError> {
    // What an earlier life of this process still had queued comes before what is read here.
    lane.core.log.flush()?;
    let (start, mark) = (lane.core.log.start_lsn(), lane.core.store.replay_from()?);
    if mark < start && !lane.core.store.is_empty() {
        // As after a loss of power: what would bring it up to date is deleted. What is left is enough without it.
        warn!(mark = mark.0, start = start.0, "the agent cache is older than the log and is rebuilt");
        lane.core.store.clear()?;
    }
    let from = mark.max(start);
    let mut states: HashMap<AgentId, AgentState> = HashMap::new();
    let mut batch = lane.core.store.batch();
    let mut failure = None;
    let mut foreign = Foreign::default();
    // A cache of earlier holds what the snapshots say, but for the stages', which may have run elsewhere since.
    let topics: &[Topic] = if lane.core.store.is_empty() {
        foreign = load_snapshots(lane, &mut states)?;
        &[Topic::Agents]
    } else {
        &[Topic::Agents, Topic::Snapshots]
    };
    let end = lane.core.log.replay_topics(topics, from, &mut |record| match fold_record(
        lane,
        &mut states,
        &mut batch,
        &record,
    ) {
        Ok(()) => ControlFlow::Continue(()),
        Err(found) => {
            failure = Some(found);
            ControlFlow::Break(())
        }
    })?;
    if let Some(failure) = failure {
        return Err(failure);
    }
    for (agent, sequence) in foreign {
        if states.get(&agent).is_none_or(|state| state.sequence < sequence) {
            return Err(RestoreError::Uncovered { agent, found: sequence + 1 });
        }
    }
    for state in states.values() {
        let json = serde_json::to_vec(state)
            .map_err(|source| RestoreError::Pack { agent: state.agent.clone(), source })?;
        batch.put_agent(&state.agent, &json, is_told_of(state))?;
    }
    batch.put_replay_from(end);
    batch.put_format();
    batch.commit()?;
    lane.core.store.note_filled();
    let mut agents: Vec<AgentState> = states.into_values().filter(is_told_of).collect();
    agents.sort_by(|a, b| a.agent.cmp(&b.agent));
    let before = loaded_before(lane, &agents)?;
    agents.extend(before);
    info!(agents = agents.len(), from = from.0, end = end.0, "restored");
    Ok(Restored { agents, end })
}

/// Brings the cache of a stage's own lane up to date: what it lacks is the newest snapshot of the stage in the log,
/// whoever wrote it. What lies after that the stage takes in for itself.
pub(crate) fn restore_stage(lane: &LaneCore, stage: StageName) -> Result<(), RestoreError> {
    lane.log.flush()?;
    let start = lane.log.start_lsn();
    let from = if lane.store.is_empty() { start } else { lane.store.replay_from()?.max(start) };
    let name = format!("{STAGE_PREFIX}{stage}");
    let mut newest = None;
    let end = lane.log.replay_topics(&[Topic::Snapshots], from, &mut |record| {
        if record.key == name {
            newest = Some(record);
        }
        ControlFlow::Continue(())
    })?;
    let mut batch = lane.store.batch();
    if let Some(record) = &newest {
        let event = record.to_event().map_err(|source| RestoreError::Record { lsn: record.lsn, source })?;
        if let Payload::Snapshot(snapshot) = &event.payload {
            batch.put_stage(&name, snapshot.state.get().as_bytes());
        }
    }
    batch.put_replay_from(end);
    batch.put_format();
    batch.commit()?;
    lane.store.note_filled();
    info!(%stage, lane = lane.place.number, has_snapshot = newest.is_some(), end = end.0, "restored");
    Ok(())
}

/// Such agents that had no event since the cache was brought up to date.
fn loaded_before(lane: &LaneContext, found: &[AgentState]) -> Result<Vec<AgentState>, RestoreError> {
    let mut before = Vec::new();
    for agent in lane.core.store.loaded_agents()? {
        if found.iter().any(|state| state.agent == agent) {
            continue;
        }
        before.extend(lane.core.store.agent(&agent)?.filter(is_told_of));
    }
    Ok(before)
}

/// Agents with a snapshot of a version that this program does not read, and how far it goes.
type Foreign = HashMap<AgentId, u64>;

fn load_snapshots(
    lane: &LaneContext,
    states: &mut HashMap<AgentId, AgentState>,
) -> Result<Foreign, RestoreError> {
    let mut failure = None;
    let mut foreign = Foreign::default();
    lane.core.log.replay_topics(
        &[Topic::Snapshots],
        lane.core.log.start_lsn(),
        &mut |record| match record.to_event().map(|event| event.payload) {
            Ok(Payload::Snapshot(snapshot)) => {
                if snapshot.of.starts_with(STAGE_PREFIX) {
                    let mut batch = lane.core.store.batch();
                    batch.put_stage(&snapshot.of, snapshot.state.get().as_bytes());
                    if let Err(found) = batch.commit() {
                        failure = Some(RestoreError::Store(found));
                        return ControlFlow::Break(());
                    }
                } else if snapshot.version == STATE_VERSION
                    && let Ok(state) = serde_json::from_str::<AgentState>(snapshot.state.get())
                    // Retention may have written an older one again behind a newer.
                    && states.get(&state.agent).is_none_or(|known| known.sequence <= state.sequence)
                {
                    states.insert(state.agent.clone(), state);
                } else if snapshot.version != STATE_VERSION
                    && let Ok(agent) = AgentId::new(snapshot.of.as_str())
                {
                    foreign.insert(agent, snapshot.sequence);
                }
                ControlFlow::Continue(())
            }
            Ok(_) => ControlFlow::Continue(()),
            Err(source) => {
                failure = Some(RestoreError::Record { lsn: record.lsn, source });
                ControlFlow::Break(())
            }
        },
    )?;
    failure.map_or(Ok(foreign), Err)
}

fn fold_record(
    lane: &LaneContext,
    states: &mut HashMap<AgentId, AgentState>,
    batch: &mut StoreBatch<'_>,
    record: &Record,
) -> Result<(), RestoreError> {
    let event = record.to_event().map_err(|source| RestoreError::Record { lsn: record.lsn, source })?;
    if let Payload::Snapshot(snapshot) = &event.payload {
        if snapshot.of.starts_with(STAGE_PREFIX) {
            batch.put_stage(&snapshot.of, snapshot.state.get().as_bytes());
        }
        return Ok(());
    }
    let (Subject::Agent(agent), Payload::Agent(agent_event)) = (&event.envelope.subject, &event.payload)
    else {
        return Ok(());
    };
    if let AgentEvent::GoalAccepted { goal } = &**agent_event
        && let Some(id) = &goal.id
    {
        let known = KnownGoal { content: content_of(goal), epoch: goal.epoch(), accepted_at: record.lsn };
        batch.put_goal(&goal.tenant, goal.agent.as_ref(), id, known);
    }
    if !states.contains_key(agent) {
        let stored = lane.core.store.agent(agent)?;
        let kind = lane.node.kind_of(agent).cloned();
        let state = match stored {
            Some(state) => state,
            None => unborn(agent, kind, &lane.node.config.tenant)?,
        };
        states.insert(agent.clone(), state);
    }
    match states.get_mut(agent) {
        Some(state) => fold(lane, state, record, agent_event),
        None => Ok(()),
    }
}

/// Rebuilds one agent after its actor died: its stored snapshot and what the log holds since.
pub fn rebuild_agent(
    lane: &LaneContext,
    agent: &AgentId,
    kind: Option<AgentKind>,
    dirty_from: Option<Lsn>,
) -> Result<AgentState, RestoreError> {
    let mut state = match lane.core.store.agent(agent)? {
        Some(state) => state,
        None => unborn(agent, kind, &lane.node.config.tenant)?,
    };
    let Some(from) = dirty_from else { return Ok(state) };
    let mut failure = None;
    lane.core.log.replay_topics(&[Topic::Agents], from, &mut |record| {
        if record.key != agent.as_str() {
            return ControlFlow::Continue(());
        }
        let folded = record
            .to_event()
            .map_err(|source| RestoreError::Record { lsn: record.lsn, source })
            .and_then(|event| match &event.payload {
                Payload::Agent(agent_event) => fold(lane, &mut state, &record, agent_event),
                _ => Ok(()),
            });
        match folded {
            Ok(()) => ControlFlow::Continue(()),
            Err(found) => {
                failure = Some(found);
                ControlFlow::Break(())
            }
        }
    })?;
    failure.map_or(Ok(state), Err)
}
