//! Writing to a cluster without owning anything on it: goals from the command line.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kintsugi_events::Topic;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, Producer as _, PurgeConfig};

use super::connection::{Connection, MESSAGE_BYTES_MAX};
use super::headers::headers_of;
use super::producer::{Delivered, Deliveries, TopicNames, topic_problem};
use super::topics;
use super::wakeup::{NO_EVENTS, WaitedProducer};
use crate::error::LogError;
use crate::queue::locked;
use crate::record::NewRecord;

/// How long nothing may happen before it is looked again.
const LOOK_AFTER: Duration = Duration::from_millis(100);

/// Longer than the library takes to give a message up.
const GRACE: Duration = Duration::from_secs(5);

/// Writes records as any outsider may: each by itself, durable, and in no lane's order.
pub struct Publisher {
    connection: Connection,
    producer: WaitedProducer<Deliveries>,
    context: Deliveries,
    topics: TopicNames,
    partitions: u32,
    patience: Duration,
    /// One at a time: deliveries are counted.
    publishing: Mutex<()>,
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("connection", &self.connection).finish_non_exhaustive()
    }
}

impl Publisher {
    /// Connects to a cluster that has the topic of goals. Every call waits for `patience` at most.
    ///
    /// Fails with [`LogError::Unreachable`] where no broker answers, [`LogError::Refused`] where the cluster does not
    /// let this client in, and [`LogError::Topic`] where there is no topic for goals.
    pub fn open(connection: Connection, patience: Duration) -> Result<Self, LogError> {
        let reader = connection.reader(1024)?;
        let metadata = connection.ask(&reader, patience)?;
        let partitions = topics::count(&connection, &metadata, Topic::Goals)
            .ok_or_else(|| topics::missing(&connection, Topic::Goals))?;
        let mut config = connection.config();
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "0")
            .set("compression.codec", "zstd")
            .set("queue.buffering.max.kbytes", (MESSAGE_BYTES_MAX / 1024 * 2).to_string())
            .set("message.timeout.ms", patience.as_millis().max(1).to_string());
        let context = Deliveries::default();
        let producer = config
            .create_with_context(context.clone())
            .map_err(|error| connection.failed("connect", &error, &context.told))?;
        let producer = WaitedProducer::new(producer).ok_or_else(|| LogError::Kafka {
            what: "connect".to_owned(),
            brokers: Arc::clone(&connection.brokers),
            reason: NO_EVENTS.to_owned(),
        })?;
        let topics = TopicNames::new(&connection);
        Ok(Self { connection, producer, context, topics, partitions, patience, publishing: Mutex::default() })
    }

    /// How many partitions each topic has on the cluster.
    pub const fn partition_count(&self) -> u32 {
        self.partitions
    }

    /// Writes `records`, and returns when every one is durable.
    ///
    /// They are not written as a whole: after an error some of them may be there. What is published again has to bear
    /// the ids that it had, so that it counts once.
    pub fn publish(&self, records: &[NewRecord]) -> Result<(), LogError> {
        let _one_at_a_time = locked(&self.publishing);
        if let Some(lost) = records.iter().find(|record| record.partition >= self.partitions) {
            return Err(LogError::Topic {
                topic: self.connection.topic(lost.topic),
                brokers: Arc::clone(&self.connection.brokers),
                problem: format!(
                    "has {} partitions, and a record is for partition {}",
                    self.partitions, lost.partition
                ),
                remedy: "choose the partition by the number that it has".to_owned(),
            });
        }
        *locked(&self.context.delivered) =
            Delivered { offsets: vec![None; records.len()], ..Delivered::default() };
        let begun = Instant::now();
        let outcome = records
            .iter()
            .enumerate()
            .try_for_each(|(place, record)| self.send(place, record, begun))
            .and_then(|()| self.wait(records.len(), begun));
        if outcome.is_err() {
            // The next call's deliveries are counted from nothing.
            self.producer.purge(PurgeConfig::default().queue().inflight());
            let _ = self.producer.flush(GRACE);
        }
        outcome
    }

    fn send(&self, place: usize, record: &NewRecord, begun: Instant) -> Result<(), LogError> {
        let bytes = record.value.len() + record.key.len();
        if bytes > MESSAGE_BYTES_MAX {
            return Err(LogError::TooLarge { bytes, bytes_max: MESSAGE_BYTES_MAX });
        }
        let mut message = BaseRecord::with_opaque_to(self.topics.of(record.topic), place)
            .partition(record.partition.cast_signed())
            .key(record.key.as_bytes())
            .payload(&record.value)
            .headers(headers_of(record));
        loop {
            match self.producer.send(message) {
                Ok(()) => return Ok(()),
                Err((error, back)) => {
                    let is_full = error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull);
                    if !is_full || begun.elapsed() > self.patience {
                        return Err(self.failed(&error));
                    }
                    message = back;
                    self.producer.serve(LOOK_AFTER);
                }
            }
        }
    }

    fn wait(&self, count: usize, begun: Instant) -> Result<(), LogError> {
        loop {
            {
                let delivered = locked(&self.context.delivered);
                if let Some(failure) = &delivered.failure {
                    return Err(self.failed(failure));
                }
                if delivered.count >= count {
                    return Ok(());
                }
            }
            let is_over = begun.elapsed() > self.patience + GRACE;
            if is_over || self.context.told.is_refused() {
                return Err(self.failed(&KafkaError::MessageProduction(RDKafkaErrorCode::OperationTimedOut)));
            }
            self.producer.serve(LOOK_AFTER);
        }
    }

    fn failed(&self, error: &KafkaError) -> LogError {
        let reason = error.to_string();
        let code = error.rdkafka_error_code();
        if code == Some(RDKafkaErrorCode::MessageTimedOut) && !self.context.told.is_refused() {
            let reason = self.context.told.reason().unwrap_or(reason);
            return LogError::Unreachable { brokers: Arc::clone(&self.connection.brokers), reason };
        }
        topic_problem(&self.connection, code, &reason)
            .unwrap_or_else(|| self.connection.failed("publish", error, &self.context.told))
    }
}
