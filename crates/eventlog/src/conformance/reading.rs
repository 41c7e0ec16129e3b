//! Promises about what is read.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use kintsugi_events::Topic;

use super::Harness;
use super::support::{MANY, append, at, bare, good, one, records, replay_all, text};
use crate::log::Lsn;

/// Longer than anything here takes: a check that waits so long has failed.
const LONG: Duration = Duration::from_mins(1);

pub(super) fn reads_are_bounded_by_records_and_by_bytes(harness: &mut dyn Harness) {
    let log = harness.log();
    let goals = at(Topic::Goals, 0);
    for first in (0..30).step_by(3) {
        let group = (first..first + 3).map(|number| bare(goals, &format!("value {number:04}")));
        append(&*log, &records(group.collect()));
    }
    let offsets = |offset, records_max, bytes_max| {
        let read = good(log.read(goals, offset, records_max, bytes_max));
        read.iter().map(|record| record.offset).collect::<Vec<_>>()
    };
    assert_eq!(offsets(4, 5, usize::MAX), [4, 5, 6, 7, 8]);
    assert_eq!(offsets(28, MANY, usize::MAX), [28, 29]);
    assert_eq!(offsets(0, 0, usize::MAX), Vec::<u64>::new());
    // A key of 3 bytes and a value of 10.
    assert_eq!(offsets(0, MANY, 13 * 4), [0, 1, 2, 3]);
    assert_eq!(offsets(0, MANY, 13 * 4 + 12), [0, 1, 2, 3]);
    assert_eq!(offsets(9, MANY, 1), [9], "at least one, however small the limit");
    assert_eq!(offsets(0, MANY, usize::MAX).len(), 30);
}

pub(super) fn a_read_at_the_end_is_empty(harness: &mut dyn Harness) {
    let log = harness.log();
    let goals = at(Topic::Goals, 0);
    append(&*log, &one(goals, "only"));
    assert_eq!(good(log.read(goals, 1, MANY, MANY)), []);
    assert_eq!(good(log.read(goals, 99, MANY, MANY)), []);
    assert_eq!(good(log.read(at(Topic::Results, 3), 0, MANY, MANY)), []);
    assert_eq!(good(log.replay(Lsn(1), &mut |_| ControlFlow::Continue(()))), Lsn(1));
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
    for (place, record) in (0u64..).zip(&all) {
        assert_eq!((record.lsn, text(record)), (Lsn(place), place.to_string()));
        let again = good(log.read(record.topic_partition(), record.offset, 1, MANY));
        assert_eq!(again.first(), Some(record), "replay and read agree");
    }
    for from in [1, 17, number - 1] {
        let tail = replay_all(&*log, Lsn(from as u64));
        assert_eq!(tail.as_slice(), all.get(from..).unwrap_or_default());
    }
}

pub(super) fn replay_stops_where_it_is_told(harness: &mut dyn Harness) {
    let log = harness.log();
    let goals = at(Topic::Goals, 0);
    append(&*log, &records((0..10).map(|number| bare(goals, &number.to_string())).collect()));
    let mut seen = Vec::new();
    let next = good(log.replay(Lsn(2), &mut |record| {
        seen.push(record.lsn.0);
        if seen.len() == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }));
    assert_eq!((seen, next), (vec![2, 3, 4], Lsn(5)));
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
                let mut next = 0;
                while next < APPENDS {
                    // Looked at before reading: whatever is there when reading ends was there or came later.
                    let was_done = done.load(Ordering::Acquire);
                    for record in good(log.read(agents, next, 16, MANY)) {
                        assert_eq!((record.offset, text(&record)), (next, next.to_string()));
                        assert!(log.end_offset(metrics) > next, "both topics of an append show together");
                        next += 1;
                    }
                    assert!(!was_done || next == APPENDS || log.end_offset(agents) > next);
                    if next < APPENDS {
                        log.wait_past(Lsn(next * 2), LONG);
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
        assert!(waiting.join().is_ok_and(|end| end == Lsn(1)));
    });
    assert_eq!(log.wait_past(Lsn(0), LONG), Lsn(1), "what is already there is not waited for");
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
