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

/// An event that is durable, with its place.
#[derive(Debug, Clone)]
pub struct CommittedEvent {
    /// Its topic.
    pub topic: Topic,
    /// Its offset in the topic's partition.
    pub offset: u64,
    /// The event.
    pub event: Event,
}

/// Events that were committed together.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct FeedBatch {
    /// The events, in order.
    pub events: Arc<Vec<CommittedEvent>>,
    /// Counts the batch as waiting until the actor drops it.
    pub ticket: Arc<FeedTicket>,
}

/// Counts one waiting batch down when it is dropped.
#[derive(Debug)]
pub struct FeedTicket {
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
    pub fn publish(&self, events: Vec<Event>, committed: &Committed) {
        let events: Vec<CommittedEvent> = events
            .into_iter()
            .zip(&committed.offsets)
            .map(|(event, offset)| CommittedEvent { topic: event.payload.topic(), offset: *offset, event })
            .collect();
        let events = Arc::new(events);
        let subscribers = self.subscribers.read().unwrap_or_else(PoisonError::into_inner);
        for subscriber in subscribers.iter() {
            if !events.iter().any(|committed| subscriber.topics.contains(&committed.topic)) {
                continue;
            }
            if subscriber.waiting.load(Ordering::Relaxed) >= BATCHES_MAX {
                continue;
            }
            subscriber.waiting.fetch_add(1, Ordering::Relaxed);
            let ticket = Arc::new(FeedTicket { waiting: subscriber.waiting.clone() });
            subscriber.recipient.do_send(FeedBatch { events: events.clone(), ticket });
        }
    }
}
