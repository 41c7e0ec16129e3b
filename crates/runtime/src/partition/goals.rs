//! Goals in: from the topic to an agent's queue, each once, or to the dead letters with the reason.

use std::sync::Arc;

use actix::prelude::*;
use kintsugi_agent::Command;
use kintsugi_eventlog::{Append, Lsn, NewRecord, Record, murmur2};
use kintsugi_events::{DeadLetter, Event, Goal, GoalResult, Payload, RecoveryPhase, Subject, Topic};
use kintsugi_types::{AgentId, GoalId, TenantId};
use tracing::{error, warn};

use super::admission::Taken;
use super::slot::{Item, Origin};
use super::{Partition, goal_id_from};
use crate::publish::{content_of, goal_key};
use crate::store::{KnownGoal, StoreBatch};

/// Goals that are on their way to an agent at the same time; further ones wait in the log.
const ACCEPTING_MAX: usize = 256;

/// Records that are read from the log at once: few, for they are read again while nobody has room.
const READ_RECORDS_MAX: usize = 32;

/// Bytes that are read from the log at once.
const READ_BYTES_MAX: usize = 1 << 20;

/// The longest goal that is taken from a producer, in bytes.
const GOAL_BYTES_MAX: usize = 256 * 1024;

/// Where an agent's events come from: only these may hand a goal over.
const AGENT_SOURCES: &str = "/kintsugi/agents/";

/// Where a goal comes from that another lane forwarded: it stays where it is.
const LANE_SOURCES: &str = "/kintsugi/partition/";

/// What becomes of a goal.
enum Route {
    /// It goes to this agent.
    To(AgentId, Arc<Goal>),
    /// It belongs to the lane of whatever has this key.
    Elsewhere(AgentId, Box<Goal>),
    /// It was here before.
    Known,
    /// Nobody has room: it stays in the log.
    Later,
    /// It cannot be taken.
    Refused(String),
    /// It was taken before, was handed over, and cannot be taken again: it ends.
    Ended(Box<Goal>, String),
}

impl Partition {
    /// Reads goals from the log while there is room for them.
    pub(super) fn pump_goals(&mut self, ctx: &mut Context<Self>) {
        self.are_goals_waiting = true;
        if self.is_draining {
            return;
        }
        while self.goals.outstanding() < ACCEPTING_MAX {
            let room = READ_RECORDS_MAX.min(ACCEPTING_MAX - self.goals.outstanding());
            let read = self.lane.core.log.read(self.goals.of(), self.goals.next(), room, READ_BYTES_MAX);
            let records = match read {
                Ok(records) => records,
                Err(failure) => {
                    error!(%failure, "read goals");
                    return;
                }
            };
            if records.is_empty() {
                self.are_goals_waiting = false;
                return;
            }
            for record in records {
                if !self.take_goal(&record, ctx) {
                    return;
                }
            }
        }
    }

    /// Takes one goal. Returns whether the next one may be looked at.
    fn take_goal(&mut self, record: &Record, ctx: &mut Context<Self>) -> bool {
        let route = self.route(record);
        if matches!(route, Route::Later) {
            return false;
        }
        self.goals.begin(record.offset);
        match route {
            Route::To(agent, goal) => {
                let key = known_key(&goal);
                self.accepting.insert(key, known_by(&goal));
                if let Some(slot) = self.slot(&agent) {
                    slot.accepting += 1;
                }
                self.note_load(&agent);
                let item = Item::from(Command::AcceptGoal { goal }, Origin::Goals(record.offset));
                self.enqueue(&agent, item, ctx);
            }
            Route::Elsewhere(key, goal) => self.forward(record, key, *goal),
            Route::Known | Route::Later => self.goals.settle(record.offset),
            Route::Ended(goal, reason) => self.end_refused(record, &goal, &reason),
            Route::Refused(reason) => {
                warn!(offset = record.offset, %reason, "goal refused");
                let letter = self.dead_letter(&reason, record);
                self.goals.settle(record.offset);
                let position = self.goals.position();
                self.append_own(vec![letter], vec![position]);
            }
        }
        true
    }

    /// What becomes of the goal in `record`. One that an agent handed over is never just refused: its giver has let it
    /// go, and nobody else would end it.
    fn route(&mut self, record: &Record) -> Route {
        let is_from_agent =
            record.envelope.as_ref().is_some_and(|envelope| envelope.source.starts_with(AGENT_SOURCES));
        // What an agent adds to a goal is bounded by the limits of its kind, and must not be what refuses it.
        if record.value.len() > GOAL_BYTES_MAX && !is_from_agent {
            let bytes = record.value.len();
            return Route::Refused(format!("goal of {bytes} bytes is longer than {GOAL_BYTES_MAX}"));
        }
        let mut goal: Goal = match serde_json::from_slice(&record.value) {
            Ok(goal) => goal,
            Err(reason) => return Route::Refused(format!("goal is not readable: {reason}")),
        };
        if goal.text.trim().is_empty() {
            return Route::Refused("goal has an empty `text`".to_owned());
        }
        let id = match (&goal.id, &record.envelope) {
            (Some(id), _) => id.clone(),
            (None, Some(envelope)) => match GoalId::new(goal_id_from(envelope.id)) {
                Ok(id) => id,
                Err(reason) => return Route::Refused(reason.to_string()),
            },
            (None, None) => match GoalId::new(format!("goal-{}-{}", record.partition, record.offset)) {
                Ok(id) => id,
                Err(reason) => return Route::Refused(reason.to_string()),
            },
        };
        if !is_from_agent {
            goal.handover = None;
        }
        let KnownGoal { content, epoch, .. } = known_by(&goal);
        goal.id = Some(id);
        if !is_from_agent {
            match self.elsewhere(record, &goal) {
                Ok(Some(key)) => return Route::Elsewhere(key, Box::new(goal)),
                Ok(None) => {}
                Err(reason) => return Route::Refused(reason),
            }
        }
        // What is right is for the evaluation alone: it never comes near an agent.
        goal.expect = None;
        let known = match self.known(&goal) {
            Ok(known) => known,
            Err(reason) => return refused(goal, reason),
        };
        match known {
            // Whoever had it handed it over: it is known, and is to be taken once more.
            Some(known) if known.content == content && known.epoch < epoch => {}
            Some(known) if known.content == content => return Route::Known,
            Some(_) => {
                return refused(goal, "a goal with this id but another content was taken before".to_owned());
            }
            None => {}
        }
        match self.choose_agent(&goal) {
            Ok(Some(agent)) => Route::To(agent, Arc::new(goal)),
            Ok(None) => Route::Later,
            Err(reason) => refused(goal, reason),
        }
    }

    /// The key of the lane that a goal belongs to, where that is another one. Every copy of a goal comes to the same
    /// lane, wherever it was published, for only there it is known that it was taken before.
    fn elsewhere(&self, record: &Record, goal: &Goal) -> Result<Option<AgentId>, String> {
        let place = self.lane.core.place;
        let Some(id) = goal.id.as_ref().filter(|_| place.partitions > 1) else { return Ok(None) };
        let home = goal_key(&goal.tenant, goal.agent.as_ref(), id).map_err(|reason| reason.to_string())?;
        let is_forwarded =
            record.envelope.as_ref().is_some_and(|envelope| envelope.source.starts_with(LANE_SOURCES));
        if !place.holds(home.as_str()) {
            // What was sent here stays here: two lanes of one mind would send it to and fro for ever.
            return Ok((!is_forwarded).then_some(home));
        }
        let index = match (&goal.agent, &goal.kind) {
            (Some(_), _) => None,
            (None, Some(kind)) => self.loads.iter().find(|index| index.kind() == kind),
            (None, None) => self.loads.first(),
        };
        let index = index.filter(|index| index.is_empty());
        Ok(index.and_then(|index| index.substitute(murmur2(home.as_str().as_bytes()))))
    }

    /// Publishes a goal anew where it belongs, together with the position that says so.
    fn forward(&mut self, record: &Record, key: AgentId, goal: Goal) {
        let partition = self.lane.core.place.partition_of(key.as_str());
        let (id, tenant) = (goal.id.clone(), goal.tenant.clone());
        let mut event = self.own_event(Subject::Agent(key), Payload::Goal(Box::new(goal)));
        event.envelope.goal = id;
        event.envelope.tenant = tenant;
        event.envelope.causation = record.envelope.as_ref().map(|envelope| envelope.id);
        self.goals.settle(record.offset);
        let positions = vec![self.goals.position()];
        match NewRecord::from_event(&event, partition) {
            // It is no news of this lane.
            Ok(forwarded) => {
                self.lane.core.append_own(&Append { records: vec![forwarded], positions }, Vec::new());
            }
            Err(failure) => error!(offset = record.offset, %failure, "forward a goal"),
        }
    }

    /// The agent that gets `goal`; `None` where nobody has room, and why where nobody ever will.
    fn choose_agent(&mut self, goal: &Goal) -> Result<Option<AgentId>, String> {
        if let Some(agent) = goal.agent.clone() {
            let Some(kind) = self.lane.node.kind_of(&agent).cloned() else {
                return Err(format!("there is no agent {agent}"));
            };
            let queue_max = self.lane.node.kind(&kind).map_or(0, |config| config.limits.queue_max);
            let is_full = self.slots.get(&agent).is_some_and(|slot| slot.goals() >= queue_max);
            return Ok((!is_full).then_some(agent));
        }
        let wanted = goal.kind.clone();
        let index = match &wanted {
            Some(kind) => self.loads.iter_mut().find(|index| index.kind() == kind),
            None => self.loads.first_mut(),
        };
        let Some(index) = index else {
            let kinds: Vec<&str> = self.lane.node.config.kinds.keys().map(AsRef::as_ref).collect();
            let wanted = wanted.map_or_else(String::new, |kind| format!(" {kind:?}"));
            return Err(format!("there is no kind of agent{wanted}; there are {}", kinds.join(", ")));
        };
        let giver = goal.handover.as_ref().and_then(|handover| index.number_of(&handover.from));
        let Some((number, taken)) = index.choose(giver) else {
            return Err(format!("there is no agent of kind {}", index.kind()));
        };
        let queue_max =
            self.lane.node.config.kinds.get(index.kind()).map_or(0, |config| config.limits.queue_max);
        match taken {
            Taken::Goals(goals) if goals >= queue_max => Ok(None),
            // Where nobody of the kind takes work, one of them ends the goal and says why.
            Taken::Goals(_) | Taken::NeverMore => {
                index.agent(number).map(Some).ok_or_else(|| "the agent's name is too long".to_owned())
            }
        }
    }

    /// Ends a goal that was handed over and cannot be taken, and says why.
    fn end_refused(&mut self, record: &Record, goal: &Goal, reason: &str) {
        warn!(offset = record.offset, %reason, "goal that was handed over refused");
        // What is refused is the handover: the goal was taken, and ends.
        let source = (Topic::Agents, self.lane.core.place.number, None);
        let letter = DeadLetter::new(reason, source, &record.value);
        let giver = goal.handover.as_ref().map(|handover| handover.from.clone());
        let subject = giver.clone().map_or(Subject::Engine, Subject::Agent);
        let mut events = vec![self.own_event(subject, Payload::DeadLetter(Box::new(letter)))];
        events.extend(giver.and_then(|giver| self.unworked_result(goal, &giver, reason)));
        self.goals.settle(record.offset);
        let position = self.goals.position();
        self.append_own(events, vec![position]);
    }

    /// What the goal's id stands for, if it was taken before.
    fn known(&self, goal: &Goal) -> Result<Option<KnownGoal>, String> {
        let Some(id) = &goal.id else { return Ok(None) };
        let key = key_of(&goal.tenant, goal.agent.as_ref(), id);
        if let Some(known) = self.accepting.get(&key) {
            return Ok(Some(*known));
        }
        self.lane.core.store.goal(&goal.tenant, goal.agent.as_ref(), id).map_err(|e| e.to_string())
    }

    /// Remembers a goal that is part of an agent's journal now.
    pub(super) fn note_accepted(
        &mut self,
        agent: &AgentId,
        goal: &Arc<Goal>,
        accepted_at: Lsn,
        batch: &mut StoreBatch<'_>,
    ) {
        let Some(id) = &goal.id else { return };
        let known = KnownGoal { accepted_at, ..known_by(goal) };
        batch.put_goal(&goal.tenant, goal.agent.as_ref(), id, known);
        let key = known_key(goal);
        // It may have been handed over in the same commit, and be on its way to another agent already.
        if self.accepting.get(&key).is_some_and(|on_its_way| on_its_way.epoch <= goal.epoch()) {
            self.accepting.remove(&key);
        }
        if let Some(slot) = self.slots.get_mut(agent) {
            slot.accepting = slot.accepting.saturating_sub(1);
        }
    }

    /// A record that cannot be taken, as an event.
    fn dead_letter(&self, reason: &str, record: &Record) -> Event {
        let letter =
            DeadLetter::new(reason, (record.topic, record.partition, Some(record.offset)), &record.value);
        let subject = record
            .envelope
            .as_ref()
            .map(|envelope| envelope.subject.clone())
            .or_else(|| AgentId::new(&record.key).ok().map(Subject::Agent))
            .unwrap_or(Subject::Engine);
        self.own_event(subject, Payload::DeadLetter(Box::new(letter)))
    }

    /// Takes a goal off those on their way to `agent`, and remembers its id: it was answered without the agent.
    fn forget_accepting(&mut self, agent: &AgentId, goal: &Arc<Goal>) {
        let lane = self.lane.clone();
        let mut batch = lane.core.store.batch();
        self.note_accepted(agent, goal, lane.core.log.end_lsn(), &mut batch);
        if let Err(failure) = batch.commit() {
            error!(%agent, %failure, "write cache");
        }
        self.note_load(agent);
    }

    /// The end of a goal that no agent will work, as an event.
    fn unworked_result(&self, goal: &Goal, agent: &AgentId, reason: &str) -> Option<Event> {
        let mut result = GoalResult::never_begun(goal, agent.clone(), reason, self.lane.node.clock.now())?;
        let kind = self.lane.node.kind_of(agent).and_then(|kind| self.lane.node.kind(kind));
        result.usd = kind.map_or(0.0, |kind| kind.prices.usd(&result.tokens));
        let mut event = self.own_event(Subject::Agent(agent.clone()), Payload::Result(Box::new(result)));
        event.envelope.goal.clone_from(&goal.id);
        event.envelope.tenant = goal.tenant.clone();
        Some(event)
    }

    /// A command that no agent will work, as an event, and its origin settled. A goal that it would have begun ends
    /// here, for every goal that was taken ends.
    pub(super) fn settle_unworked(&mut self, agent: &AgentId, item: &Item, reason: &str) {
        let original = format!("{:?}", item.command);
        // What is refused is the command, not the goal or the recovery that it came from.
        let source = (Topic::Agents, self.lane.core.place.number, None);
        let letter = DeadLetter::new(reason, source, original.as_bytes());
        let subject = Subject::Agent(agent.clone());
        let mut events = vec![self.own_event(subject, Payload::DeadLetter(Box::new(letter)))];
        match &item.command {
            Command::AcceptGoal { goal } => events.extend(self.unworked_result(goal, agent, reason)),
            // At its deadline whoever planned it ends it.
            Command::Recover { plan, planned_at } if !plan.is_overdue(self.lane.node.clock.now()) => {
                let payload = self.told(plan, *planned_at, RecoveryPhase::Abandoned, reason);
                events.push(self.own_event(plan.agent.clone(), payload));
            }
            _ => {}
        }
        let positions = item.origin.map(|origin| self.settled_position(origin)).into_iter().collect();
        match self.encode(&events) {
            Ok(append) => {
                // Rare; and the goal's id may be remembered only once its end is durable.
                self.lane.core.append_own_wait(&Append { positions, ..append }, &events.into());
            }
            Err(failure) => error!(%agent, %failure, "encode events"),
        }
        if let Command::AcceptGoal { goal } = &item.command {
            self.forget_accepting(agent, goal);
        }
    }
}

fn refused(goal: Goal, reason: String) -> Route {
    if goal.handover.is_some() { Route::Ended(Box::new(goal), reason) } else { Route::Refused(reason) }
}

/// What the goal's id stands for from now on. Until it is accepted, nothing deletes what is known of it.
fn known_by(goal: &Goal) -> KnownGoal {
    KnownGoal { content: content_of(goal), epoch: goal.epoch(), accepted_at: Lsn(u64::MAX) }
}

fn known_key(goal: &Goal) -> Vec<u8> {
    goal.id.as_ref().map(|id| key_of(&goal.tenant, goal.agent.as_ref(), id)).unwrap_or_default()
}

fn key_of(tenant: &TenantId, agent: Option<&AgentId>, id: &GoalId) -> Vec<u8> {
    [tenant.as_str(), agent.map_or("", AgentId::as_str), id.as_str()].join("\0").into_bytes()
}
