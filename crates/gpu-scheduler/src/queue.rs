//! Who waits for a lease, in which order.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};

use kintsugi_types::{AgentId, Score};

use crate::lease::LeaseRequest;

/// Names one call for a lease, so that a caller who goes away can withdraw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ticket(pub(crate) u64);

/// One call that waits, with the way to answer it.
#[derive(Debug)]
pub(crate) struct Waiting<A> {
    pub(crate) ticket: Ticket,
    pub(crate) request: LeaseRequest,
    pub(crate) answer: A,
}

/// A place in the queue. Fixed when the call arrives.
#[derive(Debug, Clone, Copy)]
struct Rank {
    goal_started: bool,
    urgency: Score,
    arrival: u64,
}

/// The one place that decides who is served first: goals in progress, then urgency, then who came first.
///
/// A rank never changes while it waits. Ageing that is linear in time keeps that: who gains urgency at a common
/// rate is ordered by urgency minus rate times arrival.
fn served_first(one: &Rank, other: &Rank) -> Ordering {
    other
        .goal_started
        .cmp(&one.goal_started)
        .then_with(|| other.urgency.get().total_cmp(&one.urgency.get()))
        .then_with(|| one.arrival.cmp(&other.arrival))
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        served_first(self, other)
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Rank {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Rank {}

/// The bounded queue. Bounded here because an actor's mailbox is not: `do_send` ignores its capacity.
#[derive(Debug)]
pub(crate) struct Queue<A> {
    waiting: BTreeMap<Rank, Waiting<A>>,
    ranks: HashMap<Ticket, Rank>,
    waiting_max: usize,
    arrivals: u64,
    tokens: u64,
}

impl<A> Queue<A> {
    /// An empty queue of at most `waiting_max`.
    pub(crate) fn new(waiting_max: usize) -> Self {
        Self { waiting: BTreeMap::new(), ranks: HashMap::new(), waiting_max, arrivals: 0, tokens: 0 }
    }

    /// Puts `waiting` in its place, or hands it back when the queue is full.
    pub(crate) fn push(&mut self, waiting: Waiting<A>) -> Result<(), Waiting<A>> {
        if self.waiting.len() >= self.waiting_max {
            return Err(waiting);
        }
        let rank = Rank {
            goal_started: waiting.request.goal_started,
            urgency: waiting.request.urgency,
            arrival: self.arrivals,
        };
        self.arrivals += 1;
        self.tokens += waiting.request.tokens();
        self.ranks.insert(waiting.ticket, rank);
        self.waiting.insert(rank, waiting);
        Ok(())
    }

    /// Takes out who is served next.
    pub(crate) fn pop(&mut self) -> Option<Waiting<A>> {
        let (_, waiting) = self.waiting.pop_first()?;
        self.forget(&waiting);
        Some(waiting)
    }

    /// Takes out the call of `ticket`, if it still waits.
    pub(crate) fn withdraw(&mut self, ticket: Ticket) -> Option<Waiting<A>> {
        let rank = self.ranks.get(&ticket)?;
        let waiting = self.waiting.remove(rank)?;
        self.forget(&waiting);
        Some(waiting)
    }

    /// Takes out all calls of `agent`.
    pub(crate) fn withdraw_agent(&mut self, agent: &AgentId) -> Vec<Waiting<A>> {
        let tickets: Vec<Ticket> = self
            .waiting
            .values()
            .filter(|waiting| waiting.request.agent == *agent)
            .map(|waiting| waiting.ticket)
            .collect();
        tickets.into_iter().filter_map(|ticket| self.withdraw(ticket)).collect()
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// What those who wait expect to need, in tokens.
    pub(crate) fn tokens(&self) -> u64 {
        self.tokens
    }

    fn forget(&mut self, waiting: &Waiting<A>) {
        self.ranks.remove(&waiting.ticket);
        self.tokens = self.tokens.saturating_sub(waiting.request.tokens());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn waiting(ticket: u64, agent: &str, goal_started: bool, urgency: f64) -> Waiting<()> {
        let request = LeaseRequest {
            agent: AgentId::new(agent).unwrap(),
            tenant: kintsugi_types::TenantId::default(),
            urgency: Score::new(urgency),
            prompt_tokens_estimate: 10,
            tokens_max: 5,
            goal_started,
        };
        Waiting { ticket: Ticket(ticket), request, answer: () }
    }

    fn order(queue: &mut Queue<()>) -> Vec<u64> {
        std::iter::from_fn(|| queue.pop()).map(|waiting| waiting.ticket.0).collect()
    }

    #[test]
    fn goals_in_progress_go_first_then_urgency_then_arrival() {
        let mut queue = Queue::new(8);
        for entry in [
            waiting(1, "a", false, 0.2),
            waiting(2, "b", false, 0.9),
            waiting(3, "c", true, 0.1),
            waiting(4, "d", true, 0.5),
            waiting(5, "e", true, 0.5),
            waiting(6, "f", false, 0.2),
        ] {
            queue.push(entry).unwrap();
        }
        assert_eq!(queue.tokens(), 6 * 15);
        assert_eq!(order(&mut queue), [4, 5, 3, 2, 1, 6]);
        assert_eq!((queue.len(), queue.tokens()), (0, 0));
    }

    #[test]
    fn a_full_queue_hands_the_call_back_and_a_withdrawal_makes_room() {
        let mut queue = Queue::new(2);
        queue.push(waiting(1, "a", false, 0.5)).unwrap();
        queue.push(waiting(2, "b", false, 0.5)).unwrap();
        assert_eq!(queue.push(waiting(3, "c", true, 1.0)).unwrap_err().ticket, Ticket(3));
        assert!(queue.withdraw(Ticket(1)).is_some());
        assert!(queue.withdraw(Ticket(1)).is_none());
        queue.push(waiting(3, "c", true, 1.0)).unwrap();
        assert_eq!(order(&mut queue), [3, 2]);
    }

    #[test]
    fn an_agent_leaves_with_all_its_calls_and_nobody_elses() {
        let mut queue = Queue::new(8);
        for (ticket, agent) in [(1, "a"), (2, "b"), (3, "a")] {
            queue.push(waiting(ticket, agent, false, 0.5)).unwrap();
        }
        assert_eq!(queue.withdraw_agent(&AgentId::new("a").unwrap()).len(), 2);
        assert_eq!(order(&mut queue), [2]);
    }

    proptest! {
        #[test]
        fn the_order_is_that_of_a_stable_sort(
            calls in prop::collection::vec((any::<bool>(), 0u8..4), 0..60)
        ) {
            let mut queue = Queue::new(64);
            for (ticket, (started, urgency)) in calls.iter().enumerate() {
                let entry = waiting(ticket as u64, "a", *started, f64::from(*urgency) / 4.0);
                prop_assert!(queue.push(entry).is_ok());
            }
            let mut expected: Vec<usize> = (0..calls.len()).collect();
            expected.sort_by_key(|ticket| (!calls[*ticket].0, 255 - calls[*ticket].1));
            let expected: Vec<u64> = expected.into_iter().map(|ticket| ticket as u64).collect();
            prop_assert_eq!(order(&mut queue), expected);
        }
    }
}
