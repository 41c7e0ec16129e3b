//! Committed events on their way, in memory, to the actors that want their topics.
//!
//! The feed is a short cut, not the truth: an actor that misses a batch sees that it has not come as far as what the
//! next event follows, and reads the log. So the feed may drop what a slow actor has no room for, and that bounds it.

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
    places: Arc<Places>,
    _ticket: FeedTicket,
}

/// Where the events of a batch became durable, as in [`Committed`].
#[derive(Debug)]
struct Places {
    offsets: Vec<u64>,
    follows: Vec<u64>,
}

/// One event of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Fed<'a> {
    /// Its topic.
    pub topic: Topic,
    /// Its offset there.
    pub offset: u64,
    /// Whoever has taken in everything below this offset has missed nothing before the event.
    pub follows: u64,
    /// The event.
    pub event: &'a Event,
}

impl FeedBatch {
    /// The events in order.
    pub fn committed(&self) -> impl Iterator<Item = Fed<'_>> {
        let places = self.places.offsets.iter().zip(&self.places.follows);
        self.events.iter().zip(places).map(|(event, (offset, follows))| Fed {
            topic: event.payload.topic(),
            offset: *offset,
            follows: *follows,
            event,
        })
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

    /// Forgets all subscribers: their lane is closed.
    pub(crate) fn clear(&self) {
        self.subscribers.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Hands out what an append committed. `events` are those of its records, in the same order.
    pub fn publish(&self, events: &Arc<[Event]>, committed: &Committed) {
        let mut places: Option<Arc<Places>> = None;
        let subscribers = self.subscribers.read().unwrap_or_else(PoisonError::into_inner);
        for subscriber in subscribers.iter() {
            if !events.iter().any(|event| subscriber.topics.contains(&event.payload.topic())) {
                continue;
            }
            if subscriber.waiting.load(Ordering::Relaxed) >= BATCHES_MAX {
                continue;
            }
            subscriber.waiting.fetch_add(1, Ordering::Relaxed);
            let places = places.get_or_insert_with(|| {
                Arc::new(Places { offsets: committed.offsets.clone(), follows: committed.follows.clone() })
            });
            let ticket = FeedTicket { waiting: subscriber.waiting.clone() };
            subscriber.recipient.do_send(FeedBatch {
                events: events.clone(),
                places: places.clone(),
                _ticket: ticket,
            });
        }
    }
}
