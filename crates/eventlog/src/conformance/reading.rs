//! Promises about what is read.

use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use kintsugi_events::Topic;

use super::Harness;
use super::support::{MANY, append, assert_grows, at, bare, good, one, records, replay_all, text};
use crate::log::Lsn;

/// Longer than anything here takes: a check that waits so long has failed.
const LONG: Duration = Duration::from_mins(1);

pub(super) fn reads_are_bounded_by_records_and_by_bytes(harness: &mut dyn Harness) {
    let log = harness.log();
    let goals = at(Topic::Goals, 0);
    let mut all = Vec::new();
    for first in (0..30).step_by(3) {
        let group = (first..first + 3).map(|number| bare(goals, &format!("value {number:04}")));
        all.extend(append(&*log, &records(group.collect())).offsets);
    }
    assert_grows(&all, harness.is_dense());
    let read = |from: usize, records_max, bytes_max| {
        let offset = all.get(from).copied().unwrap_or_default();
        let read = good(log.read(goals, offset, records_max, bytes_max));
        read.iter().map(|record| record.offset).collect::<Vec<_>>()
    };
    let expected = |places: Range<usize>| all.get(places).unwrap_or_default().to_vec();
    assert_eq!(read(4, 5, usize::MAX), expected(4..9));
    assert_eq!(read(28, MANY, usize::MAX), expected(28..30));
    assert_eq!(read(0, 0, usize::MAX), expected(0..0));
    // A key of 3 bytes and a value of 10.
    assert_eq!(read(0, MANY, 13 * 4), expected(0..4));
    assert_eq!(read(0, MANY, 13 * 4 + 12), expected(0..4));
    assert_eq!(read(9, MANY, 1), expected(9..10), "at least one, however small the limit");
    assert_eq!(read(0, MANY, usize::MAX), all);
    for pair in all.windows(2) {
        let [one, next] = pair else { continue };
        let read = good(log.read(goals, one + 1, 1, MANY));
        let found: Vec<u64> = read.iter().map(|record| record.offset).collect();
        assert_eq!(found, [*next], "an offset without a record leads to the next one that has one");
    }
}

pub(super) fn a_read_at_the_end_is_empty(harness: &mut dyn Harness) {
    let log = harness.log();
    let goals = at(Topic::Goals, 0);
    let end = append(&*log, &one(goals, "only")).offsets.iter().sum::<u64>() + 1;
    assert_eq!(good(log.read(goals, end, MANY, MANY)), []);
    assert_eq!(good(log.read(goals, end + 98, MANY, MANY)), []);
    assert_eq!(good(log.read(at(Topic::Results, 3), 0, MANY, MANY)), []);
    let end = log.end_lsn();
    assert_eq!(good(log.replay(end, &mut |_| ControlFlow::Continue(()))), end);
}

pub(super) fn replay_goes_over_all_topics_in_the_order_of_commit(harness: &mut dyn Harness) {
    let log = harness.log();
    let topics = [Topic::Goals, Topic::Agents, Topic::Metrics, Topic::Anomalies];
    let mut number = 0;
    for group in 0..30usize {
        let mut new = Vec::new();
        for place in 0..=group % 4 {
            let topic = topics.get((group + place) % 4).copied().unwrap_or(Topic::Goals);
            new.push(bare(at(topic, u32::from(group % 2 == 0)), &number.to_string()));
            number += 1;
        }
        append(&*log, &records(new));
    }
    let all = replay_all(&*log, Lsn(0));
    assert_eq!(all.len(), number);
    let lsns: Vec<u64> = all.iter().map(|record| record.lsn.0).collect();
    assert_grows(&lsns, harness.is_dense());
    for (place, record) in (0u64..).zip(&all) {
        assert_eq!(text(record), place.to_string());
        let again = good(log.read(record.topic_partition(), record.offset, 1, MANY));
        assert_eq!(again.first(), Some(record), "replay and read agree");
    }
    for from in [1, 17, number - 1] {
        let lsn = lsns.get(from).copied().unwrap_or_default();
        let tail = replay_all(&*log, Lsn(lsn));
        assert_eq!(tail.as_slice(), all.get(from..).unwrap_or_default());
    }
    let mut goals = Vec::new();
    good(log.replay_topics(&[Topic::Goals], Lsn(0), &mut |record| {
        goals.push(record);
        ControlFlow::Continue(())
    }));
    let expected: Vec<_> = all.into_iter().filter(|record| record.topic == Topic::Goals).collect();
    assert_eq!(goals, expected, "some topics alone come in the same order");
}

pub(super) fn replay_stops_where_it_is_told(harness: &mut dyn Harness) {
    let log = harness.log();
    let goals = at(Topic::Goals, 0);
    let ten = records((0..10).map(|number| bare(goals, &number.to_string())).collect());
    let committed = append(&*log, &ten);
    let mut seen = Vec::new();
    let mut take_three = |from| {
        let mut taken = 0;
        good(log.replay(from, &mut |record| {
            seen.push(record.lsn);
            taken += 1;
            if taken == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }))
    };
    let next = take_three(committed.lsn(2));
    let after = take_three(next);
    assert_eq!((next, after), (committed.lsn(5), committed.lsn(8)));
    assert_eq!(seen, [2, 3, 4, 5, 6, 7].map(|place| committed.lsn(place)), "it goes on where it stopped");
}

pub(super) fn readers_see_a_prefix_while_others_write(harness: &mut dyn Harness) {
    const APPENDS: u64 = 300;
    let agents = at(Topic::Agents, 0);
    let metrics = at(Topic::Metrics, 0);
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let (log, done) = (harness.log(), &is_done);
        scope.spawn(move || {
            for number in 0..APPENDS {
                let pair = vec![bare(agents, &number.to_string()), bare(metrics, &number.to_string())];
                append(&*log, &records(pair));
            }
            done.store(true, Ordering::Release);
        });
        for _ in 0..2 {
            let log = harness.log();
            scope.spawn(move || {
                let (mut count, mut next, mut next_metric) = (0, 0, 0);
                while count < APPENDS {
                    // Looked at before reading: whatever is there when reading ends was there or came later.
                    let was_done = done.load(Ordering::Acquire);
                    let end = log.end_lsn();
                    let read = good(log.read(agents, next, 16, MANY));
                    let with_them = good(log.read(metrics, next_metric, read.len(), MANY));
                    assert_eq!(with_them.len(), read.len(), "both topics of an append show together");
                    for (record, metric) in read.iter().zip(&with_them) {
                        assert_eq!((text(record), text(metric)), (count.to_string(), count.to_string()));
                        (next, next_metric) = (record.offset + 1, metric.offset + 1);
                        count += 1;
                    }
                    assert!(!was_done || count == APPENDS || log.end_offset(agents) > next);
                    if count < APPENDS && read.is_empty() {
                        log.wait_past(end, LONG);
                    }
                }
            });
        }
    });
}

pub(super) fn a_watcher_is_woken_by_the_next_commit(harness: &mut dyn Harness) {
    let log = harness.log();
    let goals = at(Topic::Goals, 0);
    let seen = log.end_lsn();
    let (ready, is_ready) = mpsc::channel();
    thread::scope(|scope| {
        let watcher = harness.log();
        let waiting = scope.spawn(move || {
            let _ = ready.send(());
            watcher.wait_past(seen, LONG)
        });
        assert!(is_ready.recv().is_ok());
        append(&*log, &one(goals, "news"));
        let end = waiting.join().unwrap_or_default();
        assert!(end > seen && end == log.end_lsn(), "{seen} {end}");
    });
    assert_eq!(log.wait_past(seen, LONG), log.end_lsn(), "what is already there is not waited for");
}

pub(super) fn a_watcher_is_let_go_when_time_is_over_or_the_log_closes(harness: &mut dyn Harness) {
    let log = harness.log();
    assert_eq!(log.wait_past(Lsn(0), Duration::from_millis(1)), Lsn(0));
    let (ready, is_ready) = mpsc::channel();
    thread::scope(|scope| {
        let watcher = harness.log();
        let waiting = scope.spawn(move || {
            let _ = ready.send(());
            watcher.wait_past(Lsn(0), LONG)
        });
        assert!(is_ready.recv().is_ok());
        good(log.close());
        assert!(waiting.join().is_ok_and(|end| end == Lsn(0)));
    });
}
