//! Who waits for a lease, in which order.
//!
//! Each call is given a time at which it is due, and who is due first is served first. What is urgent is due soon; all
//! age alike, so the order of two calls never changes while they wait. Nobody starves: a call is due at most twice
//! [`PATIENCE`] after it came, and whoever comes after that is due later.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use kintsugi_types::{AgentId, Timestamp};
use tokio::time::Instant;

use crate::lease::LeaseRequest;

/// How long the least urgent call lets the most urgent pass that come after it; a new goal waits as long again, for
/// goals in progress hold memory and pages. Some times what an answer takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Names one call for a lease, so that a caller who goes away can withdraw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Ticket(pub(crate) u64);

/// One call that waits, with the way to answer it.
#[derive(Debug)]
pub(crate) struct Waiting<A> {
    pub(crate) ticket: Ticket,
    pub(crate) request: LeaseRequest,
    pub(crate) since: Instant,
    pub(crate) answer: A,
}

/// A place in the queue, fixed when the call arrives: who is due first, and of those due at once who came first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    due: Instant,
    arrival: u64,
}

/// When a call that comes at `at`, which is `now` on the wall clock, is due.
fn due(request: &LeaseRequest, at: Instant, now: Timestamp) -> Instant {
    let patience = PATIENCE.mul_f64(1.0 - request.urgency.get());
    let patience = if request.goal_started { patience } else { patience + PATIENCE };
    // Half of the time that is left: the answer takes time as well, and more steps may follow.
    let left = request.deadline.map(|deadline| (deadline - now).to_std().unwrap_or(Duration::ZERO) / 2);
    at + left.map_or(patience, |left| left.min(patience))
}

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

    /// Puts `waiting`, which comes now, in its place, or hands it back when the queue is full.
    pub(crate) fn push(&mut self, waiting: Waiting<A>, now: Timestamp) -> Result<(), Waiting<A>> {
        if self.waiting.len() >= self.waiting_max {
            return Err(waiting);
        }
        let rank = Rank { due: due(&waiting.request, waiting.since, now), arrival: self.arrivals };
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
    use chrono::TimeDelta;
    use kintsugi_types::{Score, TenantId};
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn waiting(ticket: u64, agent: &str, goal_started: bool, urgency: f64) -> Waiting<()> {
        let request = LeaseRequest {
            agent: AgentId::new(agent).unwrap(),
            tenant: TenantId::default(),
            urgency: Score::new(urgency),
            prompt_tokens_estimate: 10,
            tokens_max: 5,
            goal_started,
            deadline: None,
        };
        Waiting { ticket: Ticket(ticket), request, since: Instant::now(), answer: () }
    }

    fn order(queue: &mut Queue<()>) -> Vec<u64> {
        std::iter::from_fn(|| queue.pop()).map(|waiting| waiting.ticket.0).collect()
    }

    impl Queue<()> {
        /// Puts `entry` in its place at a common time.
        fn put(&mut self, entry: Waiting<()>, at: Instant) -> Result<(), Waiting<()>> {
            self.push(Waiting { since: at, ..entry }, NOW)
        }
    }

    #[test]
    fn goals_in_progress_go_first_then_urgency_then_arrival() {
        let (mut queue, at) = (Queue::new(8), Instant::now());
        for entry in [
            waiting(1, "a", false, 0.2),
            waiting(2, "b", false, 0.9),
            waiting(3, "c", true, 0.1),
            waiting(4, "d", true, 0.5),
            waiting(5, "e", true, 0.5),
            waiting(6, "f", false, 0.2),
        ] {
            queue.put(entry, at).unwrap();
        }
        assert_eq!(queue.tokens(), 6 * 15);
        assert_eq!(order(&mut queue), [4, 5, 3, 2, 1, 6]);
        assert_eq!((queue.len(), queue.tokens()), (0, 0));
    }

    #[test]
    fn a_near_deadline_goes_before_urgency_and_a_far_one_changes_nothing() {
        let (mut queue, at) = (Queue::new(8), Instant::now());
        for (ticket, urgency, seconds) in
            [(1, 0.9, None), (2, 0.0, Some(2)), (3, 0.0, Some(900)), (4, 0.1, Some(-5))]
        {
            let mut entry = waiting(ticket, "a", true, urgency);
            entry.request.deadline = seconds.map(|seconds| NOW + TimeDelta::seconds(seconds));
            queue.put(entry, at).unwrap();
        }
        assert_eq!(order(&mut queue), [4, 2, 1, 3]);
    }

    #[test]
    fn nobody_starves_while_more_urgent_calls_keep_coming() {
        let (mut queue, start) = (Queue::new(512), Instant::now());
        queue.put(waiting(0, "patient", false, 0.0), start).unwrap();
        let served_after = (1..200u64).find(|second| {
            let at = start + Duration::from_secs(*second);
            // More comes than is served, the most urgent there is, and with a deadline that has passed.
            for ticket in [2 * second, 2 * second + 1] {
                let mut entry = waiting(ticket, "pushing", true, 1.0);
                entry.request.deadline = (ticket % 2 == 0).then_some(NOW);
                queue.put(entry, at).unwrap();
            }
            queue.pop().is_some_and(|waiting| waiting.ticket == Ticket(0))
        });
        // The 118 calls of the first 59 seconds were due before it, and one was served each second.
        assert_eq!(served_after, Some(119));
    }

    #[test]
    fn a_full_queue_hands_the_call_back_and_a_withdrawal_makes_room() {
        let (mut queue, at) = (Queue::new(2), Instant::now());
        queue.put(waiting(1, "a", false, 0.5), at).unwrap();
        queue.put(waiting(2, "b", false, 0.5), at).unwrap();
        assert_eq!(queue.put(waiting(3, "c", true, 1.0), at).unwrap_err().ticket, Ticket(3));
        assert!(queue.withdraw(Ticket(1)).is_some());
        assert!(queue.withdraw(Ticket(1)).is_none());
        queue.put(waiting(3, "c", true, 1.0), at).unwrap();
        assert_eq!(order(&mut queue), [3, 2]);
    }

    #[test]
    fn an_agent_leaves_with_all_its_calls_and_nobody_elses() {
        let (mut queue, at) = (Queue::new(8), Instant::now());
        for (ticket, agent) in [(1, "a"), (2, "b"), (3, "a")] {
            queue.put(waiting(ticket, agent, false, 0.5), at).unwrap();
        }
        assert_eq!(queue.withdraw_agent(&AgentId::new("a").unwrap()).len(), 2);
        assert_eq!(order(&mut queue), [2]);
    }

    proptest! {
        #[test]
        fn the_order_is_that_of_a_stable_sort(
            calls in prop::collection::vec((any::<bool>(), 0u8..4), 0..60)
        ) {
            let (mut queue, at) = (Queue::new(64), Instant::now());
            for (ticket, (started, urgency)) in calls.iter().enumerate() {
                let entry = waiting(ticket as u64, "a", *started, f64::from(*urgency) / 4.0);
                prop_assert!(queue.put(entry, at).is_ok());
            }
            let mut expected: Vec<usize> = (0..calls.len()).collect();
            expected.sort_by_key(|ticket| (!calls[*ticket].0, 255 - calls[*ticket].1));
            let expected: Vec<u64> = expected.into_iter().map(|ticket| ticket as u64).collect();
            prop_assert_eq!(order(&mut queue), expected);
        }
    }
}
