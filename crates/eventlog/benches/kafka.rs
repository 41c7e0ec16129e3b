//! How much of the client library's own speed the Kafka log keeps.
//!
//! The same messages in transactions of the same size over the same number of partitions: through the log, and bare,
//! by the library alone. Both in turns and on topics of their own, so that both meet the same neighbours. Bare comes
//! in two forms: with the offsets that every transaction of ours carries, and without.
//!
//! `cargo xtask bench kafka`; a number as argument takes that many transactions a turn.
#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use kintsugi_broker::shared;
use kintsugi_eventlog::kafka::topics::{self, TopicPlan};
use kintsugi_eventlog::kafka::{Connection, Options};
use kintsugi_eventlog::{Append, EventLog as _, KafkaLog, LogError, NewRecord, Position};
use kintsugi_events::{Envelope, Subject, Topic};
use kintsugi_types::{AgentId, EventId, GoalId, IdSource as _, SeededIds, Timestamp};
use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use rdkafka::{Offset, TopicPartitionList};

type Failure = Box<dyn std::error::Error>;

const TRANSACTIONS: u64 = 40;
const ROUNDS: usize = 7;
const PATIENCE: Duration = Duration::from_mins(1);

/// Events of a step, as a node writes them: most go to the journal, and some tell of it elsewhere.
const STEP: [Topic; 6] =
    [Topic::Agents, Topic::Agents, Topic::Agents, Topic::Metrics, Topic::Agents, Topic::Snapshots];

/// Records in a transaction, and partition numbers that they are spread over. Each touches three topics there.
const SHAPES: [(usize, u32); 6] = [(6, 1), (60, 1), (600, 1), (60, 4), (600, 4), (3000, 4)];

fn main() -> Result<(), Failure> {
    let transactions = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(TRANSACTIONS);
    let brokers = shared::up()?;
    println!("{transactions} transactions a turn, {ROUNDS} turns, medians\n");
    println!(
        "| records, partitions | log: records/s | bare with offsets | bare without | log of bare with | of without | \
         log: one alone, p50 / p99 ms |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (records, lanes) in SHAPES {
        compare(&brokers, records, lanes, transactions)?;
    }
    Ok(())
}

fn compare(brokers: &str, records: usize, partitions: u32, transactions: u64) -> Result<(), Failure> {
    let prefix = format!("bench-{}-{records}-{partitions}", std::process::id());
    let connection =
        |kind: &str| Connection { prefix: format!("{prefix}-{kind}").into(), ..Connection::new(brokers) };
    let (ours, theirs) = (connection("log"), connection("bare"));
    let plan = TopicPlan { partitions, ..TopicPlan::default() };
    topics::create(&ours, &plan, PATIENCE)?;
    topics::create(&theirs, &plan, PATIENCE)?;
    let append = append(records, partitions)?;

    let mut options = Options::new(ours.clone(), (0..partitions).collect::<Vec<_>>());
    options.group_records_max = records;
    let log = KafkaLog::open(options)?;
    let bare = Bare::new(&theirs)?;
    let (mut through, mut with, mut without, mut alone) = (vec![], vec![], vec![], vec![]);
    // The first turn of each is not counted.
    for round in 0..=ROUNDS {
        let turn = [
            through_log(&log, &append, transactions)?,
            bare.transactions(&append, transactions, true)?,
            bare.transactions(&append, transactions, false)?,
        ];
        if round > 0 {
            let [log, bare_with, bare_without] = turn;
            through.push(log);
            with.push(bare_with);
            without.push(bare_without);
        }
    }
    for _ in 0..transactions * 2 {
        let begun = Instant::now();
        log.append_wait(&append)?;
        alone.push(begun.elapsed());
    }
    alone.sort_unstable();
    let at = |share: usize| alone.get(alone.len() * share / 100).map_or(0.0, |time| time.as_secs_f64() * 1e3);
    let per_s =
        |turns: &[f64]| middle(turns.iter().map(|seconds| records as f64 * transactions as f64 / seconds));
    let share = |bare: &[f64]| middle(through.iter().zip(bare).map(|(log, bare)| bare / log));
    println!(
        "| {records}, {} | {:.0} | {:.0} | {:.0} | {:.2} | {:.2} | {:.1} / {:.1} |",
        3 * partitions,
        per_s(&through),
        per_s(&with),
        per_s(&without),
        share(&with),
        share(&without),
        at(50),
        at(99)
    );
    log.close()?;
    drop(bare);
    topics::delete(&ours)?;
    topics::delete(&theirs)?;
    Ok(())
}

fn middle(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// What a node appends for a number of steps that end together: events of some 500 bytes, with a position.
fn append(records: usize, partitions: u32) -> Result<Append, Failure> {
    let mut ids = SeededIds::new(7);
    let mut new = Vec::new();
    for number in 0..records {
        let agent = number / STEP.len();
        let subject = Subject::Agent(AgentId::new(format!("support-{agent}"))?);
        let time = Timestamp::from_timestamp_micros(1_767_225_600_123_456).unwrap_or_default();
        let mut envelope = Envelope::new(&mut ids, "/kintsugi/node-1/agents".into(), subject.clone(), time);
        envelope.sequence = Some(number as u64);
        envelope.goal = Some(GoalId::new(format!("goal-{agent}"))?);
        envelope.causation = Some(EventId::from_uuid(ids.next_uuid()));
        let words = ["order", "refund", "shipped", "pending", "warehouse", "customer", "invoice"];
        let mut value = format!(r#"{{"event":"observation","effect":"{}","text":""#, ids.next_uuid());
        while value.len() < 480 {
            let word = words.get((ids.next_uuid().as_u128() % 7) as usize).copied().unwrap_or_default();
            value.push_str(word);
            value.push(' ');
        }
        value.push_str("\"}");
        new.push(NewRecord {
            topic: STEP.get(number % STEP.len()).copied().unwrap_or(Topic::Agents),
            partition: u32::try_from(agent)? % partitions,
            envelope: Some(envelope),
            event_type: "dev.kintsugi.observation.recorded.v1".into(),
            key: subject.to_string(),
            value: value.into_bytes(),
        });
    }
    let position =
        Position { consumer: "partition".into(), topic: Topic::Goals, partition: 0, next_offset: 7 };
    Ok(Append { records: new, positions: vec![position] })
}

/// Queues appends as fast as the log takes them. Each fills a transaction. Returns seconds.
fn through_log(log: &KafkaLog, append: &Append, transactions: u64) -> Result<f64, Failure> {
    let committed = Arc::new(AtomicU64::new(0));
    let (told, room) = mpsc::channel();
    let begun = Instant::now();
    for _ in 0..transactions {
        loop {
            let (committed, told) = (Arc::clone(&committed), told.clone());
            let on_commit = move |outcome: Result<_, LogError>| {
                committed.fetch_add(u64::from(outcome.is_ok()), Ordering::Relaxed);
                // Whoever waits for room is told of each commit.
                let _ = told.send(());
            };
            match log.append(append, Box::new(on_commit)) {
                Ok(()) => break,
                Err(LogError::Full { .. }) => room.recv()?,
                Err(other) => return Err(other.into()),
            }
        }
    }
    log.flush()?;
    let seconds = begun.elapsed().as_secs_f64();
    assert_eq!(committed.load(Ordering::Relaxed), transactions, "every append is durable");
    Ok(seconds)
}

/// Counts what was delivered.
#[derive(Clone, Default)]
struct Delivered(Arc<AtomicU64>);

impl ClientContext for Delivered {}

impl ProducerContext for Delivered {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        assert!(result.is_ok(), "a message was not delivered");
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The library alone, with the settings that a lane has.
struct Bare {
    connection: Connection,
    producer: BaseProducer<Delivered>,
    delivered: Delivered,
    group: BaseConsumer,
}

impl Bare {
    fn new(connection: &Connection) -> Result<Self, Failure> {
        let delivered = Delivered::default();
        let producer: BaseProducer<Delivered> = ClientConfig::new()
            .set("bootstrap.servers", &*connection.brokers)
            .set("transactional.id", &*connection.prefix)
            .set("linger.ms", "0")
            .set("compression.codec", "zstd")
            .set("socket.nagle.disable", "true")
            .set("batch.num.messages", "100000")
            .create_with_context(delivered.clone())?;
        producer.init_transactions(PATIENCE)?;
        let group = ClientConfig::new()
            .set("bootstrap.servers", &*connection.brokers)
            .set("group.id", &*connection.prefix)
            .create()?;
        Ok(Self { connection: connection.clone(), producer, delivered, group })
    }

    /// As many messages as `append` has, with as many bytes, in each of so many transactions. Returns seconds.
    fn transactions(&self, append: &Append, transactions: u64, with_offsets: bool) -> Result<f64, Failure> {
        let topics: Vec<String> =
            append.records.iter().map(|record| self.connection.topic(record.topic)).collect();
        // One header as long as all of ours.
        let header = "x".repeat(420);
        let headers = OwnedHeaders::new().insert(Header { key: "attributes", value: Some(&header) });
        let mut offsets = TopicPartitionList::new();
        for topic in [Topic::Agents, Topic::Goals] {
            offsets.add_partition_offset(&self.connection.topic(topic), 0, Offset::Offset(7))?;
        }
        let metadata = self.group.group_metadata().ok_or("a group")?;
        let begun = Instant::now();
        for _ in 0..transactions {
            self.producer.begin_transaction()?;
            let wanted = self.delivered.0.load(Ordering::Relaxed) + append.records.len() as u64;
            for (record, topic) in append.records.iter().zip(&topics) {
                let message = BaseRecord::<str, [u8]>::to(topic)
                    .partition(record.partition.cast_signed())
                    .key(&record.key)
                    .payload(&record.value)
                    .headers(headers.clone());
                self.producer.send(message).map_err(|(error, _)| error)?;
            }
            while self.delivered.0.load(Ordering::Relaxed) < wanted || self.producer.in_flight_count() > 0 {
                self.producer.poll(Duration::from_millis(1));
            }
            if with_offsets {
                self.producer.send_offsets_to_transaction(&offsets, &metadata, PATIENCE)?;
            }
            self.producer.commit_transaction(PATIENCE)?;
        }
        Ok(begun.elapsed().as_secs_f64())
    }
}
