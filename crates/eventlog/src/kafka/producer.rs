//! One transaction after the other, through a producer that is replaced rather than mended.
//!
//! A transaction has one of three ends: committed, not committed, or unknown. After anything but the first, the
//! producer is thrown away. Its successor's start ends what it left open, on the broker's side, and then the ledger
//! tells what became of it. So no transaction is ever aborted from here: in the client library an abort before the
//! first acknowledgement can be fatal (librdkafka issue 4849), and a producer whose end of a transaction timed out
//! cannot be trusted any more (5423).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kintsugi_events::Topic;
use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};

use super::connection::{Connection, MESSAGE_BYTES_MAX, Told, is_refusal};
use super::spent::Spent;
use super::wakeup::{NO_EVENTS, WaitedProducer};
use crate::error::LogError;
use crate::queue::locked;

/// How long the library is given for one call. It is called again where it says that this helps.
const CALL: Duration = Duration::from_secs(30);

/// How long nothing may happen before it is looked again.
const LOOK_AFTER: Duration = Duration::from_millis(100);

/// The pause before a call that the library wants again.
const AGAIN_AFTER: Duration = Duration::from_millis(1);

/// Why a transaction was not committed, or not for certain.
#[derive(Debug)]
pub(super) enum Trouble {
    /// A new producer finds out how it ended, and the next try may succeed.
    Unknown(String),
    /// A producer of the same lane was started after this one.
    Fenced(String),
    /// The group says that this member does not own the lane.
    NotMember(String),
    /// It cannot succeed.
    Fatal(LogError),
}

/// One message of a transaction.
pub(super) struct Outgoing<'a> {
    pub(super) topic: &'a str,
    pub(super) partition: u32,
    pub(super) key: &'a str,
    pub(super) value: &'a [u8],
    pub(super) time_ms: i64,
    pub(super) headers: OwnedHeaders,
}

/// The offsets that the messages of a transaction got.
#[derive(Debug, Default)]
pub(super) struct Delivered {
    pub(super) offsets: Vec<Option<u64>>,
    pub(super) count: usize,
    pub(super) failure: Option<KafkaError>,
}

/// Hears of every delivery, on the thread that polls.
#[derive(Clone, Default)]
pub(super) struct Deliveries {
    pub(super) told: Told,
    pub(super) delivered: Arc<Mutex<Delivered>>,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.told.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.told.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, place: usize) {
        let mut delivered = locked(&self.delivered);
        delivered.count += 1;
        match result {
            Ok(message) => {
                let offset = u64::try_from(message.offset()).ok();
                if let Some(slot) = delivered.offsets.get_mut(place) {
                    *slot = offset;
                }
            }
            Err((error, _)) => {
                delivered.failure.get_or_insert_with(|| error.clone());
            }
        }
    }
}

/// A transactional producer.
pub(super) struct Transactor {
    connection: Connection,
    producer: WaitedProducer<Deliveries>,
    context: Deliveries,
}

impl Transactor {
    /// A producer named `transactional_id`. Whoever had that name is fenced, and what he left open is ended, before
    /// this returns. Waits for the cluster at most for `patience`.
    pub(super) fn new(
        connection: &Connection,
        transactional_id: &str,
        transaction_timeout: Duration,
        patience: Duration,
    ) -> Result<Self, Trouble> {
        let mut config = connection.config();
        config
            .set("transactional.id", transactional_id)
            .set("transaction.timeout.ms", transaction_timeout.as_millis().to_string())
            .set("acks", "all")
            .set("linger.ms", "0")
            // The broker may still mark the end of this producer's last transaction, which takes some 20 ms. The library
            // would ask again after 100.
            .set("retry.backoff.ms", "10")
            .set("compression.codec", "zstd")
            // The queue before this one is what bounds memory; a whole transaction always fits.
            .set("queue.buffering.max.kbytes", (MESSAGE_BYTES_MAX / 1024 * 2).to_string())
            .set("batch.num.messages", "100000")
            // Of a transaction that waits for its coordinator, and no longer than it is given on the broker.
            .set("message.timeout.ms", transaction_timeout.as_millis().to_string());
        let context = Deliveries::default();
        let producer: BaseProducer<Deliveries> = config
            .create_with_context(context.clone())
            .map_err(|error| Trouble::Fatal(connection.failed("connect", &error, &context.told)))?;
        let producer = WaitedProducer::new(producer).ok_or_else(|| Trouble::Unknown(NO_EVENTS.to_owned()))?;
        let transactor = Self { connection: connection.clone(), producer, context };
        transactor.init(patience)?;
        Ok(transactor)
    }

    fn init(&self, patience: Duration) -> Result<(), Trouble> {
        /// Short, because only between two calls does the library say why it does not get on.
        const TRY: Duration = Duration::from_secs(1);
        let begun = Instant::now();
        loop {
            let outcome = self.producer.init_transactions(TRY);
            self.producer.poll(Duration::ZERO);
            let Err(error) = outcome else { return Ok(()) };
            if self.context.told.is_refused() {
                return Err(Trouble::Fatal(self.failed("start a producer", &error)));
            }
            match self.classify("start a producer", &error) {
                Step::Again if begun.elapsed() < patience => {}
                Step::Again => {
                    let reason = self.context.told.reason().unwrap_or_else(|| error.to_string());
                    return Err(Trouble::Unknown(reason));
                }
                Step::End(trouble) => return Err(trouble),
            }
        }
    }

    /// Runs one transaction to its end. `messages` yields `count` of them. Returns their offsets.
    pub(super) fn transact<'a>(
        &self,
        count: usize,
        messages: impl Iterator<Item = Outgoing<'a>>,
        offsets: &TopicPartitionList,
        group: &ConsumerGroupMetadata,
        spent: &Spent,
    ) -> Result<Vec<u64>, Trouble> {
        let begun = Instant::now();
        {
            let mut delivered = locked(&self.context.delivered);
            *delivered = Delivered { offsets: vec![None; count], count: 0, failure: None };
        }
        self.step("begin a transaction", || self.producer.begin_transaction())?;
        let mut partitions = BTreeSet::new();
        for (place, message) in messages.enumerate() {
            partitions.insert((message.topic, message.partition));
            self.send(place, message)?;
        }
        let sent_at = Instant::now();
        // The broker stores the positions while it takes the records.
        let stored =
            self.step("store positions", || self.producer.send_offsets_to_transaction(offsets, group, CALL));
        if let Err(trouble) = stored {
            // A record that was refused ends the transaction, and says why.
            self.producer.serve(AGAIN_AFTER);
            let failure = locked(&self.context.delivered).failure.take();
            return Err(failure.map_or(trouble, |failure| self.trouble("write records", &failure)));
        }
        let stored_at = Instant::now();
        self.wait_until_delivered(count)?;
        let delivered_at = Instant::now();
        self.step("commit a transaction", || self.producer.commit_transaction(CALL))?;
        spent.add(
            count,
            partitions.len(),
            [sent_at - begun, stored_at - sent_at, delivered_at - stored_at, delivered_at.elapsed()],
        );
        let delivered = std::mem::take(&mut *locked(&self.context.delivered));
        // Every delivery was told with its offset before the commit was begun.
        Ok(delivered.offsets.into_iter().flatten().collect())
    }

    /// The offsets of the last transaction, where all its messages were delivered.
    pub(super) fn offsets(&self) -> Option<Vec<u64>> {
        let delivered = std::mem::take(&mut *locked(&self.context.delivered));
        delivered.offsets.into_iter().collect()
    }

    fn send(&self, place: usize, message: Outgoing<'_>) -> Result<(), Trouble> {
        let mut record = BaseRecord::with_opaque_to(message.topic, place)
            .partition(message.partition.cast_signed())
            .key(message.key.as_bytes())
            .payload(message.value)
            .timestamp(message.time_ms)
            .headers(message.headers);
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((error, back)) => {
                    if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                        return Err(self.trouble(&format!("write to {}", message.topic), &error));
                    }
                    record = back;
                    self.producer.serve(LOOK_AFTER);
                }
            }
        }
    }

    /// Waits for every acknowledgement, and for the library to have handed all of them over: a commit that finds
    /// anything left takes 100 ms.
    fn wait_until_delivered(&self, count: usize) -> Result<(), Trouble> {
        loop {
            {
                let delivered = locked(&self.context.delivered);
                if let Some(failure) = &delivered.failure {
                    return Err(self.trouble("write records", failure));
                }
                if delivered.count >= count && self.producer.in_flight_count() == 0 {
                    return Ok(());
                }
            }
            self.producer.serve(LOOK_AFTER);
        }
    }

    /// Calls the library, and again as long as it says that this helps.
    fn step(&self, what: &str, call: impl Fn() -> Result<(), KafkaError>) -> Result<(), Trouble> {
        let begun = Instant::now();
        loop {
            let Err(error) = call() else { return Ok(()) };
            match self.classify(what, &error) {
                // What takes longer may never end: a new producer looks for itself.
                Step::Again if begun.elapsed() < CALL => {
                    self.producer.serve(AGAIN_AFTER);
                }
                Step::Again => return Err(Trouble::Unknown(format!("{what}: {error}"))),
                Step::End(trouble) => return Err(trouble),
            }
        }
    }

    fn classify(&self, what: &str, error: &KafkaError) -> Step {
        match error {
            KafkaError::Transaction(inner) if inner.is_retriable() => Step::Again,
            other => Step::End(self.trouble(what, other)),
        }
    }

    fn trouble(&self, what: &str, error: &KafkaError) -> Trouble {
        let reason = format!("{what}: {error}");
        // A fatal state of the client hides behind a general code; the reason tells.
        let fatal = self.producer.client().fatal_error().map(|(code, _)| code);
        let code = fatal.or_else(|| error.rdkafka_error_code());
        if let Some(problem) = topic_problem(&self.connection, code, &reason) {
            return Trouble::Fatal(problem);
        }
        match code {
            Some(
                RDKafkaErrorCode::Fenced
                | RDKafkaErrorCode::ProducerFenced
                | RDKafkaErrorCode::InvalidProducerEpoch,
            ) => Trouble::Fenced(reason),
            Some(
                RDKafkaErrorCode::IllegalGeneration
                | RDKafkaErrorCode::UnknownMemberId
                | RDKafkaErrorCode::FencedInstanceId
                | RDKafkaErrorCode::RebalanceInProgress,
            ) => Trouble::NotMember(reason),
            Some(code) if is_refusal(code) => Trouble::Fatal(self.failed(what, error)),
            Some(
                RDKafkaErrorCode::InvalidTimestamp
                | RDKafkaErrorCode::InvalidRecord
                | RDKafkaErrorCode::InvalidTransactionTimeout
                | RDKafkaErrorCode::UnsupportedVersion
                | RDKafkaErrorCode::OffsetMetadataTooLarge,
            ) => Trouble::Fatal(self.failed(what, error)),
            _ => Trouble::Unknown(reason),
        }
    }

    fn failed(&self, what: &str, error: &KafkaError) -> LogError {
        self.connection.failed(what, error, &self.context.told)
    }
}

/// What is wrong with a topic, where that is why writing failed.
pub(super) fn topic_problem(
    connection: &Connection,
    code: Option<RDKafkaErrorCode>,
    reason: &str,
) -> Option<LogError> {
    let (problem, remedy) = match code? {
        RDKafkaErrorCode::MessageSizeTooLarge => (
            "does not take a record of this size".to_owned(),
            "raise `max.message.bytes` of the topic".to_owned(),
        ),
        RDKafkaErrorCode::UnknownTopicOrPartition
        | RDKafkaErrorCode::UnknownTopic
        | RDKafkaErrorCode::UnknownPartition => (
            format!("is gone, or one of its partitions is: {reason}"),
            super::topics::create_command(connection),
        ),
        _ => return None,
    };
    let topic = format!("{}.*", connection.prefix);
    Some(LogError::Topic { topic, brokers: Arc::clone(&connection.brokers), problem, remedy })
}

/// What to do after a call failed.
enum Step {
    Again,
    End(Trouble),
}

/// The names of the topics on the cluster, made once.
pub(super) struct TopicNames(Vec<String>);

impl TopicNames {
    pub(super) fn new(connection: &Connection) -> Self {
        Self(Topic::ALL.iter().map(|topic| connection.topic(*topic)).collect())
    }

    pub(super) fn of(&self, topic: Topic) -> &str {
        let place = Topic::ALL.iter().position(|other| *other == topic);
        place.and_then(|place| self.0.get(place)).map_or("", String::as_str)
    }
}
