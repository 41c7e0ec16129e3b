//! What the tests of the Kafka log share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use kintsugi_broker::shared;
use kintsugi_eventlog::kafka::topics::{self, TopicPlan};
use kintsugi_eventlog::kafka::{Connection, Options};
use kintsugi_eventlog::{Append, KafkaLog, NewRecord, Position, TopicPartition};

/// Longer than anything here takes: what waits so long has failed.
pub(crate) const LONG: Duration = Duration::from_mins(1);

/// A connection to the shared broker, with topics that no other test has. They are gone when this is.
pub(crate) struct Topics {
    pub(crate) connection: Connection,
}

impl Topics {
    /// Topics of `partitions` each on the broker that all tests share.
    pub(crate) fn new(partitions: u32) -> Self {
        let brokers = shared::up().unwrap_or_else(|error| panic!("{error}"));
        Self::at(&brokers, partitions)
    }

    /// The same on the broker at `brokers`.
    pub(crate) fn at(brokers: &str, partitions: u32) -> Self {
        let connection = connection(brokers);
        let plan = TopicPlan { partitions, ..TopicPlan::default() };
        topics::create(&connection, &plan, LONG).expect("topics are made");
        Self { connection }
    }

    /// Options for the lane of `partitions`.
    pub(crate) fn options(&self, partitions: impl Into<Vec<u32>>) -> Options {
        Options::new(self.connection.clone(), partitions)
    }

    /// An open lane of `partitions`.
    pub(crate) fn open(&self, partitions: impl Into<Vec<u32>>) -> Arc<KafkaLog> {
        Arc::new(KafkaLog::open(self.options(partitions)).expect("the lane opens"))
    }
}

impl Drop for Topics {
    fn drop(&mut self) {
        // A broker that a test took down took its topics along.
        let _ = topics::delete(&self.connection);
    }
}

/// A connection with a prefix that nobody else has.
pub(crate) fn connection(brokers: &str) -> Connection {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let prefix = format!("t{}-{number}", std::process::id());
    Connection { prefix: prefix.into(), ..Connection::new(brokers) }
}

pub(crate) fn bare(of: TopicPartition, value: &str) -> NewRecord {
    NewRecord::bare(of.topic, of.partition, "key", value.as_bytes().to_vec())
}

pub(crate) fn one(of: TopicPartition, value: &str) -> Append {
    Append { records: vec![bare(of, value)], positions: Vec::new() }
}

pub(crate) fn stored(consumer: &str, of: TopicPartition, next_offset: u64) -> Position {
    Position { consumer: consumer.into(), topic: of.topic, partition: of.partition, next_offset }
}
