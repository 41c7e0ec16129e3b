//! How many goals may be in progress at the same time, shared by the lanes of a node.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix::prelude::*;

/// There may be room for a goal of this lane.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(crate) struct RoomForGoal;

/// The goals in progress of all lanes.
#[derive(Debug)]
pub(crate) struct RunnableBudget {
    max: usize,
    used: AtomicUsize,
    /// Lanes with goals that found no room, each once, in the order in which they came.
    waiting: Mutex<VecDeque<(u32, Recipient<RoomForGoal>)>>,
}

impl RunnableBudget {
    /// Room for `max` goals.
    pub(crate) fn new(max: usize) -> Self {
        Self { max, used: AtomicUsize::new(0), waiting: Mutex::default() }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<(u32, Recipient<RoomForGoal>)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one lane has of the budget. What it holds is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct RunnableShare {
    budget: Arc<RunnableBudget>,
    lane: u32,
    used: usize,
}

impl RunnableShare {
    /// A share of nothing yet, for lane number `lane`.
    pub(crate) const fn new(budget: Arc<RunnableBudget>, lane: u32) -> Self {
        Self { budget, lane, used: 0 }
    }

    /// Whether one more goal may be begun. Where it may not, `waiter` is told when it is worth another look.
    pub(crate) fn has_room(&self, waiter: impl FnOnce() -> Recipient<RoomForGoal>) -> bool {
        if self.budget.used.load(Ordering::Relaxed) < self.budget.max {
            return true;
        }
        // A lane looks for itself whenever a goal of its own makes room.
        let mut waiting = self.budget.waiting();
        if waiting.iter().all(|(lane, _)| *lane != self.lane) {
            waiting.push_back((self.lane, waiter()));
        }
        false
    }

    /// Takes `count` goals in, whether there is room or not: what is in progress already cannot be sent away.
    pub(crate) fn take(&mut self, count: usize) {
        self.used += count;
        self.budget.used.fetch_add(count, Ordering::Relaxed);
    }

    /// Gives `count` goals back, and lets another lane know.
    pub(crate) fn give(&mut self, count: usize) {
        let count = count.min(self.used);
        self.used -= count;
        let before = self.budget.used.fetch_sub(count, Ordering::Relaxed);
        if before - count >= self.budget.max {
            return;
        }
        let mut waiting = self.budget.waiting();
        waiting.retain(|(lane, _)| *lane != self.lane);
        for _ in 0..count {
            let Some((_, waiter)) = waiting.pop_front() else { break };
            waiter.do_send(RoomForGoal);
        }
    }
}

impl Drop for RunnableShare {
    fn drop(&mut self) {
        self.give(self.used);
        self.budget.waiting().retain(|(lane, _)| *lane != self.lane);
    }
}
