//! Who gets the next goal, and who may begin one.

use std::collections::{BTreeMap, BTreeSet};

use actix::Context;
use kintsugi_agent::Command;
use kintsugi_events::HealthState;
use kintsugi_types::{AgentId, AgentKind};

use super::Partition;
use super::slot::Item;
use crate::config::Population;

/// So many goals more a degraded agent seems to have: while others are free it gets none, and it gets some before all
/// of them have more, so that it can show that it is well again.
const DEGRADED_LOAD: usize = 1;

/// Loads of the agents of one kind. Only those with load are held; the others are a count.
#[derive(Debug)]
pub(super) struct LoadIndex {
    population: Population,
    by_load: BTreeSet<(usize, u32)>,
    loads: BTreeMap<u32, usize>,
    cursor: u32,
}

impl LoadIndex {
    pub(super) fn new(population: &Population) -> Self {
        Self { population: population.clone(), by_load: BTreeSet::new(), loads: BTreeMap::new(), cursor: 0 }
    }

    pub(super) const fn kind(&self) -> &AgentKind {
        &self.population.kind
    }

    /// Notes that agent `number` has `load` goals.
    pub(super) fn set(&mut self, number: u32, load: usize) {
        if let Some(before) = self.loads.remove(&number) {
            self.by_load.remove(&(before, number));
        }
        if load > 0 {
            self.loads.insert(number, load);
            self.by_load.insert((load, number));
        }
    }

    /// Whether there is more than one agent of this kind.
    pub(super) const fn is_plural(&self) -> bool {
        self.population.count > 1
    }

    /// The agent with the fewest goals and their count: the next idle one in turn, else the least loaded. Never
    /// `except`, who must not be the only one.
    pub(super) fn least_loaded(&mut self, except: Option<u32>) -> Option<(u32, usize)> {
        let count = self.population.count;
        if count == 0 {
            return None;
        }
        let is_idle_besides = except.is_some_and(|number| !self.loads.contains_key(&number));
        if self.loads.len() + usize::from(is_idle_besides) < count as usize {
            // Fewer are loaded than there are, so this ends at one that is not.
            while self.loads.contains_key(&self.cursor) || Some(self.cursor) == except {
                self.cursor = (self.cursor + 1) % count;
            }
            let number = self.cursor;
            self.cursor = (self.cursor + 1) % count;
            return Some((number, 0));
        }
        self.by_load.iter().find(|(_, number)| Some(*number) != except).map(|(load, number)| (*number, *load))
    }

    pub(super) fn agent(&self, number: u32) -> Option<AgentId> {
        self.population.agent(number).ok()
    }

    /// The number of `agent`, if it is of this kind.
    pub(super) fn number_of(&self, agent: &AgentId) -> Option<u32> {
        self.population
            .contains(agent)
            .then(|| agent.as_str().rsplit_once('-').and_then(|(_, number)| number.parse().ok()))
            .flatten()
    }
}

impl Partition {
    /// Notes the load of an agent after it changed, and whether it may begin a goal.
    pub(super) fn note_load(&mut self, agent: &AgentId) {
        let Some(slot) = self.slots.get_mut(agent) else { return };
        let load = if slot.load.is_quarantined || slot.is_broken {
            // A quarantined agent is never the least loaded.
            usize::MAX
        } else {
            let is_well = slot.load.health == HealthState::Healthy;
            slot.goals() + if is_well { 0 } else { DEGRADED_LOAD }
        };
        if let Some(number) = slot.number
            && let Some(index) = self.loads.iter_mut().find(|index| *index.kind() == slot.kind)
        {
            index.set(number, load);
        }
        let could_start =
            slot.load.queued > 0 && !slot.load.is_running && !slot.load.is_quarantined && !slot.is_starting;
        if could_start && !slot.is_ready {
            slot.is_ready = true;
            self.ready.push_back(agent.clone());
        }
    }

    /// Lets agents begin goals while fewer are runnable than the model can serve.
    pub(super) fn admit(&mut self, ctx: &mut Context<Self>) {
        while self.runnable < self.node.config.runnable_max {
            let Some(agent) = self.ready.pop_front() else { return };
            let Some(slot) = self.slots.get_mut(&agent) else { continue };
            slot.is_ready = false;
            if slot.load.queued == 0 || slot.load.is_running || slot.load.is_quarantined || slot.is_starting {
                continue;
            }
            slot.is_starting = true;
            self.runnable += 1;
            let seed = self.node.config.seed;
            self.enqueue(&agent, Item::of(Command::StartGoal { seed }), ctx);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_agents_take_turns_and_then_the_least_loaded_is_chosen() {
        let kind = AgentKind::new("support").unwrap();
        let mut index = LoadIndex::new(&Population { kind, count: 3 });
        for _ in 0..3 {
            let (number, load) = index.least_loaded(None).unwrap();
            assert_eq!(load, 0);
            index.set(number, 1);
        }
        index.set(0, 3);
        index.set(2, 2);
        assert_eq!(index.least_loaded(None), Some((1, 1)));
        assert_eq!(index.least_loaded(Some(1)), Some((2, 2)));
        index.set(2, 0);
        assert_eq!(index.least_loaded(None), Some((2, 0)));
        assert_eq!(index.least_loaded(Some(2)), Some((1, 1)));
    }
}
