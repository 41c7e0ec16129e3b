//! The thread that notices what others write to the lane's topics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use super::Shared;
use super::connection::{Connection, Told};
use super::fetch::watermarks;
use super::headers;
use crate::error::LogError;
use crate::record::TopicPartition;

/// How long the follower waits for news before it looks whether it shall stop.
const WAIT: Duration = Duration::from_millis(100);

/// How long the broker holds an answer back where there are no news. What comes ends it, and the follower never goes
/// on to another partition: so it costs no time, and an idle lane two requests a second.
const FETCH_WAIT: Duration = Duration::from_millis(500);

/// A consumer that does not bring what is known to be there for so long is replaced.
const STALLED_AFTER: Duration = Duration::from_secs(30);

/// Memory for what was fetched and not looked at yet, in KiB.
const MEMORY_KIB: u32 = 8 * 1024;

/// What partitions are read from which offset on.
pub(super) fn list(
    connection: &Connection,
    from: impl Iterator<Item = (TopicPartition, u64)>,
) -> Result<TopicPartitionList, LogError> {
    let mut list = TopicPartitionList::new();
    for (at, offset) in from {
        let offset = Offset::Offset(i64::try_from(offset).unwrap_or(i64::MAX));
        list.add_partition_offset(&connection.topic(at.topic), at.partition.cast_signed(), offset)
            .map_err(|error| connection.failed("read", &error, &Told::default()))?;
    }
    Ok(list)
}

/// Reads the ends of the followed partitions until the log is closed.
pub(super) fn run(shared: &Arc<Shared>) {
    let mut consumer = None;
    let mut stalled_since: Option<(Instant, BTreeMap<TopicPartition, u64>)> = None;
    while !shared.is_stopping.load(Ordering::Acquire) {
        let reader = match consumer.take() {
            Some(reader) => reader,
            None => match start(shared) {
                Ok(reader) => reader,
                Err(error) => {
                    tracing::warn!(lane = %shared.lane.name, %error, "follow the lane's topics");
                    std::thread::park_timeout(WAIT);
                    continue;
                }
            },
        };
        let is_usable = take(shared, &reader);
        shared.sessions.prune();
        // What this lane committed is known to be there: it has to come back.
        let behind: BTreeMap<_, _> = shared
            .view
            .followed()
            .into_iter()
            .filter(|(_, _, is_behind)| *is_behind)
            .map(|(at, next, _)| (at, next))
            .collect();
        stalled_since = match stalled_since {
            _ if behind.is_empty() => None,
            Some((since, before)) if before == behind => Some((since, before)),
            _ => Some((Instant::now(), behind)),
        };
        let is_stalled = stalled_since.as_ref().is_some_and(|(since, _)| since.elapsed() > STALLED_AFTER);
        if is_stalled {
            tracing::warn!(lane = %shared.lane.name, "nothing comes back from Kafka: reading anew");
            stalled_since = None;
        } else if is_usable {
            consumer = Some(reader);
        }
    }
}

fn start(shared: &Shared) -> Result<BaseConsumer<Told>, LogError> {
    let connection = &shared.options.connection;
    let consumer = connection.reader_that_waits(MEMORY_KIB, FETCH_WAIT)?;
    let from = shared.view.followed().into_iter().map(|(at, next, _)| (at, next));
    consumer
        .assign(&list(connection, from)?)
        .map_err(|error| connection.failed("follow topics", &error, consumer.context()))?;
    Ok(consumer)
}

/// Takes in what comes next. Returns whether the consumer can go on.
fn take(shared: &Shared, consumer: &BaseConsumer<Told>) -> bool {
    match consumer.poll(WAIT) {
        None | Some(Err(KafkaError::PartitionEOF(_))) => true,
        Some(Ok(message)) => {
            if let Some(topic) = shared.options.connection.topic_of(message.topic()) {
                let read = headers::read(topic, &message);
                let is_own = read.place.as_ref().is_some_and(|place| place.lane == shared.lane.name);
                shared.view.arrived(read, is_own);
            }
            true
        }
        Some(Err(error)) => match error.rdkafka_error_code() {
            // Deleted before it was seen: go on with the oldest that is kept.
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                pass_over_deleted(shared, consumer);
                false
            }
            // Lost connections are the library's business; it says more where the trouble lies with us.
            _ => consumer.client().fatal_error().is_none(),
        },
    }
}

fn pass_over_deleted(shared: &Shared, consumer: &BaseConsumer<Told>) {
    let followed = shared.view.followed();
    let places: Vec<TopicPartition> = followed.iter().map(|(at, _, _)| *at).collect();
    match watermarks(&shared.options.connection, consumer, &places, WAIT * 20) {
        Ok(found) => {
            for ((at, next, _), (start, _)) in followed.into_iter().zip(found) {
                if start > next {
                    shared.view.restart_tail(at, start);
                }
            }
        }
        Err(error) => tracing::debug!(%error, "ask for the oldest records"),
    }
}
