//! Committed events on their way, in memory, to the actors that want their topics.
//!
//! The feed is a short cut, not the truth: an actor that misses a batch sees the gap in the offsets and reads the
//! log. So the feed may drop what a slow actor has no room for, and that bounds it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use actix::prelude::*;
use kintsugi_eventlog::Committed;
use kintsugi_events::{Event, Topic};

/// The most batches that wait for one actor; further ones are dropped and read from the log later.
pub const BATCHES_MAX: usize = 4_096;

/// Events that were committed together.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct FeedBatch {
    events: Arc<[Event]>,
    offsets: Arc<[u64]>,
    _ticket: FeedTicket,
}

impl FeedBatch {
    /// The events in order, each with its topic and its offset there.
    pub fn committed(&self) -> impl Iterator<Item = (Topic, u64, &Event)> {
        self.events
            .iter()
            .zip(self.offsets.iter())
            .map(|(event, offset)| (event.payload.topic(), *offset, event))
    }
}

/// Counts one waiting batch down when it is dropped.
#[derive(Debug)]
struct FeedTicket {
    waiting: Arc<AtomicUsize>,
}

impl Drop for FeedTicket {
    fn drop(&mut self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Subscriber {
    name: &'static str,
    topics: &'static [Topic],
    recipient: Recipient<FeedBatch>,
    waiting: Arc<AtomicUsize>,
}

/// Who wants which topics.
#[derive(Default)]
pub struct Feed {
    subscribers: RwLock<Vec<Subscriber>>,
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Feed")
    }
}

impl Feed {
    /// Sends batches with events of `topics` to `recipient` from now on, in place of whoever had that name.
    pub fn subscribe(&self, name: &'static str, topics: &'static [Topic], recipient: Recipient<FeedBatch>) {
        let mut subscribers = self.subscribers.write().unwrap_or_else(PoisonError::into_inner);
        subscribers.retain(|subscriber| subscriber.name != name);
        subscribers.push(Subscriber { name, topics, recipient, waiting: Arc::default() });
    }

    /// Hands out what an append committed. `events` are those of its records, in the same order.
    pub fn publish(&self, events: &Arc<[Event]>, committed: &Committed) {
        let mut offsets: Option<Arc<[u64]>> = None;
        let subscribers = self.subscribers.read().unwrap_or_else(PoisonError::into_inner);
        for subscriber in subscribers.iter() {
            if !events.iter().any(|event| subscriber.topics.contains(&event.payload.topic())) {
                continue;
            }
            if subscriber.waiting.load(Ordering::Relaxed) >= BATCHES_MAX {
                continue;
            }
            subscriber.waiting.fetch_add(1, Ordering::Relaxed);
            let offsets = offsets.get_or_insert_with(|| committed.offsets.as_slice().into()).clone();
            let ticket = FeedTicket { waiting: subscriber.waiting.clone() };
            subscriber.recipient.do_send(FeedBatch { events: events.clone(), offsets, _ticket: ticket });
        }
    }
}
