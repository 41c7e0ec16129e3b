//! From a decision to what is durable, and what follows from that.

use std::collections::VecDeque;
use std::sync::Arc;

use actix::prelude::*;
use kintsugi_agent::Command;
use kintsugi_chaos::Lasting;
use kintsugi_eventlog::{Append, Committed, LogError, NewRecord, Position};
use kintsugi_events::{AgentEvent, Event, Payload, Subject};
use kintsugi_types::AgentId;
use tracing::{error, warn};

use super::slot::{Busy, Item, Origin, Pending};
use super::tracker::Tracker;
use super::{APPEND_AGAIN_AFTER, AgentCommitted, AgentDecided, Partition};
use crate::agent_actor::{Applied, Decided, Wanted};

impl Handler<AgentDecided> for Partition {
    type Result = ();

    fn handle(&mut self, message: AgentDecided, ctx: &mut Context<Self>) {
        let AgentDecided { agent, generation, mut decided } = message;
        let Some(slot) = self.slots.get_mut(&agent).filter(|slot| slot.generation == generation) else {
            return;
        };
        let Busy::Deciding(item) = std::mem::replace(&mut slot.busy, Busy::Free) else { return };
        if decided.events.is_empty() {
            match &item {
                // Ids are unique per tenant only, and the agent tells goals by their ids.
                Some(taken) if matches!(taken.command, Command::AcceptGoal { .. }) => {
                    let reason = "the agent is at work on another goal with this id";
                    self.settle_unworked(&agent, taken, reason);
                }
                Some(Item { origin: Some(origin), .. }) => self.settle(*origin),
                _ => {}
            }
            self.settled(&agent, decided, item.is_none(), ctx);
            return;
        }
        let events: Arc<[Event]> = std::mem::take(&mut decided.events).into();
        let snapshot = decided.snapshot.as_ref().and_then(|snapshot| {
            let event =
                self.own_event(Subject::Agent(agent.clone()), Payload::Snapshot(Box::new(snapshot.clone())));
            NewRecord::from_event(&event, self.lane.core.place.number).ok()
        });
        let mut append = match self.encode(&events) {
            Ok(append) => append,
            Err(failure) => {
                error!(%agent, %failure, "encode events");
                return;
            }
        };
        append.records.extend(snapshot);
        let origin = item.as_ref().and_then(|item| item.origin);
        let command = item.as_ref().map_or("wake", |item| item.command.name());
        let pending = Box::new(Pending { append, events, origin, decided, command });
        self.append(&agent, pending, ctx);
    }
}

impl Handler<AgentCommitted> for Partition {
    type Result = ();

    fn handle(&mut self, message: AgentCommitted, ctx: &mut Context<Self>) {
        let AgentCommitted { agent, outcome } = message;
        let Some(slot) = self.slots.get_mut(&agent) else { return };
        let Busy::Committing(pending) = std::mem::replace(&mut slot.busy, Busy::Free) else { return };
        let committed = match outcome {
            Ok(committed) => committed,
            Err(failure) => {
                self.lane.core.log_failed(&failure);
                return;
            }
        };
        if let Some(addr) = &slot.addr {
            addr.do_send(Applied);
        }
        slot.dirty_from.get_or_insert(committed.first_lsn);
        // Its next goal begins with a fresh context: what the model keeps of this one is of no more use.
        let is_of_no_more_use = slot.running_effect.is_none() && pending.events.iter().any(ends_a_goal);
        if is_of_no_more_use {
            self.lane.node.release_agent(&agent);
        }
        let Pending { events, decided, .. } = *pending;
        if self.lane.node.config.chaos.is_some() {
            end_lasting_faults(&mut self.lane.node.lasting_faults(), &agent, &events);
        }
        self.note_committed(&agent, &events, &decided, &committed);
        self.settled(&agent, decided, false, ctx);
    }
}

/// Whether the agent has a goal no more.
fn ends_a_goal(event: &Event) -> bool {
    let Payload::Agent(event) = &event.payload else { return false };
    matches!(**event, AgentEvent::GoalEnded(_) | AgentEvent::GoalReassigned { .. })
}

/// A recovery makes an agent's memory anew from its journal, and what befell a goal ends with it.
fn end_lasting_faults(lasting: &mut Lasting, agent: &AgentId, events: &[Event]) {
    for event in events {
        let Payload::Agent(event) = &event.payload else { continue };
        match &**event {
            AgentEvent::RecoveryStarted { .. } => lasting.rebuilt(agent),
            AgentEvent::GoalEnded(_) | AgentEvent::GoalReassigned { .. } => lasting.forget(agent),
            _ => {}
        }
    }
}

impl Partition {
    pub(super) fn encode(&self, events: &[Event]) -> Result<Append, LogError> {
        let records = events.iter().map(|event| NewRecord::from_event(event, self.lane.core.place.number));
        Ok(Append { records: records.collect::<Result<_, _>>()?, positions: Vec::new() })
    }

    fn tracker(&mut self, origin: Origin) -> (&mut Tracker, u64) {
        match origin {
            Origin::Goals(offset) => (&mut self.goals, offset),
            Origin::Recoveries(offset) => (&mut self.recoveries, offset),
        }
    }

    /// Settles where a command came from that led to nothing.
    fn settle(&mut self, origin: Origin) {
        let (tracker, offset) = self.tracker(origin);
        tracker.settle(offset);
    }

    /// Settles where a command came from. The position has to go into the append of what it led to.
    pub(super) fn settled_position(&mut self, origin: Origin) -> Position {
        let (tracker, offset) = self.tracker(origin);
        tracker.settle(offset);
        tracker.position()
    }

    /// Takes back that `origin` is settled.
    fn unsettle(&mut self, origin: Origin) {
        let (tracker, offset) = self.tracker(origin);
        tracker.unsettle(offset);
    }

    /// Queues what an agent decided; where the log has no room it is tried again soon.
    fn append(&mut self, agent: &AgentId, mut pending: Box<Pending>, ctx: &mut Context<Self>) {
        let address = ctx.address();
        let id = agent.clone();
        pending.append.positions =
            pending.origin.map(|origin| self.settled_position(origin)).into_iter().collect();
        let outcome = self.lane.core.append(
            &pending.append,
            pending.events.clone(),
            Box::new(move |outcome| address.do_send(AgentCommitted { agent: id, outcome })),
        );
        if matches!(outcome, Err(LogError::TooLarge { .. }))
            && pending.append.records.len() > pending.events.len()
        {
            warn!(%agent, "the snapshot is too large for the log and is left out");
            pending.append.records.truncate(pending.events.len());
            pending.decided.snapshot = None;
            self.append(agent, pending, ctx);
            return;
        }
        if outcome.is_err() {
            // No other append may carry a position past what is not queued.
            pending.origin.into_iter().for_each(|origin| self.unsettle(origin));
        }
        let Some(slot) = self.slots.get_mut(agent) else { return };
        match outcome {
            Ok(()) => slot.busy = Busy::Committing(pending),
            Err(failure) if failure.is_retryable() => {
                slot.busy = Busy::Appending(pending);
                if self.append_again.is_empty() {
                    ctx.run_later(APPEND_AGAIN_AFTER, Self::append_waiting);
                }
                self.append_again.push_back(agent.clone());
            }
            Err(failure) => {
                error!(%agent, command = pending.command, "append");
                self.lane.core.log_failed(&failure);
            }
        }
    }

    fn append_waiting(&mut self, ctx: &mut Context<Self>) {
        let waiting: VecDeque<AgentId> = std::mem::take(&mut self.append_again);
        for agent in waiting {
            let Some(slot) = self.slots.get_mut(&agent) else { continue };
            match std::mem::replace(&mut slot.busy, Busy::Free) {
                Busy::Appending(pending) => self.append(&agent, pending, ctx),
                other => slot.busy = other,
            }
        }
    }

    /// Appends events of the partition's own, with positions that follow from them.
    pub(super) fn append_own(&self, events: Vec<Event>, positions: Vec<Position>) {
        let mut append = match self.encode(&events) {
            Ok(append) => append,
            Err(failure) => {
                error!(%failure, "encode events");
                return;
            }
        };
        append.positions = positions;
        self.lane.core.append_own(&append, events);
    }

    /// Brings the cache up to what was committed.
    fn note_committed(
        &mut self,
        agent: &AgentId,
        events: &[Event],
        decided: &Decided,
        committed: &Committed,
    ) {
        self.seen =
            self.seen.max(kintsugi_eventlog::Lsn(committed.first_lsn.0 + committed.offsets.len() as u64));
        let lane = self.lane.clone();
        let mut batch = lane.core.store.batch();
        let mut is_changed = false;
        for event in events {
            if let Payload::Agent(agent_event) = &event.payload
                && let AgentEvent::GoalAccepted { goal } = &**agent_event
            {
                self.note_accepted(agent, goal, committed.first_lsn, &mut batch);
                is_changed = true;
            }
        }
        if let Some(snapshot) = &decided.snapshot {
            if let Err(failure) =
                batch.put_agent(agent, snapshot.state.get().as_bytes(), decided.load.is_told_of())
            {
                error!(%agent, %failure, "pack snapshot");
                return;
            }
            is_changed = true;
        }
        if is_changed {
            if let Err(failure) = batch.commit() {
                // The log has it all; the cache is behind and says so by its replay mark.
                error!(%agent, %failure, "write cache");
                return;
            }
            if let Some(taken) = &decided.snapshot
                && let Some(slot) = self.slots.get_mut(agent)
            {
                slot.snapshot_sequence = taken.sequence;
                slot.dirty_from = None;
            }
        }
    }

    /// Takes over an agent's new load, starts what it wants, and hands out the next command.
    fn settled(&mut self, agent: &AgentId, decided: Decided, is_wake: bool, ctx: &mut Context<Self>) {
        let Some(slot) = self.slots.get_mut(agent) else { return };
        let counted = usize::from(slot.load.is_runnable) + usize::from(slot.is_starting);
        slot.load = decided.load;
        slot.is_starting = slot
            .control
            .iter()
            .chain(&slot.ordinary)
            .any(|item| matches!(item.command, Command::StartGoal { .. }));
        let counts = usize::from(slot.load.is_runnable) + usize::from(slot.is_starting);
        self.runnable.take(counts.saturating_sub(counted));
        self.runnable.give(counted.saturating_sub(counts));
        match decided.wanted {
            Wanted::Unchanged => {}
            Wanted::Nothing => {
                self.forget_timer(agent);
                self.forget_held_call(agent);
            }
            Wanted::Start(start) => self.start_effect(agent, *start, is_wake, ctx),
        }
        self.note_load(agent);
        self.admit(ctx);
        self.pump(agent, ctx);
        if self.are_goals_waiting {
            self.pump_goals(ctx);
        }
    }

    /// Stores positions that no frame carried, and from where the log would have to be replayed.
    pub(super) fn keep_up(&mut self, ctx: &mut Context<Self>) {
        let positions: Vec<Position> =
            [self.goals.unwritten(), self.recoveries.unwritten()].into_iter().flatten().collect();
        if !positions.is_empty() {
            self.append_own(Vec::new(), positions);
        }
        let wanted = self.lane.core.snapshots_wanted();
        if wanted > self.gates_renewed {
            self.gates_renewed = wanted;
            let events = self.gates_changed(Vec::new());
            self.append_own(events, Vec::new());
        }
        self.pump_recoveries(ctx);
        self.pump_goals(ctx);
        self.admit(ctx);
        let oldest_dirty = self.slots.values().filter_map(|slot| slot.dirty_from).min();
        let replay_from = oldest_dirty.map_or(self.seen, |dirty| dirty.min(self.seen));
        let mut batch = self.lane.core.store.batch();
        batch.put_replay_from(replay_from);
        if let Err(failure) = batch.commit() {
            error!(%failure, "write cache");
        }
    }
}
