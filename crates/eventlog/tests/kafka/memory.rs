//! What is read without asking a broker, and how soon what others write is noticed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kintsugi_broker::Broker;
use kintsugi_eventlog::{EventLog as _, KafkaLog, LogReader as _, TopicPartition};
use kintsugi_events::Topic;
use kintsugi_types::ByteCount;
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord};

use super::support::{LONG, Topics, bare, one};

const METRICS: TopicPartition = TopicPartition::new(Topic::Metrics, 0);

fn texts(log: &KafkaLog, offset: u64) -> Vec<String> {
    let records = log.read(METRICS, offset, 1000, usize::MAX).expect("records");
    assert!(records.is_sorted_by(|one, next| one.offset < next.offset && one.lsn < next.lsn));
    records.iter().map(|record| String::from_utf8_lossy(&record.value).into_owned()).collect()
}

#[test]
fn what_was_just_committed_to_a_kept_topic_is_read_while_the_broker_is_silent() {
    let broker = Broker::start().unwrap_or_else(|error| panic!("{error}"));
    let topics = Topics::at(&broker.bootstrap(), 1);
    let mut options = topics.options([0]);
    // Room for some of the records below, not for all.
    options.tail_bytes_max = ByteCount(2048);
    options.patience = LONG;
    let log = KafkaLog::open(options).expect("the lane opens");
    let appended: Vec<u64> = (0..20)
        .map(|number| {
            let committed = log.append_wait(&one(METRICS, &number.to_string())).expect("durable");
            let offset = committed.offsets[0];
            assert_eq!(texts(&log, offset), [number.to_string()], "right after the acknowledgement");
            offset
        })
        .collect();
    broker.freeze().expect("frozen");
    let begun = Instant::now();
    assert_eq!(texts(&log, appended[17]), ["17", "18", "19"]);
    assert_eq!(texts(&log, appended[19] + 1), Vec::<String>::new());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    broker.thaw().expect("thawed");
    // The oldest were dropped: the broker has them still.
    let all: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    assert_eq!(texts(&log, appended[0]), all);
    assert_eq!(texts(&log, appended[3]), all[3..]);
}

#[test]
fn what_memory_answers_is_what_the_broker_answers() {
    let topics = Topics::new(1);
    let log = topics.open([0]);
    let append = kintsugi_eventlog::Append {
        records: vec![bare(METRICS, "one"), bare(METRICS, "two")],
        positions: Vec::new(),
    };
    log.append_wait(&append).expect("durable");
    let from_memory = log.read(METRICS, 0, 10, usize::MAX).expect("records");
    log.close().expect("closed");
    let again = topics.open([0]);
    assert_eq!(again.read(METRICS, 0, 10, usize::MAX).expect("records"), from_memory);
}

/// The follower's requests are held back by the broker until something comes, and no longer. Where one is, all are: the
/// quickest tells, however busy the machine is.
#[test]
fn what_others_write_is_noticed_at_once() {
    let topics = Topics::new(1);
    let log: Arc<KafkaLog> = topics.open([0]);
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &*topics.connection.brokers)
        .set("linger.ms", "0")
        .create()
        .expect("a producer");
    let goals = topics.connection.topic(Topic::Goals);
    let mut times: Vec<Duration> = (0..40)
        .map(|number| {
            let seen = log.end_lsn();
            let begun = Instant::now();
            let value = number.to_string();
            let record = BaseRecord::<str, str>::to(&goals).partition(0).key("somebody").payload(&value);
            // Sent by the library's own thread; to flush takes it 100 ms.
            producer.send(record).map_err(|(error, _)| error).expect("queued");
            assert!(log.wait_past(seen, LONG) > seen);
            let noticed = begun.elapsed();
            producer.poll(Duration::ZERO);
            noticed
        })
        .collect();
    times.sort_unstable();
    println!(
        "noticed after: min {:?}, p50 {:?}, p95 {:?}, max {:?}",
        times[0], times[20], times[38], times[39]
    );
    assert!(times[0] < Duration::from_millis(100), "the quickest takes {:?}", times[0]);
}
