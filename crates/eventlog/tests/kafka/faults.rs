//! A broker that dies, hangs or is away, each on a broker of the test's own.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use kintsugi_broker::Broker;
use kintsugi_eventlog::kafka::Health;
use kintsugi_eventlog::{Append, EventLog as _, KafkaLog, LogError, LogReader as _, Lsn, TopicPartition};
use kintsugi_events::Topic;
use kintsugi_types::ByteCount;

use super::support::{LONG, Topics, bare, one, stored};

const AGENTS: TopicPartition = TopicPartition::new(Topic::Agents, 0);
const GOALS: TopicPartition = TopicPartition::new(Topic::Goals, 0);

fn broker() -> Broker {
    Broker::start().unwrap_or_else(|error| panic!("{error}"))
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < LONG, "not in {LONG:?}: {what}");
        thread::park_timeout(Duration::from_millis(5));
    }
}

fn is_away(log: &KafkaLog) -> bool {
    matches!(log.health(), Health::Away { .. })
}

/// Appends that were told how they ended, in the order of being told.
type Outcomes = Arc<Mutex<Vec<(u64, Result<u64, String>)>>>;

fn told(outcomes: &Outcomes) -> u64 {
    outcomes.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
}

/// Queues append `number`, over two topics with a position. Returns whether there was room.
fn append(log: &KafkaLog, number: u64, outcomes: &Outcomes) -> bool {
    let append = Append {
        records: vec![bare(AGENTS, &number.to_string()), bare(GOALS, &number.to_string())],
        positions: vec![stored("partition", GOALS, number + 1)],
    };
    let outcomes = Arc::clone(outcomes);
    let on_commit = move |outcome: Result<kintsugi_eventlog::Committed, LogError>| {
        let offset = outcome.map(|committed| committed.offsets.first().copied().unwrap_or(u64::MAX));
        let outcome = (number, offset.map_err(|error| error.to_string()));
        outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
    };
    match log.append(&append, Box::new(on_commit)) {
        Ok(()) => true,
        Err(LogError::Full { .. }) => false,
        Err(other) => panic!("{other}"),
    }
}

/// Says that it is enough, also where a test fails: whoever appends would else go on for ever, and be waited for.
struct EnoughOnDrop<'a>(&'a AtomicBool);

impl Drop for EnoughOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Appends from 0 on, and strikes three times, each time when so many more appends are committed: however quick the
/// machine is, each blow falls into work. Returns how many were appended.
fn strike_at_work(log: &KafkaLog, outcomes: &Outcomes, every: u64, mut strike: impl FnMut()) -> u64 {
    let is_enough = AtomicBool::new(false);
    thread::scope(|scope| {
        let appender = scope.spawn(|| {
            let mut count = 0;
            while !is_enough.load(Ordering::Relaxed) {
                if append(log, count, outcomes) {
                    count += 1;
                } else {
                    // Not until there is room: a test that fails while nothing is taken is to end too.
                    thread::park_timeout(Duration::from_millis(1));
                }
            }
            count
        });
        let enough = EnoughOnDrop(&is_enough);
        for _ in 0..3 {
            let before = told(outcomes);
            wait_until("appends are committed", || told(outcomes) >= before + every);
            strike();
        }
        drop(enough);
        appender.join().expect("appended")
    })
}

/// Everything was acknowledged once, is there once, in order, at the offset that was told.
fn assert_exactly_once(log: &KafkaLog, outcomes: &Outcomes, count: u64) {
    let outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let told: Vec<u64> = outcomes.iter().map(|(number, _)| *number).collect();
    assert!(told.iter().copied().eq(0..count), "each is told once and in order");
    let (mut agents, mut goals) = (Vec::new(), Vec::new());
    log.replay(Lsn(0), &mut |record| {
        let number: u64 = String::from_utf8_lossy(&record.value).parse().expect("a number");
        match record.topic {
            Topic::Agents => agents.push((number, record.offset)),
            _ => goals.push(number),
        }
        ControlFlow::Continue(())
    })
    .expect("replay");
    let expected: Vec<(u64, u64)> = outcomes
        .into_iter()
        .map(|(number, offset)| (number, offset.unwrap_or_else(|error| panic!("{number}: {error}"))))
        .collect();
    assert_eq!(agents, expected, "nothing is lost, doubled or moved");
    assert!(goals.iter().copied().eq(0..count));
    assert_eq!(log.position("partition", GOALS), Some(count));
}

#[test]
fn a_broker_that_is_killed_again_and_again_costs_nothing_but_time() {
    let mut broker = broker();
    let topics = Topics::at(&broker.bootstrap(), 1);
    let log = topics.open([0]);
    let outcomes = Outcomes::default();
    let count = strike_at_work(&log, &outcomes, 1_200, || {
        broker.kill().expect("killed");
        broker.restart().expect("back");
    });
    log.flush().expect("durable");
    assert_exactly_once(&log, &outcomes, count);
    log.close().expect("closed");
    let again = topics.open([0]);
    assert_exactly_once(&again, &outcomes, count);
}

#[test]
fn a_broker_that_hangs_leaves_no_transaction_of_unknown_outcome() {
    let broker = broker();
    let topics = Topics::at(&broker.bootstrap(), 1);
    let mut options = topics.options([0]);
    // Many transactions, so that it hangs in every part of one.
    options.group_records_max = 20;
    // What waits at the end is to be written too.
    options.queue_appends_max = 400;
    options.transaction_timeout = Duration::from_secs(2);
    let log = KafkaLog::open(options).expect("the lane opens");
    let outcomes = Outcomes::default();
    let count = strike_at_work(&log, &outcomes, 800, || {
        broker.freeze().expect("frozen");
        wait_until("the lane notices", || is_away(&log));
        broker.thaw().expect("thawed");
        wait_until("the lane goes on", || !is_away(&log));
    });
    log.flush().expect("durable");
    assert_exactly_once(&log, &outcomes, count);
}

#[test]
fn while_the_broker_is_away_appends_wait_in_bounded_memory() {
    let mut broker = broker();
    let topics = Topics::at(&broker.bootstrap(), 1);
    let mut options = topics.options([0]);
    options.queue_appends_max = 50;
    options.queue_bytes_max = ByteCount::mib(1);
    let log = KafkaLog::open(options).expect("the lane opens");
    log.append_wait(&one(AGENTS, "before")).expect("durable");
    broker.kill().expect("killed");
    let outcomes = Outcomes::default();
    let note = |number: u64| {
        let outcomes = Arc::clone(&outcomes);
        Box::new(move |outcome: Result<kintsugi_eventlog::Committed, LogError>| {
            let outcome = outcome.map(|committed| committed.first_lsn.0).map_err(|error| error.to_string());
            outcomes.lock().unwrap_or_else(PoisonError::into_inner).push((number, outcome));
        })
    };
    let mut taken = 0;
    wait_until("the queue is full", || match log.append(&one(AGENTS, "waits"), note(taken)) {
        Ok(()) => {
            taken += 1;
            false
        }
        Err(LogError::Full { .. }) => is_away(&log),
        Err(other) => panic!("{other}"),
    });
    // One group is under way, and the queue holds no more than it may.
    assert!((50..=200).contains(&taken), "{taken}");
    let Health::Away { reason, .. } = log.health() else { panic!("it is away") };
    assert!(!reason.is_empty());
    assert_eq!(told(&outcomes), 0);
    broker.restart().expect("back");
    log.flush().expect("durable");
    assert!(!is_away(&log));
    assert_eq!(told(&outcomes), taken);
    let read = log.read(AGENTS, 0, 1000, usize::MAX).expect("records");
    assert_eq!(read.len() as u64, taken + 1);
}

#[test]
fn closing_while_the_broker_is_away_ends_and_tells() {
    let mut broker = broker();
    let topics = Topics::at(&broker.bootstrap(), 1);
    let mut options = topics.options([0]);
    options.patience = Duration::from_secs(3);
    options.transaction_timeout = Duration::from_secs(2);
    let log = KafkaLog::open(options).expect("the lane opens");
    broker.kill().expect("killed");
    let outcomes = Outcomes::default();
    for number in 0..3 {
        assert!(append(&log, number, &outcomes), "there is room");
    }
    let closed = log.close();
    assert!(closed.is_err(), "what was queued is not durable");
    let outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert_eq!(outcomes.len(), 3);
    assert!(outcomes.iter().all(|(_, outcome)| outcome.is_err()), "{outcomes:?}");
}

/// A commit that finds anything in flight takes 100 ms in the client library. Where one does, all do: the quickest
/// tells, however busy the machine is.
#[test]
fn a_commit_waits_for_nothing_but_the_broker() {
    let topics = Topics::new(1);
    let log = topics.open([0]);
    log.append_wait(&one(AGENTS, "warm")).expect("durable");
    let mut times: Vec<Duration> = (0..40)
        .map(|number| {
            let begun = Instant::now();
            log.append_wait(&one(AGENTS, &number.to_string())).expect("durable");
            begun.elapsed()
        })
        .collect();
    times.sort_unstable();
    println!("commit of one record: min {:?}, p50 {:?}, p95 {:?}", times[0], times[20], times[38]);
    assert!(times[0] < Duration::from_millis(80), "the quickest takes {:?}", times[0]);
}
