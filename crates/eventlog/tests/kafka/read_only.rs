//! Who owns nothing: reading all lanes of a cluster, and writing without one.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kintsugi_eventlog::kafka::{Publisher, ReadOnly};
use kintsugi_eventlog::{
    Append, EventLog as _, KafkaLog, LogError, LogReader as _, Lsn, NewRecord, Record, TopicPartition,
};
use kintsugi_events::Topic;

use super::support::{LONG, Topics, bare, connection, one};

fn at(topic: Topic, partition: u32) -> TopicPartition {
    TopicPartition::new(topic, partition)
}

fn text(record: &Record) -> String {
    String::from_utf8_lossy(&record.value).into_owned()
}

/// What was seen of each partition, in the order in which it came.
type Seen = BTreeMap<TopicPartition, Vec<(u64, String)>>;

fn take_in(seen: &mut Seen, record: &Record) {
    seen.entry(record.topic_partition()).or_default().push((record.offset, text(record)));
}

/// Appends pairs over two topics of lane `partition`.
fn append_all(log: &KafkaLog, partition: u32, count: u32) {
    for number in 0..count {
        let text = format!("{partition}.{number}");
        let append = Append {
            records: vec![
                bare(at(Topic::Agents, partition), &text),
                bare(at(Topic::Metrics, partition), &text),
            ],
            positions: Vec::new(),
        };
        log.append_wait(&append).expect("durable");
    }
}

#[test]
fn who_follows_a_cluster_sees_every_record_of_every_lane_once_and_in_order() {
    const COUNT: u32 = 150;
    let topics = Topics::new(2);
    let lanes = [topics.open([0]), topics.open([1])];
    let publisher = Publisher::open(topics.connection.clone(), LONG).expect("a publisher");
    let reader = ReadOnly::open(topics.connection.clone(), LONG).expect("a reader");
    assert_eq!((reader.partition_count(), publisher.partition_count()), (2, 2));
    let total = 2 * 2 * COUNT as usize + COUNT as usize;
    let (mut seen, mut next) = (Seen::new(), Lsn(0));
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        for (lane, partition) in lanes.iter().zip(0..) {
            scope.spawn(move || append_all(lane, partition, COUNT));
        }
        scope.spawn(|| {
            for number in 0..COUNT {
                let goal = NewRecord::bare(Topic::Goals, number % 2, "key", format!("goal {number}").into());
                publisher.publish(&[goal]).expect("published");
            }
            is_done.store(true, Ordering::Release);
        });
        let begun = Instant::now();
        while seen.values().map(Vec::len).sum::<usize>() < total {
            assert!(begun.elapsed() < LONG, "{} of {total}", seen.values().map(Vec::len).sum::<usize>());
            reader.wait_past(next, Duration::from_secs(1));
            next = reader
                .replay(next, &mut |record| {
                    take_in(&mut seen, &record);
                    ControlFlow::Continue(())
                })
                .expect("replay");
        }
    });
    assert!(is_done.load(Ordering::Acquire));
    for (place, records) in &seen {
        assert!(records.is_sorted_by(|one, next| one.0 < next.0), "{place}: in order, and none twice");
        let expected: Vec<String> = match place.topic {
            Topic::Goals => {
                let numbers = (0..COUNT).filter(|number| number % 2 == place.partition);
                numbers.map(|number| format!("goal {number}")).collect()
            }
            _ => (0..COUNT).map(|number| format!("{}.{number}", place.partition)).collect(),
        };
        assert_eq!(records.iter().map(|(_, text)| text.clone()).collect::<Vec<_>>(), expected, "{place}");
        let read = reader.read(*place, 0, 1000, usize::MAX).expect("records");
        let read: Vec<_> = read.iter().map(|record| (record.offset, text(record))).collect();
        assert_eq!(&read, records, "reading one partition agrees");
    }
    // Nothing more comes, and who waits is let go.
    let end = reader.wait_past(next, Duration::from_millis(300));
    let more = reader.replay(next, &mut |record| panic!("{record:?}")).expect("replay");
    assert!(more >= end.min(next));
    // Another begins in the middle: it may see more than it asked for, and misses none.
    let mut in_order = Vec::new();
    let other = ReadOnly::open(topics.connection.clone(), LONG).expect("a reader");
    let take = &mut |record: Record| {
        in_order.push(record);
        ControlFlow::Continue(())
    };
    other.replay_topics(&[Topic::Agents], Lsn(0), take).expect("replay");
    let middle = in_order[in_order.len() / 2].lsn;
    let third = ReadOnly::open(topics.connection.clone(), LONG).expect("a reader");
    let mut from_there = Seen::new();
    third
        .replay(middle, &mut |record| {
            take_in(&mut from_there, &record);
            ControlFlow::Continue(())
        })
        .expect("replay");
    for record in in_order.iter().filter(|record| record.lsn >= middle) {
        let found = from_there.get(&record.topic_partition());
        assert!(found.is_some_and(|found| found.contains(&(record.offset, text(record)))), "{record:?}");
    }
}

#[test]
fn marks_of_transactions_at_an_end_are_not_waited_for() {
    let topics = Topics::new(1);
    let reader = ReadOnly::open(topics.connection.clone(), LONG).expect("a reader");
    assert_eq!(reader.end_lsn(), Lsn(0), "nothing was written");
    let log = topics.open([0]);
    let mut next = Lsn(0);
    for number in 0..5u32 {
        let begun = Instant::now();
        log.append_wait(&one(at(Topic::Results, 0), &number.to_string())).expect("durable");
        let mut found = Vec::new();
        while found.is_empty() {
            assert!(begun.elapsed() < LONG / 2);
            reader.wait_past(next, LONG);
            let take = &mut |record: Record| {
                found.push(text(&record));
                ControlFlow::Continue(())
            };
            next = reader.replay(next, take).expect("replay");
        }
        assert_eq!(found, [number.to_string()]);
        assert!(begun.elapsed() < LONG / 2, "{:?}", begun.elapsed());
        let end = reader.end_offset(at(Topic::Results, 0));
        assert_eq!(reader.read(at(Topic::Results, 0), end, 9, 9).expect("records"), []);
    }
    let past = reader.read(at(Topic::Results, 0), 1, 9, usize::MAX).expect("records");
    assert_eq!(past.iter().map(text).collect::<Vec<_>>(), ["1", "2", "3", "4"]);
    assert!(reader.positions().is_empty() && reader.position("x", at(Topic::Results, 0)).is_none());
}

#[test]
fn what_cannot_be_published_is_refused_with_the_reason() {
    let topics = Topics::new(1);
    let publisher = Publisher::open(topics.connection.clone(), LONG).expect("a publisher");
    let goal = |partition, bytes| NewRecord::bare(Topic::Goals, partition, "key", vec![b'x'; bytes]);
    let lost = publisher.publish(&[goal(1, 1)]);
    assert!(matches!(&lost, Err(LogError::Topic { .. })), "{lost:?}");
    // Larger than a message that the topic takes: bytes that do not shrink.
    let mut noise = goal(0, 0);
    let mut state = 1u64;
    noise.value.extend((0..12 << 20).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    }));
    let large = publisher.publish(&[noise]);
    assert!(matches!(&large, Err(LogError::Topic { remedy, .. }) if remedy.contains("bytes")), "{large:?}");
    publisher.publish(&[goal(0, 10)]).expect("the next one is not harmed");
    let begun = Instant::now();
    let away = Publisher::open(connection("127.0.0.1:1"), Duration::from_secs(2));
    assert!(matches!(&away, Err(LogError::Unreachable { .. })), "{away:?}");
    assert!(begun.elapsed() < LONG / 2);
}
