//! Commands into queues, one at a time out of them, and agents in and out of memory.

use actix::prelude::*;
use kintsugi_agent::AgentState;
use kintsugi_types::AgentId;
use tracing::{error, warn};

use super::slot::{Busy, Item, Slot};
use super::supervise::BROKEN;
use super::{AgentDecided, AgentDied, Partition};
use crate::agent_actor::{AgentActor, DeathGuard, Deliver, Load};
use crate::restore::{RestoreError, rebuild_agent};

impl Partition {
    /// Puts a command into the agent's queue and hands it out when its turn comes.
    pub(super) fn enqueue(&mut self, agent: &AgentId, item: Item, ctx: &mut Context<Self>) {
        let Some(slot) = self.slot(agent) else {
            warn!(%agent, command = item.command.name(), "command for an agent that does not exist");
            self.settle_unworked(agent, &item, "the agent does not exist");
            return;
        };
        if slot.is_broken {
            self.settle_unworked(agent, &item, BROKEN);
            return;
        }
        if !slot.has_room_for(&item) {
            error!(%agent, command = item.command.name(), "queue of the agent is full");
            self.settle_unworked(agent, &item, "the agent's queue is full");
            return;
        }
        slot.push(item);
        self.pump(agent, ctx);
    }

    /// The slot of an agent of the population, made when it is first needed.
    pub(super) fn slot(&mut self, agent: &AgentId) -> Option<&mut Slot> {
        if !self.slots.contains_key(agent) {
            if !self.lane.holds(agent) {
                return None;
            }
            let (kind, number) = match self.lane.node.kind_of(agent) {
                Some(kind) => {
                    let number = self.loads.iter().find_map(|index| index.number_of(agent));
                    (kind.clone(), number)
                }
                // An agent of a larger population of earlier still has its journal.
                None => (self.restored.get(agent)?.kind.clone(), None),
            };
            self.slots.insert(agent.clone(), Slot::new(kind, number));
        }
        self.slots.get_mut(agent)
    }

    /// Brings a restored agent into memory and starts what it waits for.
    pub(super) fn wake(&mut self, agent: &AgentId, ctx: &mut Context<Self>) {
        let Some(state) = self.restored.get(agent) else { return };
        let load = Load::of(state);
        let Some(slot) = self.slot(agent) else { return };
        slot.load = load;
        self.runnable.take(usize::from(load.is_runnable));
        self.note_load(agent);
        self.activate(agent, ctx);
        if let Some(slot) = self.slots.get_mut(agent)
            && let Some(addr) = &slot.addr
        {
            slot.busy = Busy::Deciding(None);
            addr.do_send(Deliver { command: None });
        }
    }

    /// Hands the agent its next command if it is free.
    pub(super) fn pump(&mut self, agent: &AgentId, ctx: &mut Context<Self>) {
        let now = self.lane.node.clock.now();
        let Some(slot) = self.slots.get_mut(agent) else { return };
        if !matches!(slot.busy, Busy::Free) || slot.is_broken {
            return;
        }
        if slot.blocked_until.is_some_and(|until| until > now) {
            return;
        }
        slot.blocked_until = None;
        let needs_wake = slot.addr.is_none() && slot.generation > 0 && slot.load.is_any();
        if slot.control.is_empty() && slot.ordinary.is_empty() && !needs_wake {
            self.passivate_if_at_rest(agent);
            return;
        }
        if slot.addr.is_none() && !self.activate(agent, ctx) {
            return;
        }
        let Some(slot) = self.slots.get_mut(agent) else { return };
        let Some(addr) = slot.addr.clone() else { return };
        let item = slot.next_item();
        addr.do_send(Deliver { command: item.as_ref().map(|item| item.command.clone()) });
        slot.busy = Busy::Deciding(item);
    }

    /// Starts the agent's actor from what the store and the log hold. Returns whether it runs.
    fn activate(&mut self, agent: &AgentId, ctx: &mut Context<Self>) -> bool {
        let state = match self.load_state(agent) {
            Ok(state) => state,
            Err(failure) => {
                error!(%agent, %failure, "restore agent");
                self.give_up_agent(agent, &failure.to_string());
                return false;
            }
        };
        let Some(config) = self.lane.node.kind(&state.kind).cloned() else {
            error!(%agent, kind = %state.kind, "no configuration for the kind of this agent");
            self.give_up_agent(agent, &format!("there is no configuration for its kind {}", state.kind));
            return false;
        };
        self.generations += 1;
        let generation = self.generations;
        let Some(slot) = self.slots.get_mut(agent) else { return false };
        slot.generation = generation;
        if slot.dirty_from.is_none() {
            slot.snapshot_sequence = state.sequence;
        }
        let partition = ctx.address();
        let died = AgentDied { agent: agent.clone(), generation };
        let to_tell = partition.clone();
        let guard = DeathGuard::new(move || to_tell.do_send(died));
        let id = agent.clone();
        let decided = Box::new(move |decided| {
            partition.do_send(AgentDecided { agent: id.clone(), generation, decided });
        });
        let source = format!("/kintsugi/agents/{}", state.kind).into();
        let snapshot_sequence = slot.snapshot_sequence;
        let actor =
            AgentActor::new(self.lane.clone(), config, source, state, snapshot_sequence, decided, guard);
        slot.addr = Some(actor.start());
        true
    }

    fn load_state(&mut self, agent: &AgentId) -> Result<AgentState, RestoreError> {
        if let Some(state) = self.restored.remove(agent) {
            return Ok(state);
        }
        let (kind, dirty_from) =
            self.slots.get(agent).map_or((None, None), |slot| (Some(slot.kind.clone()), slot.dirty_from));
        rebuild_agent(&self.lane, agent, kind, dirty_from)
    }

    /// Lets an agent go that has nothing to do; its newest snapshot is stored.
    pub(super) fn passivate_if_at_rest(&mut self, agent: &AgentId) {
        if self.slots.get(agent).is_some_and(Slot::is_at_rest)
            && let Some(slot) = self.slots.remove(agent)
        {
            // The last address goes away with the slot: the actor stops after what it still has to do.
            drop(slot);
            self.lane.effects.forget(agent);
            // What it thought after the end of its last goal.
            self.lane.node.release_agent(agent);
        }
    }
}
