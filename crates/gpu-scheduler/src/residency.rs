//! Whose keys and values lie on the device, whose in host memory, and who makes room first. Pure: it is told what
//! happened and never asks the engine.

use std::collections::{BTreeMap, HashMap};

use kintsugi_inference::{ContextId, MemoryUse};
use kintsugi_types::{AgentId, Score, TenantId};
use serde::{Deserialize, Serialize};

/// Above this share of what the engine may hold, conversations that wait move to host memory. The rest is kept free
/// for requests, so that an admission seldom has to wait for a copy.
const MARK_PERCENT: u64 = 85;

/// Whether so much is in use that waiting conversations have to leave.
///
/// The engine allocates its whole budget at start, less what it could never use; so its total is what 100 % means.
pub(crate) fn is_above_mark(memory: &MemoryUse) -> bool {
    u128::from(memory.in_use().0) * 100 > u128::from(memory.total().0) * u128::from(MARK_PERCENT)
}

/// Where an agent's keys and values are. One that has none is dormant, as far as the model goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Residence {
    /// In host memory, and on the device again with its next request.
    Swapped,
    /// On the device, at work or waiting for its next request.
    Resident,
}

/// Whose conversation it is. An agent that works for two tenants has two.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Owner {
    pub(crate) tenant: TenantId,
    pub(crate) agent: AgentId,
}

/// Where a conversation's keys and values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Nowhere, or with a request of it that is in the batch.
    None,
    Device,
    Host,
}

#[derive(Debug)]
struct Entry {
    owner: Owner,
    urgency: Score,
    /// Counts up with each use of any conversation.
    used: u64,
    place: Place,
    /// Requests of it that are in the batch.
    running: u32,
}

impl Entry {
    /// Who is least missed comes first: the lowest urgency, and of equals who was used least recently.
    fn rank(&self) -> (u64, u64) {
        // The order of floats that are not negative is that of their bits.
        (self.urgency.get().to_bits(), self.used)
    }
}

/// All conversations that hold something or run. At most one for each page and slot, so walking them is cheap.
#[derive(Debug, Default)]
pub(crate) struct Residency {
    entries: BTreeMap<ContextId, Entry>,
    of: HashMap<Owner, ContextId>,
    contexts: u64,
    uses: u64,
    /// Somebody came, went or moved since it was last asked for.
    is_changed: bool,
}

impl Residency {
    /// The conversation of `owner`, a new one where there is none.
    pub(crate) fn context_of(&mut self, owner: &Owner, urgency: Score) -> ContextId {
        if let Some(id) = self.of.get(owner) {
            return *id;
        }
        self.contexts += 1;
        let id = ContextId(self.contexts);
        let entry = Entry { owner: owner.clone(), urgency, used: self.uses, place: Place::None, running: 0 };
        self.entries.insert(id, entry);
        self.of.insert(owner.clone(), id);
        id
    }

    /// A request of it entered the batch and took over what it held. True when that came back from host memory.
    pub(crate) fn enter(&mut self, id: ContextId, urgency: Score) -> bool {
        let Some(entry) = self.entries.get_mut(&id) else { return false };
        entry.running += 1;
        entry.urgency = urgency;
        self.is_changed = true;
        std::mem::replace(&mut entry.place, Place::None) == Place::Host
    }

    /// A request of it ended, and left what it `keeps` or nothing.
    pub(crate) fn finish(&mut self, id: ContextId, keeps: bool) {
        self.uses += 1;
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.used = self.uses;
            entry.place = if keeps { Place::Device } else { Place::None };
        }
        self.cancel(id);
    }

    /// A request of it left the batch and nothing with it.
    pub(crate) fn cancel(&mut self, id: ContextId) {
        self.is_changed = true;
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.running = entry.running.saturating_sub(1);
        }
        self.drop_if_empty(id);
    }

    /// It moved to host memory.
    pub(crate) fn swapped_out(&mut self, id: ContextId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.place = Place::Host;
        }
        self.is_changed = true;
    }

    /// It holds nothing any more.
    pub(crate) fn forget(&mut self, id: ContextId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.place = Place::None;
        }
        self.is_changed = true;
        self.drop_if_empty(id);
    }

    /// Nothing is held: the engine is gone.
    pub(crate) fn clear(&mut self) {
        self.is_changed = true;
        self.entries.clear();
        self.of.clear();
    }

    /// Who leaves the device next; never `spared`.
    pub(crate) fn next_out(&self, spared: Option<ContextId>) -> Option<ContextId> {
        self.least_missed(Place::Device, spared)
    }

    /// Who leaves host memory for good so that `id` finds room there; none where `id` itself is least missed.
    pub(crate) fn next_forgotten_for(&self, id: ContextId) -> Option<ContextId> {
        let least = self.least_missed(Place::Host, None)?;
        let rank = |id: ContextId| self.entries.get(&id).map(Entry::rank);
        (rank(least) < rank(id)).then_some(least)
    }

    /// Whether it waits with something, wherever that lies.
    pub(crate) fn holds(&self, id: ContextId) -> bool {
        self.entries.get(&id).is_some_and(|entry| entry.place != Place::None)
    }

    /// [`Self::residences`] where that changed since it was last asked for.
    pub(crate) fn news(&mut self) -> Option<BTreeMap<AgentId, Residence>> {
        std::mem::take(&mut self.is_changed).then(|| self.residences())
    }

    /// Where the keys and values of each agent are that has any. Of one with several conversations, the nearest counts.
    fn residences(&self) -> BTreeMap<AgentId, Residence> {
        let mut found = BTreeMap::new();
        for entry in self.entries.values() {
            let residence = match entry.place {
                Place::None if entry.running == 0 => continue,
                Place::Host if entry.running == 0 => Residence::Swapped,
                _ => Residence::Resident,
            };
            let known = found.entry(entry.owner.agent.clone()).or_insert(residence);
            *known = residence.max(*known);
        }
        found
    }

    /// The conversations of `agent`, whichever tenant's.
    pub(crate) fn of_agent(&self, agent: &AgentId) -> Vec<ContextId> {
        self.entries.iter().filter(|(_, entry)| entry.owner.agent == *agent).map(|(id, _)| *id).collect()
    }

    /// How many wait on the device.
    pub(crate) fn on_device(&self) -> usize {
        self.count(Place::Device)
    }

    /// How many wait in host memory.
    pub(crate) fn in_host_memory(&self) -> usize {
        self.count(Place::Host)
    }

    /// Forgets the name of a conversation that holds nothing and does not run.
    pub(crate) fn drop_if_empty(&mut self, id: ContextId) {
        if self.entries.get(&id).is_some_and(|entry| entry.running == 0 && entry.place == Place::None)
            && let Some(entry) = self.entries.remove(&id)
        {
            self.of.remove(&entry.owner);
        }
    }

    fn least_missed(&self, place: Place, spared: Option<ContextId>) -> Option<ContextId> {
        self.entries
            .iter()
            .filter(|(id, entry)| entry.place == place && Some(**id) != spared)
            .min_by_key(|(_, entry)| entry.rank())
            .map(|(id, _)| *id)
    }

    fn count(&self, place: Place) -> usize {
        self.entries.values().filter(|entry| entry.place == place).count()
    }
}

#[cfg(test)]
mod tests {
    use kintsugi_types::ByteCount;

    use super::*;

    fn owner(agent: &str, tenant: &str) -> Owner {
        Owner { tenant: TenantId::new(tenant).unwrap(), agent: AgentId::new(agent).unwrap() }
    }

    fn idle(residency: &mut Residency, agent: &str, urgency: f64) -> ContextId {
        let id = residency.context_of(&owner(agent, "t"), Score::new(urgency));
        residency.enter(id, Score::new(urgency));
        residency.finish(id, true);
        id
    }

    #[test]
    fn the_least_urgent_leaves_first_and_of_equals_who_was_used_least_recently() {
        let mut residency = Residency::default();
        let ids = [("a", 0.9), ("b", 0.5), ("c", 0.5), ("d", 0.1)];
        let [a, b, c, d] = ids.map(|(agent, urgency)| idle(&mut residency, agent, urgency));
        assert_eq!(residency.next_out(None), Some(d));
        assert_eq!(residency.next_out(Some(d)), Some(b));
        assert_eq!(idle(&mut residency, "b", 0.5), b);
        residency.swapped_out(d);
        let mut order = Vec::new();
        while let Some(next) = residency.next_out(None) {
            residency.swapped_out(next);
            order.push(next);
        }
        assert_eq!(order, [c, b, a]);
        assert_eq!((residency.on_device(), residency.in_host_memory()), (0, 4));
        assert_eq!((residency.next_forgotten_for(c), residency.next_forgotten_for(d)), (Some(d), None));
        residency.forget(d);
        assert_eq!(residency.next_forgotten_for(b), Some(c));
    }

    #[test]
    fn a_conversation_belongs_to_one_agent_of_one_tenant() {
        let mut residency = Residency::default();
        let id = residency.context_of(&owner("a", "one"), Score::ONE);
        assert_ne!(residency.context_of(&owner("a", "two"), Score::ONE), id);
        assert_eq!(residency.context_of(&owner("a", "one"), Score::ONE), id);
        assert_eq!(residency.of_agent(&AgentId::new("a").unwrap()).len(), 2);
        assert!(!residency.enter(id, Score::ONE));
        residency.finish(id, true);
        residency.swapped_out(id);
        assert!(residency.enter(id, Score::ONE), "it came back from host memory");
        assert_eq!(residency.next_out(None), None, "what runs never leaves");
        residency.finish(id, false);
        assert_ne!(residency.context_of(&owner("a", "one"), Score::ONE), id, "an empty one is forgotten");
    }

    #[test]
    fn the_mark_lies_at_85_percent_of_what_the_engine_may_hold() {
        let memory = |kv_used| MemoryUse {
            weights: ByteCount(400),
            kv_pool: ByteCount(500),
            kv_used: ByteCount(kv_used),
            scratch: ByteCount(100),
            ..MemoryUse::default()
        };
        assert!(!is_above_mark(&memory(350)));
        assert!(is_above_mark(&memory(351)));
    }
}
