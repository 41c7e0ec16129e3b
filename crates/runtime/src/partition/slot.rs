//! What the partition holds of one agent with load.

use std::collections::VecDeque;
use std::sync::Arc;

use actix::Addr;
use kintsugi_agent::{Command, Effect};
use kintsugi_eventlog::{Append, Lsn};
use kintsugi_events::{Event, HealthState};
use kintsugi_types::{AgentKind, Timestamp};

use crate::agent_actor::{AgentActor, Decided, Load};

/// The most commands of topics and persons that wait in one queue of an agent; one more is a dead letter. What the
/// partition itself has for an agent is bounded by nature, one effect, one timer, one start, one quarantine, and is
/// always taken: without it the agent would wait for ever.
pub(super) const COMMANDS_MAX: usize = 256;

/// Which topic a command came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The goals topic, at this offset.
    Goals(u64),
    /// The recoveries topic, at this offset.
    Recoveries(u64),
}

/// A command that waits, with where it came from.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) command: Command,
    pub(super) origin: Option<Origin>,
    pub(super) tries: u32,
}

impl Item {
    pub(super) fn of(command: Command) -> Self {
        Self { command, origin: None, tries: 0 }
    }

    pub(super) fn from(command: Command, origin: Origin) -> Self {
        Self { command, origin: Some(origin), tries: 0 }
    }
}

/// An append on its way, and what happens when it is durable.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) append: Append,
    pub(super) events: Arc<[Event]>,
    pub(super) origin: Option<Origin>,
    pub(super) decided: Decided,
    pub(super) command: &'static str,
}

/// What the agent is doing with the command that it was handed.
#[derive(Debug)]
pub(super) enum Busy {
    /// It has none.
    Free,
    /// It decides. `None` is a mere wake-up.
    Deciding(Option<Item>),
    /// What it decided waits for room in the log.
    Appending(Box<Pending>),
    /// What it decided is on its way to the disk.
    Committing(Box<Pending>),
}

/// One agent with load.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) kind: AgentKind,
    pub(super) number: Option<u32>,
    pub(super) addr: Option<Addr<AgentActor>>,
    pub(super) generation: u64,
    pub(super) control: VecDeque<Item>,
    pub(super) ordinary: VecDeque<Item>,
    pub(super) busy: Busy,
    pub(super) load: Load,
    /// Goals that were routed here and are not yet part of the load.
    pub(super) accepting: usize,
    /// Whether a start was asked for and not yet decided.
    pub(super) is_starting: bool,
    /// Whether it stands in the queue of agents that could start.
    pub(super) is_ready: bool,
    /// The effect that runs in this process.
    pub(super) running_effect: Option<Effect>,
    pub(super) timer: Option<Timestamp>,
    pub(super) snapshot_sequence: u64,
    /// The first log position that the newest stored snapshot lacks.
    pub(super) dirty_from: Option<Lsn>,
    pub(super) deaths: VecDeque<Timestamp>,
    pub(super) blocked_until: Option<Timestamp>,
    /// Even quarantine failed: nothing more is delivered.
    pub(super) is_broken: bool,
}

impl Slot {
    pub(super) fn new(kind: AgentKind, number: Option<u32>) -> Self {
        Self {
            kind,
            number,
            addr: None,
            generation: 0,
            control: VecDeque::new(),
            ordinary: VecDeque::new(),
            busy: Busy::Free,
            load: Load {
                queued: 0,
                is_running: false,
                is_runnable: false,
                is_quarantined: false,
                health: HealthState::Healthy,
                shown: "idle",
            },
            accepting: 0,
            is_starting: false,
            is_ready: false,
            running_effect: None,
            timer: None,
            snapshot_sequence: 0,
            dirty_from: None,
            deaths: VecDeque::new(),
            blocked_until: None,
            is_broken: false,
        }
    }

    /// Goals that the agent has or is about to have.
    pub(super) fn goals(&self) -> usize {
        self.load.queued + usize::from(self.load.is_running) + self.accepting
    }

    /// Whether the agent could begin a goal.
    pub(super) const fn could_start(&self) -> bool {
        self.load.queued > 0
            && !self.load.is_running
            && !self.load.is_quarantined
            && !self.is_starting
            && !self.is_broken
    }

    /// Whether the outcome of a call waits to be decided on.
    pub(super) fn has_outcome(&self) -> bool {
        let mut waiting = self.control.iter().chain(&self.ordinary);
        waiting.any(|item| matches!(item.command, Command::ActionDone { .. } | Command::CallLost { .. }))
    }

    /// Whether nothing keeps the agent in memory.
    pub(super) fn is_at_rest(&self) -> bool {
        matches!(self.busy, Busy::Free)
            && !self.load.is_any()
            && self.accepting == 0
            && self.control.is_empty()
            && self.ordinary.is_empty()
            && self.running_effect.is_none()
            && self.dirty_from.is_none()
            && !self.is_broken
    }

    fn queue(&mut self, command: &Command) -> &mut VecDeque<Item> {
        if command.is_control() { &mut self.control } else { &mut self.ordinary }
    }

    /// Whether a command finds room in its queue.
    pub(super) fn has_room_for(&mut self, item: &Item) -> bool {
        let is_from_outside = item.origin.is_some() || matches!(item.command, Command::Resume { .. });
        !is_from_outside || self.queue(&item.command).len() < COMMANDS_MAX
    }

    /// Puts a command into its queue, where it has to have room.
    pub(super) fn push(&mut self, item: Item) {
        self.queue(&item.command).push_back(item);
    }

    /// The next command, control before ordinary work.
    pub(super) fn next_item(&mut self) -> Option<Item> {
        self.control.pop_front().or_else(|| self.ordinary.pop_front())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_still_takes_what_the_agent_waits_for() {
        let mut slot = Slot::new(AgentKind::new("clerk").unwrap(), None);
        let goal = || {
            let goal = serde_json::from_value(serde_json::json!({"text": "do it"})).unwrap();
            Item::from(Command::AcceptGoal { goal: Arc::new(goal) }, Origin::Goals(0))
        };
        let resume = || Item::of(Command::Resume { by: "test".to_owned() });
        for _ in 0..COMMANDS_MAX {
            assert!(slot.has_room_for(&goal()) && slot.has_room_for(&resume()));
            slot.push(goal());
            slot.push(resume());
        }
        assert!(!slot.has_room_for(&goal()) && !slot.has_room_for(&resume()));
        for command in [
            Command::StartGoal { seed: 1 },
            Command::TimerDue { at: Timestamp::default() },
            Command::Quarantine { reason: "test".to_owned(), at_start: false },
        ] {
            assert!(slot.has_room_for(&Item::of(command)));
        }
    }
}
