//! The topics on a cluster: made once, and checked whenever a lane is opened.

use std::fmt::Write as _;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use kintsugi_events::Topic;
use kintsugi_types::ByteCount;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::metadata::Metadata;

use super::connection::{Connection, Told};
use crate::error::LogError;

/// Room beside an append's bytes for what Kafka writes around a batch of messages.
const BATCH_OVERHEAD: u64 = 64 << 10;

/// How long one request to the cluster takes at most.
const REQUEST: Duration = Duration::from_secs(30);

/// How the topics are to be made.
#[derive(Debug, Clone)]
pub struct TopicPlan {
    /// How many partitions each topic has. The same for all, so that one owner has all that concerns an agent, and
    /// for ever, because an agent's partition follows from it.
    pub partitions: u32,
    /// On how many brokers each partition lies; what the cluster has as default where nothing is said.
    pub replication: Option<u16>,
    /// For how long records are kept that no newer one replaces, but for the journal's, from which agents are restored:
    /// for ever where nothing is said.
    pub retention: Option<Duration>,
    /// The largest append of a lane.
    pub append_bytes_max: ByteCount,
}

impl Default for TopicPlan {
    fn default() -> Self {
        Self { partitions: 16, replication: None, retention: None, append_bytes_max: ByteCount::mib(8) }
    }
}

/// What became of one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Made {
    /// It was made, under this name.
    Created(String),
    /// It was there before, under this name.
    Present(String),
}

/// The command that makes what is missing.
pub(super) fn create_command(connection: &Connection) -> String {
    format!("make it with `kintsugi topics create --log kafka://{}`", connection.brokers)
}

/// The error for a topic that is not there.
pub(super) fn missing(connection: &Connection, topic: Topic) -> LogError {
    LogError::Topic {
        topic: connection.topic(topic),
        brokers: Arc::clone(&connection.brokers),
        problem: "does not exist".to_owned(),
        remedy: create_command(connection),
    }
}

/// Makes the topics that are missing. Those that are there stay as they are; one with another number of partitions
/// is refused, because an agent's events would be spread over two.
pub fn create(connection: &Connection, plan: &TopicPlan, patience: Duration) -> Result<Vec<Made>, LogError> {
    let reader = connection.reader(1024)?;
    let before = counts(connection, &connection.ask(&reader, patience)?);
    for (topic, count) in &before {
        if let Some(count) = count
            && *count != plan.partitions
        {
            return Err(LogError::Topic {
                topic: connection.topic(*topic),
                brokers: Arc::clone(&connection.brokers),
                problem: format!("has {count} partitions, and {} are wanted", plan.partitions),
                remedy: format!(
                    "an agent's partition follows from their number, and its events would be spread over two: \
                     keep {count}, or take another prefix"
                ),
            });
        }
    }
    let absent: Vec<Topic> =
        before.iter().filter(|(_, count)| count.is_none()).map(|(topic, _)| *topic).collect();
    make(connection, plan, &absent)?;
    wait_until_there(connection, &reader, plan, patience)?;
    let made = before.iter().map(|(topic, count)| {
        let name = connection.topic(*topic);
        if count.is_some() { Made::Present(name) } else { Made::Created(name) }
    });
    Ok(made.collect())
}

/// The number of partitions that all topics have. Fails where one is missing, where they differ, and where one does
/// not take what a lane may append.
pub fn check(
    connection: &Connection,
    append_bytes_max: ByteCount,
    patience: Duration,
) -> Result<u32, LogError> {
    let reader = connection.reader(1024)?;
    check_with(connection, &reader, append_bytes_max, patience)
}

pub(super) fn check_with(
    connection: &Connection,
    consumer: &BaseConsumer<Told>,
    append_bytes_max: ByteCount,
    patience: Duration,
) -> Result<u32, LogError> {
    let found = counts(connection, &connection.ask(consumer, patience)?);
    let mut partitions = None;
    for (topic, count) in found {
        let count = count.ok_or_else(|| missing(connection, topic))?;
        let expected = *partitions.get_or_insert(count);
        if count != expected {
            return Err(LogError::Topic {
                topic: connection.topic(topic),
                brokers: Arc::clone(&connection.brokers),
                problem: format!("has {count} partitions, and others of ours have {expected}"),
                remedy: "all need the same number: delete it and make it anew, or take another prefix"
                    .to_owned(),
            });
        }
    }
    check_sizes(connection, append_bytes_max)?;
    Ok(partitions.unwrap_or(0))
}

/// Deletes the topics and all that is in them. For tests.
pub fn delete(connection: &Connection) -> Result<(), LogError> {
    let told = Told::default();
    let admin = admin(connection, &told)?;
    let names: Vec<String> = Topic::ALL.iter().map(|topic| connection.topic(*topic)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let options = AdminOptions::new().request_timeout(Some(REQUEST));
    let deleted = block_on(admin.delete_topics(&names, &options));
    deleted.map(drop).map_err(|error| connection.failed("delete topics", &error, &told))
}

/// How many partitions each topic has, where it exists.
fn counts(connection: &Connection, metadata: &Metadata) -> Vec<(Topic, Option<u32>)> {
    Topic::ALL.iter().map(|topic| (*topic, count(connection, metadata, *topic))).collect()
}

/// How many partitions `topic` has, where it exists.
pub(super) fn count(connection: &Connection, metadata: &Metadata, topic: Topic) -> Option<u32> {
    let name = connection.topic(topic);
    let found = metadata.topics().iter().find(|found| found.name() == name)?;
    let is_there = found.error().is_none() && !found.partitions().is_empty();
    is_there.then(|| u32::try_from(found.partitions().len()).unwrap_or(u32::MAX))
}

fn make(connection: &Connection, plan: &TopicPlan, topics: &[Topic]) -> Result<(), LogError> {
    if topics.is_empty() {
        return Ok(());
    }
    let told = Told::default();
    let admin = admin(connection, &told)?;
    let for_ever = "-1".to_owned();
    let retention = plan.retention.map_or_else(|| for_ever.clone(), |kept| kept.as_millis().to_string());
    let bytes_max = (plan.append_bytes_max.bytes() + BATCH_OVERHEAD).to_string();
    let names: Vec<String> = topics.iter().map(|topic| connection.topic(*topic)).collect();
    // What the cluster has as default.
    let replication = plan.replication.map_or(-1, i32::from);
    let new: Vec<NewTopic<'_>> = topics
        .iter()
        .zip(&names)
        .map(|(topic, name)| {
            let partitions = i32::try_from(plan.partitions).unwrap_or(i32::MAX);
            let new = NewTopic::new(name, partitions, TopicReplication::Fixed(replication))
                .set("max.message.bytes", &bytes_max)
                // A lane writes the time of its own order, and finds records by it.
                .set("message.timestamp.type", "CreateTime");
            match topic {
                topic if topic.is_compacted() => new.set("cleanup.policy", "compact"),
                // Agents are restored from it.
                Topic::Agents => new.set("cleanup.policy", "delete").set("retention.ms", &for_ever),
                _ => new.set("cleanup.policy", "delete").set("retention.ms", &retention),
            }
        })
        .collect();
    let options = AdminOptions::new().request_timeout(Some(REQUEST)).operation_timeout(Some(REQUEST));
    let results = block_on(admin.create_topics(&new, &options))
        .map_err(|error| connection.failed("make topics", &error, &told))?;
    for result in results {
        match result {
            // Another node may make them at the same time.
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => {
                let mut problem = String::from("cannot be made");
                // Writing to a text cannot fail.
                let _ = write!(problem, ": {code}");
                return Err(LogError::Topic {
                    topic,
                    brokers: Arc::clone(&connection.brokers),
                    problem,
                    remedy: "look at the number of brokers, at replication and at this user's rights"
                        .to_owned(),
                });
            }
        }
    }
    Ok(())
}

/// A topic is acknowledged before every partition of it has a leader.
fn wait_until_there(
    connection: &Connection,
    consumer: &BaseConsumer<Told>,
    plan: &TopicPlan,
    patience: Duration,
) -> Result<(), LogError> {
    const LOOK_EVERY: Duration = Duration::from_millis(20);
    let begun = Instant::now();
    loop {
        let metadata = connection.ask(consumer, patience)?;
        let absent = Topic::ALL.iter().find(|topic| {
            let name = connection.topic(**topic);
            let found = metadata.topics().iter().find(|found| found.name() == name);
            let is_led = |found: &rdkafka::metadata::MetadataTopic| {
                found.partitions().len() == plan.partitions as usize
                    && found.partitions().iter().all(|one| one.leader() >= 0 && one.error().is_none())
            };
            !found.is_some_and(is_led)
        });
        let Some(absent) = absent else { return Ok(()) };
        if begun.elapsed() > patience {
            return Err(LogError::Topic {
                topic: connection.topic(*absent),
                brokers: Arc::clone(&connection.brokers),
                problem: format!("was made, and has no leader for every partition after {patience:?}"),
                remedy: "look at the brokers".to_owned(),
            });
        }
        thread::park_timeout(LOOK_EVERY);
    }
}

/// Every topic takes a message of `append_bytes_max`.
fn check_sizes(connection: &Connection, append_bytes_max: ByteCount) -> Result<(), LogError> {
    let told = Told::default();
    let admin = admin(connection, &told)?;
    let names: Vec<String> = Topic::ALL.iter().map(|topic| connection.topic(*topic)).collect();
    let asked: Vec<ResourceSpecifier<'_>> = names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
    let options = AdminOptions::new().request_timeout(Some(REQUEST));
    let found = block_on(admin.describe_configs(&asked, &options))
        .map_err(|error| connection.failed("read the settings of topics", &error, &told))?;
    for (name, settings) in names.iter().zip(found) {
        // A user without the right to read settings may still append: what is too large shows then.
        let Ok(settings) = settings else { continue };
        let taken =
            settings.get("max.message.bytes").and_then(|entry| entry.value.as_ref()?.parse::<u64>().ok());
        if taken.is_some_and(|taken| taken < append_bytes_max.bytes()) {
            return Err(LogError::Topic {
                topic: name.clone(),
                brokers: Arc::clone(&connection.brokers),
                problem: format!("takes messages of {} bytes at most", taken.unwrap_or(0)),
                remedy: format!(
                    "set its `max.message.bytes` to {}",
                    append_bytes_max.bytes() + BATCH_OVERHEAD
                ),
            });
        }
    }
    Ok(())
}

fn admin(connection: &Connection, told: &Told) -> Result<AdminClient<Told>, LogError> {
    let created = connection.config().create_with_context(told.clone());
    created.map_err(|error| connection.failed("connect", &error, told))
}

/// Waits for an answer of the cluster, which the client's own thread brings.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        thread::park();
    }
}
