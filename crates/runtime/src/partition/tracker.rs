//! How far a topic was taken in, where its records are worked side by side.

use std::collections::BTreeSet;
use std::sync::Arc;

use kintsugi_eventlog::{Position, TopicPartition};

/// Offsets that were read and are not yet settled, and so how far a position may go.
///
/// Appends of one lane become durable in the order in which they were queued. So once the append that settles an
/// offset is queued, any later append may carry a position past it.
#[derive(Debug)]
pub(super) struct Tracker {
    consumer: Arc<str>,
    of: TopicPartition,
    next: u64,
    outstanding: BTreeSet<u64>,
    written: u64,
}

impl Tracker {
    /// A tracker that reads from `next` on.
    pub(super) fn new(consumer: &str, of: TopicPartition, next: u64) -> Self {
        Self { consumer: consumer.into(), of, next, outstanding: BTreeSet::new(), written: next }
    }

    /// Where the topic is read.
    pub(super) const fn of(&self) -> TopicPartition {
        self.of
    }

    /// The offset to read next.
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    /// How many offsets are not settled.
    pub(super) fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// Takes `offset` in.
    pub(super) fn begin(&mut self, offset: u64) {
        self.outstanding.insert(offset);
        self.next = offset + 1;
    }

    /// Settles `offset`. What followed from it, if anything, has to be appended with [`Self::position`].
    pub(super) fn settle(&mut self, offset: u64) {
        self.outstanding.remove(&offset);
    }

    /// Takes back that `offset` is settled: the append was not queued after all.
    pub(super) fn unsettle(&mut self, offset: u64) {
        self.outstanding.insert(offset);
        self.written = self.written.min(self.low());
    }

    /// The position to store, if it is ahead of the last one.
    pub(super) fn unwritten(&mut self) -> Option<Position> {
        (self.low() > self.written).then(|| self.position())
    }

    /// The position that an append now has to carry.
    pub(super) fn position(&mut self) -> Position {
        let next_offset = self.low();
        self.written = next_offset;
        Position {
            consumer: self.consumer.clone(),
            topic: self.of.topic,
            partition: self.of.partition,
            next_offset,
        }
    }

    fn low(&self) -> u64 {
        self.outstanding.first().copied().unwrap_or(self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kintsugi_events::Topic;

    #[test]
    fn a_position_never_passes_an_offset_that_is_not_settled() {
        let mut tracker = Tracker::new("test", TopicPartition::new(Topic::Goals, 0), 5);
        tracker.begin(5);
        tracker.begin(6);
        tracker.begin(7);
        for (settled, next_offset) in [(6, 5), (5, 7)] {
            tracker.settle(settled);
            assert_eq!(tracker.position().next_offset, next_offset);
        }
        assert!(tracker.unwritten().is_none());
        tracker.settle(7);
        assert_eq!(tracker.unwritten().map(|position| position.next_offset), Some(8), "no frame carried it");
        assert!(tracker.unwritten().is_none());
    }
}
