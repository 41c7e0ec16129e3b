//! What happens when an agent's actor dies: it is rebuilt from the log, a little later each time; a command that
//! kills it twice is poison; one that keeps dying is quarantined.

use std::time::Duration;

use actix::prelude::*;
use chrono::TimeDelta;
use kintsugi_agent::Command;
use kintsugi_types::AgentId;
use tracing::{error, warn};

use super::slot::{Busy, Item};
use super::{AgentDied, Partition, Retry};

/// Why a broken agent takes nothing.
pub(super) const BROKEN: &str = "the agent is broken: see the node's log";

/// How often a command may kill an agent before it counts as poison.
const POISON_TRIES: u32 = 2;

impl Handler<AgentDied> for Partition {
    type Result = ();

    fn handle(&mut self, died: AgentDied, ctx: &mut Context<Self>) {
        let now = self.lane.node.clock.now();
        let Some(slot) = self.slots.get_mut(&died.agent).filter(|slot| slot.generation == died.generation)
        else {
            return;
        };
        slot.addr = None;
        let window = TimeDelta::milliseconds(
            i64::try_from(self.lane.node.config.restart_window_ms).unwrap_or(i64::MAX),
        );
        slot.deaths.push_back(now);
        while slot.deaths.front().is_some_and(|death| now.signed_duration_since(*death) > window) {
            slot.deaths.pop_front();
        }
        let deaths = u32::try_from(slot.deaths.len()).unwrap_or(u32::MAX);
        warn!(agent = %died.agent, deaths, "agent died");
        let mut poison = None;
        if let Busy::Deciding(item) = &mut slot.busy {
            if let Some(mut item) = item.take() {
                item.tries += 1;
                if item.tries >= POISON_TRIES {
                    poison = Some(item);
                } else {
                    slot.control.push_front(item);
                }
            }
            slot.busy = Busy::Free;
        }
        let restart = self.lane.node.config.restart;
        let delay = restart.delay_before(deaths + 1, 0.5);
        slot.blocked_until = delay.map(|delay| now + delay);
        let is_hopeless = delay.is_none();
        match poison {
            Some(item) => self.bury(&died.agent, &item),
            None if is_hopeless => self.quarantine(&died.agent, "it died too often".to_owned(), false),
            None => {}
        }
        let pause = delay.unwrap_or(Duration::ZERO);
        ctx.notify_later(Retry { agent: died.agent }, pause);
    }
}

impl Handler<Retry> for Partition {
    type Result = ();

    fn handle(&mut self, retry: Retry, ctx: &mut Context<Self>) {
        if let Some(slot) = self.slots.get_mut(&retry.agent) {
            slot.blocked_until = None;
        }
        self.pump(&retry.agent, ctx);
    }
}

impl Partition {
    /// Writes a poisonous command to the dead letters and quarantines the agent.
    fn bury(&mut self, agent: &AgentId, item: &Item) {
        error!(%agent, command = item.command.name(), "command killed the agent twice");
        if matches!(item.command, Command::Quarantine { .. }) {
            self.give_up_agent(agent, "it cannot even be quarantined");
            return;
        }
        let reason = format!("command {} killed the agent twice", item.command.name());
        let at_start = matches!(item.command, Command::StartGoal { .. });
        self.quarantine(agent, reason.clone(), at_start);
        self.settle_unworked(agent, item, &reason);
    }

    /// Delivers nothing more to an agent that can neither work nor be quarantined, and ends what waits for it. Goals
    /// that it has accepted cannot be ended without it: where there are any the lane stops, and says why.
    pub(super) fn give_up_agent(&mut self, agent: &AgentId, reason: &str) {
        let Some(slot) = self.slots.get_mut(agent) else { return };
        slot.is_broken = true;
        if slot.load.is_any() {
            self.lane.core.failed(&format!("agent {agent} has goals and is broken: {reason}"));
        }
        let counted = usize::from(slot.load.is_runnable) + usize::from(slot.is_starting);
        slot.load.is_runnable = false;
        slot.is_starting = false;
        self.runnable.give(counted);
        let waiting: Vec<Item> = std::iter::from_fn(|| slot.next_item()).collect();
        for item in waiting {
            self.settle_unworked(agent, &item, BROKEN);
        }
        self.note_load(agent);
    }

    fn quarantine(&mut self, agent: &AgentId, reason: String, at_start: bool) {
        let Some(slot) = self.slots.get_mut(agent) else { return };
        let is_asked = slot.control.iter().any(|item| matches!(item.command, Command::Quarantine { .. }));
        if !is_asked {
            slot.control.push_front(Item::of(Command::Quarantine { reason, at_start }));
        }
        slot.deaths.clear();
        self.note_load(agent);
    }
}
