//! Promises about what is appended.

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use kintsugi_events::Topic;

use super::Harness;
use super::support::{append, assert_grows, at, bare, event, good, one, read_all, records, text, texts};
use crate::error::LogError;
use crate::log::{Append, Committed, FrameId, Lsn};
use crate::record::NewRecord;

pub(super) fn records_come_back_as_they_were_appended(harness: &mut dyn Harness) {
    let log = harness.log();
    let events: Vec<_> = (0..12).map(event).collect();
    let mut new: Vec<_> = events.iter().map(|event| good(NewRecord::from_event(event, 3))).collect();
    new.push(NewRecord::bare(Topic::Approvals, 3, "", br#"{"text":"no header at all"}"#.to_vec()));
    new.push(NewRecord::bare(Topic::Approvals, 3, "a key", Vec::new()));
    let committed = append(&*log, &records(new.clone()));

    let read = read_all(&*log, at(Topic::Approvals, 3));
    assert_eq!(read.len(), new.len());
    for ((place, record), (new, offset)) in (0..).zip(&read).zip(new.iter().zip(&committed.offsets)) {
        assert_eq!((record.topic, record.partition, record.offset), (new.topic, new.partition, *offset));
        assert_eq!(record.envelope, new.envelope);
        assert_eq!((record.event_type.as_str(), &record.key), (new.event_type.as_ref(), &new.key));
        assert_eq!(record.value, new.value);
        assert_eq!(record.lsn, committed.lsn(place));
        assert_eq!(record.appended_at_ms, committed.appended_at_ms);
    }
    for (record, event) in read.iter().zip(&events) {
        assert_eq!(record.to_event().ok().as_ref(), Some(event), "an event comes back equal");
    }
    assert!(read.last().is_some_and(|record| record.to_event().is_err()), "bare bytes are no event");
}

pub(super) fn offsets_grow_in_each_partition(harness: &mut dyn Harness) {
    let log = harness.log();
    let (goals, other_goals, metrics) = (at(Topic::Goals, 0), at(Topic::Goals, 7), at(Topic::Metrics, 0));
    let begin = log.end_lsn();
    let first = append(
        &*log,
        &records(vec![bare(goals, "a"), bare(metrics, "b"), bare(goals, "c"), bare(other_goals, "d")]),
    );
    let second = append(&*log, &records(vec![bare(other_goals, "e"), bare(goals, "f")]));
    let of = |committed: &Committed, place: usize| committed.offsets.get(place).copied().unwrap_or(u64::MAX);
    let in_goals = [of(&first, 0), of(&first, 2), of(&second, 1)];
    let in_other_goals = [of(&first, 3), of(&second, 0)];
    let in_metrics = [of(&first, 1)];
    assert_grows(&in_goals, harness.is_dense());
    assert_grows(&in_other_goals, harness.is_dense());
    assert_grows(&in_metrics, harness.is_dense());
    assert!(second.frame > first.frame);
    assert!(first.first_lsn >= begin && second.first_lsn >= first.lsn(4));
    if harness.is_dense() {
        assert_eq!((begin, first.first_lsn, second.first_lsn), (Lsn(0), Lsn(0), Lsn(4)));
    }
    for committed in [&first, &second] {
        assert_eq!(committed.follows.len(), committed.offsets.len());
        assert!(committed.follows.iter().zip(&committed.offsets).all(|(follows, offset)| follows <= offset));
        assert!(!harness.is_dense() || committed.follows == committed.offsets);
    }
    for (at, offsets) in [(goals, &in_goals[..]), (other_goals, &in_other_goals), (metrics, &in_metrics)] {
        assert_eq!(Some(log.end_offset(at)), offsets.last().map(|offset| offset + 1));
    }
    assert_eq!(log.end_offset(at(Topic::Results, 0)), 0, "a partition without records ends at 0");
    assert_eq!((log.start_lsn(), log.end_lsn()), (Lsn(0), second.lsn(2)));
    let mut partitions = log.partitions();
    partitions.sort_unstable();
    assert_eq!(partitions, [goals, other_goals, metrics]);
    assert_eq!(texts(&*log, goals), ["a", "c", "f"]);
    assert_eq!(texts(&*log, other_goals), ["d", "e"]);
}

pub(super) fn an_empty_append_waits_for_those_before_it(harness: &mut dyn Harness) {
    let log = harness.log();
    let goals = at(Topic::Goals, 0);
    let (told, outcomes) = mpsc::channel();
    for number in 0..50 {
        let told = told.clone();
        good(log.append(&one(goals, &number.to_string()), Box::new(move |outcome| drop(told.send(outcome)))));
    }
    good(log.flush());
    assert_eq!(outcomes.try_iter().flatten().count(), 50, "all were told before the flush was");
    let nothing = append(&*log, &Append::default());
    assert_eq!((nothing.offsets, nothing.first_lsn), (vec![], log.end_lsn()));
    assert!(nothing.frame > FrameId(0));
    if harness.is_dense() {
        assert_eq!((log.end_lsn(), log.end_offset(goals)), (Lsn(50), 50));
    }
}

pub(super) fn appends_are_acknowledged_in_order(harness: &mut dyn Harness) {
    let log = harness.log();
    let goals = at(Topic::Goals, 0);
    let order = Arc::new(Mutex::new(Vec::new()));
    for number in 0..200u64 {
        let order = Arc::clone(&order);
        let told = Box::new(move |outcome| {
            order.lock().unwrap_or_else(PoisonError::into_inner).push((number, outcome));
        });
        good(log.append(&one(goals, &number.to_string()), told));
    }
    good(log.flush());
    let order = std::mem::take(&mut *order.lock().unwrap_or_else(PoisonError::into_inner));
    assert_eq!(order.len(), 200);
    let mut offsets = Vec::new();
    for (place, (number, outcome)) in (0..).zip(order) {
        assert_eq!(number, place);
        offsets.extend(good(outcome).offsets);
    }
    assert_eq!(offsets.len(), 200);
    assert_grows(&offsets, harness.is_dense());
}

pub(super) fn an_append_of_one_writer_is_never_mixed_with_another(harness: &mut dyn Harness) {
    let log = harness.log();
    let agents = at(Topic::Agents, 1);
    thread::scope(|scope| {
        for writer in 0..4 {
            let log = harness.log();
            scope.spawn(move || {
                for number in 0..40 {
                    let parts = (0..5).map(|part| bare(agents, &format!("{writer}.{number}.{part}")));
                    append(&*log, &records(parts.collect()));
                }
            });
        }
    });
    let all = texts(&*log, agents);
    assert_eq!(all.len(), 4 * 40 * 5);
    for group in all.chunks(5) {
        let prefix = group.first().and_then(|text| text.strip_suffix(".0")).unwrap_or("none");
        let expected: Vec<_> = (0..5).map(|part| format!("{prefix}.{part}")).collect();
        assert_eq!(group, expected, "the records of one append stay together");
    }
}

pub(super) fn concurrent_appenders_get_every_offset_once(harness: &mut dyn Harness) {
    let log = harness.log();
    let offsets = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for writer in 0..8u32 {
            let (log, offsets) = (harness.log(), &offsets);
            scope.spawn(move || {
                let of = at(Topic::Metrics, writer % 2);
                for number in 0..50 {
                    let committed = append(&*log, &one(of, &format!("{writer}.{number}")));
                    let read = good(log.read(of, committed.offsets.iter().copied().sum(), 1, usize::MAX));
                    assert_eq!(
                        read.iter().map(text).collect::<Vec<_>>(),
                        [format!("{writer}.{number}")],
                        "what was acknowledged is read at its offset at once"
                    );
                    let mut offsets = offsets.lock().unwrap_or_else(PoisonError::into_inner);
                    offsets.extend(committed.offsets.iter().map(|offset| (of, *offset)));
                }
            });
        }
    });
    let mut offsets = offsets.into_inner().unwrap_or_else(PoisonError::into_inner);
    offsets.sort_unstable();
    assert_eq!(offsets.len(), 400);
    for partition in 0..2 {
        let of = at(Topic::Metrics, partition);
        let of_one: Vec<u64> =
            offsets.iter().filter(|(at, _)| *at == of).map(|(_, offset)| *offset).collect();
        assert_eq!(of_one.len(), 200);
        assert_grows(&of_one, harness.is_dense());
    }
    if harness.is_dense() {
        assert_eq!(log.end_lsn(), Lsn(400));
    }
}

pub(super) fn a_big_record_comes_back_whole(harness: &mut dyn Harness) {
    let log = harness.log();
    let agents = at(Topic::Agents, 0);
    // Larger than any buffer that a log reads by.
    let length = (harness.append_bytes_max() / 2).min(3_000_000);
    let value: Vec<u8> = (0..length).map(|place| (place % 251).to_le_bytes()[0]).collect();
    append(&*log, &one(agents, "before"));
    let big = NewRecord::bare(agents.topic, agents.partition, "key", value.clone());
    append(&*log, &records(vec![big]));
    append(&*log, &one(agents, "after"));
    let read = read_all(&*log, agents);
    assert_eq!(read.len(), 3);
    assert!(read.iter().any(|record| record.value == value));
    harness.reopen();
    assert!(read_all(&*harness.log(), agents).iter().any(|record| record.value == value));
}

pub(super) fn an_append_that_is_too_big_is_refused_and_harms_nothing(harness: &mut dyn Harness) {
    let log = harness.log();
    let agents = at(Topic::Agents, 0);
    append(&*log, &one(agents, "before"));
    let length = harness.append_bytes_max() + 1;
    let too_big = records(vec![NewRecord::bare(agents.topic, 0, "key", vec![7; length])]);
    let refused = log.append_wait(&too_big);
    assert!(matches!(refused, Err(LogError::TooLarge { .. })), "{refused:?}");
    assert!(refused.is_err_and(|error| !error.is_retryable()));
    append(&*log, &one(agents, "after"));
    assert_eq!(texts(&*log, agents), ["before", "after"]);
}

pub(super) fn a_closed_log_refuses_appends_and_still_reads(harness: &mut dyn Harness) {
    let log = harness.log();
    let goals = at(Topic::Goals, 0);
    let (told, outcomes) = mpsc::channel();
    for number in 0..20 {
        let told = told.clone();
        good(log.append(&one(goals, &number.to_string()), Box::new(move |outcome| drop(told.send(outcome)))));
    }
    good(log.close());
    assert_eq!(outcomes.try_iter().flatten().count(), 20, "closing makes durable what was queued");
    let refused = log.append_wait(&one(goals, "late"));
    assert!(matches!(refused, Err(LogError::Closed)), "{refused:?}");
    assert_eq!(texts(&*log, goals).len(), 20);
    good(log.close());
}

pub(super) fn an_appender_that_panics_harms_nobody_else(harness: &mut dyn Harness) {
    let log = harness.log();
    let goals = at(Topic::Goals, 0);
    good(log.append(&one(goals, "first"), Box::new(|_| panic!("an appender panics, on purpose"))));
    append(&*log, &one(goals, "second"));
    assert_eq!(texts(&*log, goals), ["first", "second"]);
}
