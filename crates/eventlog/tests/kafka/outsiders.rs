//! Others on the same topics: what they write is read, and what we write they can read with any client.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kintsugi_broker::send_with_java;
use kintsugi_eventlog::kafka::Connection;
use kintsugi_eventlog::{
    EventLog as _, KafkaLog, LogReader as _, Lsn, NewRecord, Record, TopicPartition, partition_of,
};
use kintsugi_events::{Approval, Envelope, Event, Payload, Subject, Topic};
use kintsugi_types::{AgentId, EventId, GoalId, IdSource as _, SeededIds, Timestamp};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};

use super::support::{LONG, Topics, bare, one, stored};

const GOALS: TopicPartition = TopicPartition::new(Topic::Goals, 0);
const AGENTS: TopicPartition = TopicPartition::new(Topic::Agents, 0);

fn outsider(connection: &Connection) -> BaseProducer {
    ClientConfig::new().set("bootstrap.servers", &*connection.brokers).create().expect("a producer")
}

fn send(producer: &BaseProducer, topic: &str, value: &str, headers: Option<OwnedHeaders>) {
    let mut record = BaseRecord::<str, str>::to(topic).partition(0).key("somebody").payload(value);
    record.headers = headers;
    producer.send(record).map_err(|(error, _)| error).expect("queued");
    producer.flush(LONG).expect("sent");
}

fn text(record: &Record) -> String {
    String::from_utf8_lossy(&record.value).into_owned()
}

/// Waits until `count` records of `at` can be read.
fn read_until(log: &KafkaLog, at: TopicPartition, count: usize) -> Vec<Record> {
    let begun = Instant::now();
    loop {
        let end = log.end_lsn();
        let records = log.read(at, 0, 1000, usize::MAX).expect("records");
        if records.len() >= count {
            return records;
        }
        assert!(begun.elapsed() < LONG, "only {} of {count} came", records.len());
        log.wait_past(end, Duration::from_secs(1));
    }
}

#[test]
fn bare_goals_of_others_are_noticed_and_read_in_their_place() {
    let topics = Topics::new(1);
    let log = topics.open([0]);
    let goals = topics.connection.topic(Topic::Goals);
    let producer = outsider(&topics.connection);
    let seen = log.end_lsn();
    send(&producer, &goals, r#"{"text":"one"}"#, None);
    assert!(log.wait_past(seen, LONG) > seen, "an arrival wakes who waits");
    log.append_wait(&one(GOALS, "two")).expect("durable");
    send(&producer, &goals, "three", None);
    let read = read_until(&log, GOALS, 3);
    let texts: Vec<String> = read.iter().map(text).collect();
    assert_eq!(texts, [r#"{"text":"one"}"#, "two", "three"]);
    assert!(read.iter().all(|record| record.envelope.is_none() && record.event_type.is_empty()));
    assert_eq!(read[0].key, "somebody");
    // The same after a restart, when nothing of it is in memory.
    log.close().expect("closed");
    let log = topics.open([0]);
    let again: Vec<String> =
        log.read(GOALS, 0, 1000, usize::MAX).expect("records").iter().map(text).collect();
    assert_eq!(again, texts);
}

#[test]
fn who_follows_the_log_sees_every_record_of_others_once() {
    let topics = Topics::new(1);
    let log = topics.open([0]);
    let goals = topics.connection.topic(Topic::Goals);
    let producer = outsider(&topics.connection);
    let (mut next, mut seen) = (Lsn(0), Vec::new());
    let begun = Instant::now();
    for round in 0..10 {
        send(&producer, &goals, &format!("theirs {round}"), None);
        log.append_wait(&one(AGENTS, &format!("ours {round}"))).expect("durable");
        while seen.len() < 2 * (round + 1) {
            assert!(begun.elapsed() < LONG, "{seen:?}");
            log.wait_past(next, Duration::from_millis(100));
            next = log
                .replay(next, &mut |record| {
                    seen.push(text(&record));
                    ControlFlow::Continue(())
                })
                .expect("replay");
        }
    }
    let only = |kind: &str| seen.iter().filter(|text| text.starts_with(kind)).cloned().collect::<Vec<_>>();
    let expected = |kind: &str| (0..10).map(|round| format!("{kind} {round}")).collect::<Vec<_>>();
    assert_eq!((only("ours"), only("theirs")), (expected("ours"), expected("theirs")));
    assert_eq!(seen.len(), 20);
}

#[test]
fn headers_that_make_no_sense_make_a_record_bare() {
    type RawHeaders<'a> = &'a [(&'a str, &'a [u8])];
    let topics = Topics::new(1);
    let log = topics.open([0]);
    let goals = topics.connection.topic(Topic::Goals);
    let producer = outsider(&topics.connection);
    let event = EventId::from_uuid(SeededIds::new(1).next_uuid()).to_string();
    let with = |headers: &[(&str, &[u8])]| {
        headers
            .iter()
            .fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(*value) }))
    };
    let good: &[(&str, &[u8])] = &[
        ("ce_specversion", b"1.0"),
        ("ce_id", event.as_bytes()),
        ("ce_source", b"/somebody"),
        ("ce_type", b"dev.kintsugi.goal.submitted.v1"),
    ];
    let cases: &[(&str, RawHeaders<'_>)] = &[
        ("an id of another form", &[("ce_id", b"A-1"), ("ce_source", b"/x"), ("ce_type", b"t")]),
        ("not text", &[("ce_id", &[0xff, 0xfe]), ("ce_type", &[0xc3])]),
        ("a place that is none", &[("kintsugi_place", b"0/7")]),
        ("no value at all", &[("", b"")]),
    ];
    for (value, headers) in cases {
        send(&producer, &goals, value, Some(with(headers)));
    }
    send(&producer, &goals, "an event with the least there is", Some(with(good)));
    let read = read_until(&log, GOALS, cases.len() + 1);
    for (record, (value, _)) in read.iter().zip(cases) {
        assert_eq!((text(record).as_str(), &record.envelope), (*value, &None));
    }
    let envelope = read.last().and_then(|record| record.envelope.clone()).expect("an event");
    assert_eq!((envelope.id.to_string(), &*envelope.source), (event, "/somebody"));
    assert_eq!(
        envelope.subject,
        Subject::Agent(AgentId::new("somebody").expect("a name")),
        "taken from the key"
    );
}

#[test]
fn our_events_are_cloud_events_in_binary_mode() {
    let topics = Topics::new(1);
    let log = topics.open([0]);
    let mut ids = SeededIds::new(3);
    let agent = AgentId::new("support-1").expect("a name");
    let time = Timestamp::from_timestamp_millis(1_767_225_600_123).expect("a time");
    let source: Arc<str> = "/kintsugi/node-1/agents".into();
    let mut envelope = Envelope::new(&mut ids, source, Subject::Agent(agent.clone()), time);
    envelope.sequence = Some(4);
    envelope.goal = GoalId::new("goal-1").ok();
    let approval = Approval {
        agent,
        goal: envelope.goal.clone(),
        effect: None,
        question: "refund?".to_owned(),
        decision: None,
        decided_by: None,
    };
    let event = Event { envelope, payload: Payload::Approval(Box::new(approval)) };
    let record = NewRecord::from_event(&event, 0).expect("a record");
    let append = kintsugi_eventlog::Append { records: vec![record], positions: Vec::new() };
    let committed = log.append_wait(&append).expect("durable");

    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &*topics.connection.brokers)
        .set("group.id", "outside")
        .set("isolation.level", "read_committed")
        .create()
        .expect("a consumer");
    let mut list = TopicPartitionList::new();
    let name = topics.connection.topic(Topic::Approvals);
    list.add_partition_offset(&name, 0, Offset::Beginning).expect("a place");
    consumer.assign(&list).expect("assigned");
    let message = consumer.poll(LONG).expect("a message").expect("no error");
    assert_eq!(message.key(), Some(&b"support-1"[..]));
    assert_eq!(message.timestamp().to_millis(), Some(committed.appended_at_ms));
    let value: serde_json::Value = serde_json::from_slice(message.payload().expect("a value")).expect("JSON");
    assert_eq!(value["question"], "refund?");
    let headers: Vec<(String, String)> = message
        .headers()
        .expect("headers")
        .iter()
        .map(|header| {
            let value = String::from_utf8_lossy(header.value.unwrap_or_default()).into_owned();
            (header.key.to_owned(), value)
        })
        .collect();
    let expected = [
        ("ce_specversion", "1.0".to_owned()),
        ("ce_id", event.envelope.id.to_string()),
        ("ce_source", "/kintsugi/node-1/agents".to_owned()),
        ("ce_type", event.payload.event_type().to_owned()),
        ("ce_subject", "support-1".to_owned()),
        ("ce_time", "2026-01-01T00:00:00.123Z".to_owned()),
        ("ce_partitionkey", "support-1".to_owned()),
        ("ce_sequence", "4".to_owned()),
        ("ce_correlationid", "goal-1".to_owned()),
        ("ce_tenant", "default".to_owned()),
        ("content-type", "application/json".to_owned()),
        ("kintsugi_place", format!("0/{}/{}", log.epoch(), committed.first_lsn)),
    ];
    assert_eq!(headers, expected.map(|(key, value)| (key.to_owned(), value)));
}

#[test]
fn the_java_client_chooses_the_partition_that_we_choose() {
    let topics = Topics::new(16);
    let name = topics.connection.topic(Topic::Goals);
    let keys: Vec<String> =
        (0..60).map(|number| format!("agent-{}{number}", "x".repeat(number % 7))).collect();
    let messages: Vec<(String, String)> =
        keys.iter().map(|key| (key.clone(), format!("for {key}"))).collect();
    send_with_java(&topics.connection.brokers, &name, &messages).unwrap_or_else(|error| panic!("{error}"));
    let log = topics.open((0..16).collect::<Vec<u32>>());
    let mut found = 0;
    for partition in 0..16 {
        let at = TopicPartition::new(Topic::Goals, partition);
        for record in log.read(at, 0, 1000, usize::MAX).expect("records") {
            assert_eq!(partition_of(record.key.as_bytes(), 16), partition, "{}", record.key);
            assert_eq!(text(&record), format!("for {}", record.key));
            found += 1;
        }
    }
    assert_eq!(found, keys.len());
}

#[test]
fn what_the_broker_deleted_is_told_and_passed_over() {
    let topics = Topics::new(1);
    let log = topics.open([0]);
    let last = (0..5).map(|number| {
        let append = kintsugi_eventlog::Append {
            records: vec![bare(AGENTS, &number.to_string())],
            positions: vec![stored("monitor", AGENTS, number)],
        };
        log.append_wait(&append).expect("durable").offsets
    });
    let offsets: Vec<u64> = last.flatten().collect();
    super::topics::delete_below(&topics.connection, AGENTS, offsets[3]);
    log.close().expect("closed");
    let log = topics.open([0]);
    assert_eq!(log.start_offset(AGENTS), offsets[3]);
    let trimmed = log.read(AGENTS, offsets[0], 10, usize::MAX);
    assert!(
        matches!(trimmed, Err(kintsugi_eventlog::LogError::Trimmed { oldest }) if oldest == offsets[3]),
        "{trimmed:?}"
    );
    let kept: Vec<String> =
        log.read(AGENTS, offsets[3], 10, usize::MAX).expect("records").iter().map(text).collect();
    assert_eq!(kept, ["3", "4"]);
    assert_eq!(log.position("monitor", AGENTS), Some(4));
}

/// Stages take what was committed from memory as long as nothing lies between.
#[test]
fn a_commit_tells_whether_anything_may_lie_between_it_and_the_last_one() {
    let topics = Topics::new(1);
    let log = topics.open([0]);
    let mut next = 0;
    for number in 0..5 {
        let committed = log.append_wait(&one(AGENTS, &number.to_string())).expect("durable");
        assert_eq!(committed.follows, [next], "the marks of transactions are nothing");
        next = committed.offsets[0] + 1;
    }
    let goals = topics.connection.topic(Topic::Goals);
    let first = log.append_wait(&one(GOALS, "ours")).expect("durable");
    send(&outsider(&topics.connection), &goals, "theirs", None);
    let second = log.append_wait(&one(GOALS, "ours again")).expect("durable");
    let between = log.read(GOALS, first.offsets[0] + 1, 10, usize::MAX).expect("records");
    assert_eq!(between.iter().map(text).collect::<Vec<_>>(), ["theirs", "ours again"]);
    assert!(second.follows[0] > between[0].offset, "who has not read theirs has to: {second:?}");
}
