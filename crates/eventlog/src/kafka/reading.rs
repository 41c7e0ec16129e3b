//! What reading has to know of who reads: one lane, or all of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};

use super::connection::{Connection, Told};
use super::headers::Place;
use super::replay::Sessions;
use super::view::View;
use crate::record::TopicPartition;

/// Who reads, and what is known to be there.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a> {
    pub(super) connection: &'a Connection,
    pub(super) patience: Duration,
    /// The lane whose records count by their LSN; those of every lane where none is named.
    pub(super) lane: Option<&'a str>,
    pub(super) view: &'a View,
    pub(super) sessions: &'a Sessions,
    /// So much earlier a replay begins that goes on with no session. LSNs of one lane grow, and one lane may commit a
    /// record after another has committed one with a higher LSN.
    pub(super) overlap: Duration,
}

impl Reading<'_> {
    /// Whether records of `lane` are merged by their LSN.
    pub(super) fn is_own(&self, lane: Option<&str>) -> bool {
        lane.is_some_and(|lane| self.lane.is_none_or(|own| own == lane))
    }
}

/// The highest epoch of each lane that was seen in a partition. What an owner of the past wrote after it does not
/// count. A partition has records of few lanes: its own, those of stages, and those that handed something over. Whatever
/// outsiders write, there are no more than names that a lane can have.
#[derive(Debug, Default)]
pub(super) struct Epochs(BTreeMap<Arc<str>, u64>);

impl Epochs {
    /// Whether an owner of the past wrote the record at `place`.
    pub(super) fn is_stale(&mut self, place: Option<&Place<Arc<str>>>) -> bool {
        let Some(place) = place else { return false };
        let Some(highest) = self.0.get_mut(&place.lane) else {
            self.0.insert(Arc::clone(&place.lane), place.epoch);
            return false;
        };
        *highest = place.epoch.max(*highest);
        place.epoch < *highest
    }
}

/// Where `consumer` has come to in `at`, past the marks of transactions, which it does not hand over.
pub(super) fn position(
    connection: &Connection,
    consumer: &BaseConsumer<Told>,
    at: TopicPartition,
) -> Option<u64> {
    let (topic, partition) = (connection.topic(at.topic), at.partition.cast_signed());
    let positions: TopicPartitionList = consumer.position().ok()?;
    match positions.find_partition(&topic, partition)?.offset() {
        Offset::Offset(offset) => u64::try_from(offset).ok(),
        _ => None,
    }
}
