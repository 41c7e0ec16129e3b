//! Who owns a lane, and what becomes of one that does not own it any more.

use std::ops::ControlFlow;
use std::sync::{Arc, mpsc};

use kintsugi_eventlog::kafka::{Connection, Options};
use kintsugi_eventlog::{Append, EventLog as _, KafkaLog, LogError, LogReader as _, Lsn, TopicPartition};
use kintsugi_events::Topic;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;

use super::support::{LONG, Topics, bare, one, stored};

const AGENTS: TopicPartition = TopicPartition::new(Topic::Agents, 0);
const GOALS: TopicPartition = TopicPartition::new(Topic::Goals, 0);

fn texts(log: &KafkaLog) -> Vec<String> {
    let mut texts = Vec::new();
    log.replay(Lsn(0), &mut |record| {
        texts.push(String::from_utf8_lossy(&record.value).into_owned());
        ControlFlow::Continue(())
    })
    .expect("replay");
    texts
}

#[test]
fn the_next_owner_fences_the_last_one() {
    let topics = Topics::new(1);
    let first = topics.open([0]);
    first.append_wait(&one(AGENTS, "before")).expect("durable");
    let second = topics.open([0]);
    assert!(second.epoch() > first.epoch());
    let late = first.append_wait(&one(AGENTS, "late"));
    assert!(matches!(late, Err(LogError::Fenced { .. })), "{late:?}");
    let told = late.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(told.contains("lane 0 was taken over by another owner"), "{told}");
    // It found out without disturbing the new owner, and stays out.
    second.append_wait(&one(AGENTS, "after")).expect("durable");
    let again = first.append_wait(&one(AGENTS, "later"));
    assert!(matches!(again, Err(LogError::Poisoned { .. })), "{again:?}");
    assert_eq!(texts(&second), ["before", "after"]);
}

#[test]
fn a_stage_has_a_lane_of_its_own_in_a_partition_and_goes_on_where_it_came_to_elsewhere() {
    let topics = Topics::new(1);
    let (anomalies, diagnoses) =
        (TopicPartition::new(Topic::Anomalies, 0), TopicPartition::new(Topic::Diagnoses, 0));
    let settle = |next| Append {
        records: vec![bare(diagnoses, "found")],
        positions: vec![stored("diagnose", anomalies, next)],
    };
    let open_stage = || {
        let options = Options::of_stage(topics.connection.clone(), [0], "diagnose", &[Topic::Anomalies]);
        KafkaLog::open(options).expect("the lane opens")
    };
    let node = topics.open([0]);
    node.append_wait(&settle(3)).expect("durable");
    let stage = open_stage();
    assert_eq!(stage.position("diagnose", anomalies), Some(3));
    // Neither fences the other.
    stage.append_wait(&settle(7)).expect("durable");
    node.append_wait(&one(AGENTS, "node")).expect("durable");
    stage.append_wait(&settle(8)).expect("durable");
    assert_eq!(node.position("diagnose", anomalies), Some(3), "it does not have the stage any more");
    drop(node);

    let mut options = topics.options([0]);
    options.take_back("diagnose", &[Topic::Anomalies]);
    let node = KafkaLog::open(options).expect("the lane opens");
    assert_eq!(node.position("diagnose", anomalies), Some(8));
    node.append_wait(&settle(9)).expect("durable");
    assert_eq!(open_stage().position("diagnose", anomalies), Some(9), "what is furthest holds");
    let late = stage.append_wait(&settle(8));
    let told = late.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(told.contains("lane diagnose-0 was taken over by another owner"), "{told}");
}

/// Deletes what the broker keeps of a group, as it does by itself where nobody stored anything for a week.
fn forget(connection: &Connection, group: &str) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &*connection.brokers).create().expect("a client");
    let options = AdminOptions::new().request_timeout(Some(LONG));
    let deleted = futures_executor::block_on(admin.delete_groups(&[group], &options)).expect("an answer");
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
}

#[test]
fn a_lane_that_the_broker_has_forgotten_goes_on_after_what_is_there() {
    let topics = Topics::new(1);
    let metrics = TopicPartition::new(Topic::Metrics, 0);
    let first = topics.open([0]);
    let records = vec![bare(AGENTS, "agent"), bare(GOALS, "goal"), bare(metrics, "metric")];
    let positions = vec![stored("partition", GOALS, 1), stored("monitor", metrics, 0)];
    first.append_wait(&Append { records, positions }).expect("durable");
    let (epoch, end) = (first.epoch(), first.end_lsn());
    first.close().expect("closed");
    forget(&topics.connection, &topics.options([0]).group);

    let second = topics.open([0]);
    assert!(second.epoch() >= epoch);
    assert!(second.end_lsn() >= end, "{:?} {end:?}", second.end_lsn());
    assert_eq!(texts(&second), ["agent", "goal", "metric"]);
    assert_eq!(second.position("partition", GOALS), None, "goals are looked at once more");
    let begin = second.position("monitor", metrics).expect("a place to begin");
    assert_eq!(second.read(metrics, begin, 10, 1000).expect("read"), []);
    second.append_wait(&one(metrics, "later")).expect("durable");
    let read = second.read(metrics, begin, 10, 1000).expect("read");
    assert_eq!(read.iter().map(|record| &*record.value).collect::<Vec<_>>(), [b"later"]);
    assert_eq!(texts(&second), ["agent", "goal", "metric", "later"]);
}

#[test]
fn owners_that_follow_each_other_quickly_lose_and_repeat_nothing() {
    const OWNERS: u64 = 8;
    let topics = Topics::new(1);
    let (mut acked, mut unknown, mut owners) = (Vec::new(), Vec::new(), Vec::<Arc<KafkaLog>>::new());
    for owner in 0..OWNERS {
        let log = topics.open([0]);
        let (told, outcomes) = mpsc::channel();
        for number in 0..200 {
            let text = format!("{owner}.{number}");
            let told = told.clone();
            let append = Append {
                records: vec![bare(AGENTS, &text)],
                positions: vec![stored("partition", GOALS, owner * 200 + number + 1)],
            };
            log.append(&append, Box::new(move |outcome| drop(told.send((text, outcome.is_ok())))))
                .expect("queued");
            if number == 20 {
                log.flush().expect("durable");
            }
        }
        drop(told);
        owners.push(log);
        if owner + 1 == OWNERS {
            owners.last().map(|log| log.flush());
        }
        // The next one opens while this one is in the middle of it.
        acked.extend(outcomes.try_iter());
        unknown.push(outcomes);
    }
    let last = owners.pop().expect("an owner");
    drop(owners);
    for outcomes in unknown {
        acked.extend(outcomes.iter());
    }
    let found = texts(&last);
    let mut once = found.clone();
    once.sort();
    once.dedup();
    assert_eq!(once.len(), found.len(), "nothing is there twice");
    for (text, is_ok) in &acked {
        assert_eq!(
            found.contains(text),
            *is_ok,
            "{text}: what was acknowledged is there, what was refused is not"
        );
    }
    // What is there of each owner is a prefix of what it appended.
    for owner in 0..OWNERS {
        let prefix = format!("{owner}.");
        let numbers = found.iter().filter_map(|text| text.strip_prefix(&prefix)?.parse::<u64>().ok());
        assert!(numbers.eq(0..found.iter().filter(|text| text.starts_with(&prefix)).count() as u64));
    }
    let stored = last.position("partition", GOALS).unwrap_or_default();
    let newest = found.last().map(String::as_str);
    assert_eq!(newest, Some(format!("{}.{}", OWNERS - 1, 199).as_str()));
    assert_eq!(stored, OWNERS * 200, "records and positions are those of the same append");
}

#[test]
fn lanes_work_side_by_side_and_refuse_what_is_not_theirs() {
    let topics = Topics::new(4);
    let (one_lane, other_lane) = (topics.open([0, 1]), topics.open([2, 3]));
    let at = |partition| TopicPartition::new(Topic::Agents, partition);
    one_lane.append_wait(&one(at(1), "one")).expect("durable");
    other_lane.append_wait(&one(at(2), "other")).expect("durable");
    assert_eq!((texts(&one_lane), texts(&other_lane)), (vec!["one".to_owned()], vec!["other".to_owned()]));
    // A goal that changes hands goes to another lane's partition, in the giver's transaction.
    let handed_over = Append {
        records: vec![bare(at(0), "handed over"), bare(TopicPartition::new(Topic::Goals, 3), "goal")],
        positions: Vec::new(),
    };
    one_lane.append_wait(&handed_over).expect("durable");
    let begun = std::time::Instant::now();
    let goals = TopicPartition::new(Topic::Goals, 3);
    while other_lane.end_offset(goals) == 0 {
        assert!(begun.elapsed() < super::support::LONG);
        other_lane.wait_past(other_lane.end_lsn(), std::time::Duration::from_millis(100));
    }
    assert_eq!(other_lane.read(goals, 0, 10, usize::MAX).expect("records").len(), 1);
    // A position is stored by the owner alone, and there is no fifth partition.
    let refused =
        one_lane.append_wait(&Append { records: vec![], positions: vec![stored("monitor", at(2), 1)] });
    assert!(matches!(refused, Err(LogError::OtherLane { .. })), "{refused:?}");
    for refused in
        [one_lane.append_wait(&one(at(4), "nowhere")), one_lane.read(at(2), 0, 1, 1).map(|_| panic!())]
    {
        assert!(matches!(refused, Err(LogError::OtherLane { .. })), "{refused:?}");
    }
    assert_eq!(texts(&one_lane), ["one", "handed over"]);
}

#[test]
fn positions_of_many_consumers_survive_a_restart() {
    let topics = Topics::new(2);
    let log = topics.open([0, 1]);
    let positions = vec![
        stored("partition", GOALS, 7),
        stored("monitor", AGENTS, 3),
        stored("diagnose", AGENTS, u64::MAX),
        stored("monitor", TopicPartition::new(Topic::Agents, 1), 12),
    ];
    log.append_wait(&Append { records: vec![], positions: positions.clone() }).expect("durable");
    log.append_wait(&one(AGENTS, "an event")).expect("durable");
    log.close().expect("closed");
    let log = topics.open([1, 0]);
    let key = |position: &kintsugi_eventlog::Position| {
        (position.consumer.to_string(), position.topic, position.partition)
    };
    let (mut found, mut expected) = (log.positions(), positions);
    found.sort_by_key(key);
    expected.sort_by_key(key);
    assert_eq!(found, expected);
}
