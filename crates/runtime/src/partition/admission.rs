//! Who gets the next goal, and who may begin one.

use std::collections::{BTreeMap, BTreeSet};

use actix::{AsyncContext as _, Context};
use kintsugi_agent::Command;
use kintsugi_events::HealthState;
use kintsugi_types::{AgentId, AgentKind};

use super::Partition;
use super::slot::Item;
use crate::config::Population;
use crate::lane_core::LanePlace;

/// So many goals more a degraded agent seems to have: while others are free it gets none, and it gets some before all
/// of them have more, so that it can show that it is well again.
const DEGRADED_LOAD: usize = 1;

/// What an agent has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Taken {
    /// So many goals.
    Goals(usize),
    /// It takes no more until a person resumes it.
    NeverMore,
}

/// How an agent stands among those of its kind: first by what it seems to have, then by what it has.
type Standing = (usize, Taken);

/// Who is last of all.
const OUT: Standing = (usize::MAX, Taken::NeverMore);

/// Who of a kind lives in a lane.
#[derive(Debug)]
enum Members {
    /// Everybody: so many.
    All(u32),
    /// Agents with these numbers, ascending.
    Some(Box<[u32]>),
}

impl Members {
    fn count(&self) -> u32 {
        match self {
            Self::All(count) => *count,
            // There are no more of them than agents, whose numbers are 32 bits.
            Self::Some(numbers) => u32::try_from(numbers.len()).unwrap_or(u32::MAX),
        }
    }

    /// The number of the agent at `rank` among them, from 0.
    fn number(&self, rank: u32) -> Option<u32> {
        match self {
            Self::All(count) => (rank < *count).then_some(rank),
            Self::Some(numbers) => numbers.get(rank as usize).copied(),
        }
    }

    /// The rank of the agent with this number, if it is one of them.
    fn rank(&self, number: u32) -> Option<u32> {
        match self {
            Self::All(count) => (number < *count).then_some(number),
            Self::Some(numbers) => {
                numbers.binary_search(&number).ok().and_then(|rank| u32::try_from(rank).ok())
            }
        }
    }
}

/// Loads of the agents of one kind that live in one lane. Only those with load are held; the others are a count.
#[derive(Debug)]
pub(super) struct LoadIndex {
    population: Population,
    members: Members,
    // All of these by rank.
    by_load: BTreeSet<(Standing, u32)>,
    loads: BTreeMap<u32, Standing>,
    cursor: u32,
}

impl LoadIndex {
    pub(super) fn new(population: &Population, place: LanePlace) -> Self {
        let members = if place.partitions <= 1 {
            Members::All(population.count)
        } else {
            let is_here = |number: &u32| population.agent(*number).is_ok_and(|id| place.holds(id.as_str()));
            Members::Some((0..population.count).filter(is_here).collect())
        };
        Self {
            population: population.clone(),
            members,
            by_load: BTreeSet::new(),
            loads: BTreeMap::new(),
            cursor: 0,
        }
    }

    /// Whether no agent of the kind lives here.
    pub(super) fn is_empty(&self) -> bool {
        self.members.count() == 0
    }

    /// The agent, wherever it lives, whose lane takes a goal with this hash where its home has no agent of the kind.
    pub(super) fn substitute(&self, hash: u32) -> Option<AgentId> {
        hash.checked_rem(self.population.count).and_then(|number| self.agent(number))
    }

    pub(super) const fn kind(&self) -> &AgentKind {
        &self.population.kind
    }

    /// Notes that agent `number` has `goals`, and whether it is well.
    pub(super) fn set(&mut self, number: u32, goals: usize, is_well: bool) {
        let load = goals + if is_well { 0 } else { DEGRADED_LOAD };
        self.note(number, (load, Taken::Goals(goals)));
    }

    /// Notes that agent `number` takes no goals.
    pub(super) fn set_out(&mut self, number: u32) {
        self.note(number, OUT);
    }

    /// Whether agent `number` takes no goals, as far as is known.
    fn is_out(&self, number: u32) -> bool {
        self.members.rank(number).is_some_and(|rank| self.loads.get(&rank) == Some(&OUT))
    }

    fn note(&mut self, number: u32, standing: Standing) {
        let Some(rank) = self.members.rank(number) else { return };
        if let Some(before) = self.loads.remove(&rank) {
            self.by_load.remove(&(before, rank));
        }
        if standing.0 > 0 {
            self.loads.insert(rank, standing);
            self.by_load.insert((standing, rank));
        }
    }

    /// The agent to get a goal that `giver` handed over, and what it has: another one, unless no other takes any.
    pub(super) fn choose(&mut self, giver: Option<u32>) -> Option<(u32, Taken)> {
        let giver = giver.and_then(|number| self.members.rank(number)).filter(|_| self.members.count() > 1);
        let mut chosen = self.least_loaded(giver)?;
        if giver.is_some() && chosen.1 == Taken::NeverMore {
            chosen = self.least_loaded(None)?;
        }
        Some((self.members.number(chosen.0)?, chosen.1))
    }

    /// The rank of the agent that has least and what that is: the next idle one in turn, else the least loaded. Never `except`,
    /// who must not be the only one.
    fn least_loaded(&mut self, except: Option<u32>) -> Option<(u32, Taken)> {
        let count = self.members.count();
        if count == 0 {
            return None;
        }
        let is_idle_besides = except.is_some_and(|rank| !self.loads.contains_key(&rank));
        if self.loads.len() + usize::from(is_idle_besides) < count as usize {
            // Fewer are loaded than there are, so this ends at one that is not.
            while self.loads.contains_key(&self.cursor) || Some(self.cursor) == except {
                self.cursor = (self.cursor + 1) % count;
            }
            let rank = self.cursor;
            self.cursor = (self.cursor + 1) % count;
            return Some((rank, Taken::Goals(0)));
        }
        let others = self.by_load.iter().find(|(_, rank)| Some(*rank) != except);
        others.map(|((_, taken), rank)| (*rank, *taken))
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
        if let Some(number) = slot.number
            && let Some(index) = self.loads.iter_mut().find(|index| *index.kind() == slot.kind)
        {
            // What a slot says of an agent that was never in memory since is no news.
            let is_unknown = slot.generation == 0 && index.is_out(number);
            if slot.load.is_quarantined || slot.is_broken || is_unknown {
                index.set_out(number);
            } else {
                index.set(number, slot.goals(), slot.load.health == HealthState::Healthy);
            }
        }
        if slot.could_start() && !slot.is_ready {
            slot.is_ready = true;
            self.ready.push_back(agent.clone());
        }
    }

    /// Lets agents begin goals while fewer are runnable than the model can serve.
    pub(super) fn admit(&mut self, ctx: &mut Context<Self>) {
        while !self.is_draining
            && !self.ready.is_empty()
            && self.runnable.has_room(|| ctx.address().recipient())
        {
            let Some(agent) = self.ready.pop_front() else { return };
            let Some(slot) = self.slots.get_mut(&agent) else { continue };
            slot.is_ready = false;
            if !slot.could_start() {
                continue;
            }
            slot.is_starting = true;
            self.runnable.take(1);
            let seed = self.lane.node.config.seed;
            self.enqueue(&agent, Item::of(Command::StartGoal { seed }), ctx);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(count: u32) -> LoadIndex {
        LoadIndex::new(&Population { kind: AgentKind::new("support").unwrap(), count }, LanePlace::ONLY)
    }

    #[test]
    fn idle_agents_take_turns_and_then_the_least_loaded_is_chosen() {
        let mut index = index(3);
        for _ in 0..3 {
            let (number, taken) = index.choose(None).unwrap();
            assert_eq!(taken, Taken::Goals(0));
            index.set(number, 1, true);
        }
        index.set(0, 3, true);
        index.set(2, 2, true);
        assert_eq!(index.choose(None), Some((1, Taken::Goals(1))));
        assert_eq!(index.choose(Some(1)), Some((2, Taken::Goals(2))));
        index.set(2, 0, true);
        assert_eq!(index.choose(None), Some((2, Taken::Goals(0))));
        assert_eq!(index.choose(Some(2)), Some((1, Taken::Goals(1))));
    }

    #[test]
    fn lanes_share_the_agents_and_each_chooses_among_its_own() {
        let population = Population { kind: AgentKind::new("support").unwrap(), count: 100 };
        let mut seen = BTreeSet::new();
        for number in 0..16 {
            let place = LanePlace { number, partitions: 16 };
            let mut index = LoadIndex::new(&population, place);
            assert!(!index.is_empty(), "lane {number}");
            let mut own = BTreeSet::new();
            while let Some((agent, Taken::Goals(0))) = index.choose(None) {
                index.set(agent, 1, true);
                assert!(own.insert(agent) && seen.insert(agent));
                assert!(place.holds(index.agent(agent).unwrap().as_str()));
            }
            let least = *own.first().unwrap();
            index.set(least, 0, true);
            assert_eq!(index.choose(None), Some((least, Taken::Goals(0))));
            let strange = (0..100).find(|number| !own.contains(number)).unwrap();
            index.set_out(strange);
            assert_eq!(index.choose(Some(strange)), Some((least, Taken::Goals(0))), "no agent of this lane");
        }
        assert_eq!(seen.len(), 100);
    }

    #[test]
    fn agents_that_are_not_well_are_last_in_turn_and_no_fuller_than_they_are() {
        let mut index = index(2);
        index.set(0, 0, false);
        assert_eq!(index.choose(None), Some((1, Taken::Goals(0))), "others are free");
        index.set(1, 1, true);
        assert_eq!(index.choose(None), Some((0, Taken::Goals(0))), "it has none and could take one");
        index.set(1, 0, false);
        assert_eq!(index.choose(None), Some((0, Taken::Goals(0))), "none is well, and none is full");
    }

    #[test]
    fn a_goal_goes_back_to_its_giver_where_no_other_takes_any() {
        let mut index = index(3);
        index.set_out(1);
        index.set_out(2);
        index.set(0, 1, true);
        assert_eq!(index.choose(Some(0)), Some((0, Taken::Goals(1))));
        index.set_out(0);
        assert_eq!(index.choose(Some(0)), Some((0, Taken::NeverMore)));
        index.set(1, 4, true);
        assert_eq!(index.choose(Some(0)), Some((1, Taken::Goals(4))));
    }
}
