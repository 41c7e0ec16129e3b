//! Nothing is deleted that anybody still needs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kintsugi_types::{ManualClock, Timestamp};

use super::support::{
    AGENTS, GOALS, TINY, append, contents, files, folder, length, open_tiny, options, record, stored,
    truncate,
};
use crate::embedded::{EmbeddedLog, Options};
use crate::error::LogError;
use crate::log::{Append, EventLog as _, LogReader as _, Lsn, Retention};

const ANY_AGE: Retention = Retention { age_min: Duration::ZERO, bytes_min: 0, low_water: Lsn(u64::MAX) };

fn open_with_clock(directory: &Path) -> (EmbeddedLog, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(Timestamp::from_timestamp_millis(1_000_000).expect("a time")));
    let options = Options { clock: Arc::clone(&clock) as _, segment_bytes: TINY, ..options() };
    (EmbeddedLog::open(directory, options).expect("the log opens"), clock)
}

#[test]
fn only_whole_sealed_segments_below_the_low_water_mark_go() {
    let directory = folder();
    let log = open_tiny(directory.path());
    for number in 0..20 {
        append(&log, number);
    }
    let segments = files(directory.path(), "segment").len();
    let kept_lsn = Lsn(17);
    let retained = log.retain(&Retention { low_water: kept_lsn, ..ANY_AGE }).expect("retention");
    assert!(retained.segments_deleted > 0 && retained.bytes_deleted > 0);
    assert_eq!(files(directory.path(), "segment").len(), segments - retained.segments_deleted);
    assert!(log.start_lsn() <= kept_lsn && log.start_lsn() > Lsn(0));
    assert_eq!(retained.start_lsn, log.start_lsn());
    let again = log.retain(&Retention { low_water: kept_lsn, ..ANY_AGE }).expect("retention");
    assert_eq!(again.segments_deleted, 0);

    let all = log.retain(&ANY_AGE).expect("retention");
    assert!(all.segments_deleted > 0);
    assert_eq!(files(directory.path(), "segment").len(), 1, "the active segment never goes");
    assert!(files(directory.path(), "index").is_empty());
}

#[test]
fn what_was_deleted_is_refused_with_the_oldest_that_is_left() {
    let directory = folder();
    let log = open_tiny(directory.path());
    for number in 0..20 {
        append(&log, number);
    }
    log.retain(&ANY_AGE).expect("retention");
    let (oldest, oldest_lsn) = (log.start_offset(GOALS), log.start_lsn());
    assert!(oldest > 0);
    let read = log.read(GOALS, oldest - 1, 10, 1000);
    assert!(matches!(read, Err(LogError::Trimmed { oldest: named }) if named == oldest), "{read:?}");
    let replayed = log.replay(Lsn(0), &mut |_| std::ops::ControlFlow::Continue(()));
    assert!(matches!(replayed, Err(LogError::Trimmed { oldest: named }) if named == oldest_lsn.0));
    let read = log.read(GOALS, oldest, 1, 1000).expect("readable");
    assert_eq!(read.first().map(|record| record.offset), Some(oldest));
}

#[test]
fn offsets_and_positions_outlive_the_segments_that_they_were_written_in() {
    let directory = folder();
    let log = open_tiny(directory.path());
    // A topic and a consumer that are heard of once, at the very beginning.
    let once = Append {
        records: vec![record(AGENTS, "only")],
        positions: vec![stored("early", AGENTS, 1), stored("gone", GOALS, u64::MAX)],
    };
    log.append_wait(&once).expect("durable");
    for number in 0..20 {
        let goal = Append { records: vec![record(GOALS, &number.to_string())], positions: vec![] };
        log.append_wait(&goal).expect("durable");
    }
    assert!(log.retain(&ANY_AGE).expect("retention").segments_deleted > 2);
    let before = contents(&log).expect("readable");
    assert_eq!(before.ends.1, 1);
    log.close().expect("the log closes");
    let log = open_tiny(directory.path());
    assert_eq!(contents(&log).expect("readable"), before);
    assert_eq!(log.position("early", AGENTS), Some(1));
    assert_eq!((log.start_offset(AGENTS), log.end_offset(AGENTS)), (1, 1));
    assert_eq!(log.read(AGENTS, 1, 10, 1000).expect("readable"), []);
}

#[test]
fn a_consumer_that_lags_keeps_what_it_has_not_read() {
    let directory = folder();
    let log = open_tiny(directory.path());
    for number in 0..20 {
        append(&log, number);
    }
    let slow = |next_offset| Append { records: vec![], positions: vec![stored("slow", AGENTS, next_offset)] };
    log.append_wait(&slow(7)).expect("durable");
    log.retain(&ANY_AGE).expect("retention");
    assert!(log.start_offset(AGENTS) <= 7 && log.start_offset(AGENTS) > 0);
    assert_eq!(log.read(AGENTS, 7, 1, 100).expect("readable").len(), 1);
    log.append_wait(&slow(20)).expect("durable");
    log.retain(&ANY_AGE).expect("retention");
    assert!(log.start_offset(AGENTS) > 7);
}

#[test]
fn a_segment_stays_until_its_newest_record_is_old_enough() {
    let directory = folder();
    let (log, clock) = open_with_clock(directory.path());
    let hour = Retention { age_min: Duration::from_hours(1), ..ANY_AGE };
    for number in 0..10 {
        append(&log, number);
    }
    clock.advance(chrono::TimeDelta::minutes(59));
    assert_eq!(log.retain(&hour).expect("retention").segments_deleted, 0);
    for number in 10..20 {
        append(&log, number);
    }
    clock.advance(chrono::TimeDelta::minutes(1));
    let retained = log.retain(&hour).expect("retention");
    assert!(retained.segments_deleted > 0);
    let oldest = log.start_offset(GOALS);
    assert!((8..=10).contains(&oldest), "the first hour's records are gone, later ones are not: {oldest}");
}

#[test]
fn so_many_of_the_newest_bytes_are_kept_and_what_would_go_is_told_before() {
    let directory = folder();
    let log = open_tiny(directory.path());
    for number in 0..20 {
        append(&log, number);
    }
    let size = log.size();
    let nothing = Retention { bytes_min: size.bytes, ..ANY_AGE };
    assert_eq!(log.retainable(&nothing).segments_deleted, 0);
    assert_eq!(log.retain(&nothing).expect("retention").segments_deleted, 0);
    let half = Retention { bytes_min: size.bytes / 2, ..ANY_AGE };
    let told = log.retainable(&half);
    assert!(told.segments_deleted > 0 && size.bytes - told.bytes_deleted >= size.bytes / 2);
    assert_eq!(log.retain(&half).expect("retention"), told);
    assert_eq!(log.size().bytes, size.bytes - told.bytes_deleted);
    assert_eq!(
        log.retainable(&half),
        crate::log::Retained { start_lsn: log.start_lsn(), ..Default::default() }
    );
}

#[test]
fn the_last_sealed_segment_stays_while_nothing_was_carried_into_the_next() {
    let directory = folder();
    let log = open_tiny(directory.path());
    for number in 0..9 {
        append(&log, number);
    }
    log.close().expect("the log closes");
    let last = files(directory.path(), "segment").pop().expect("a segment");
    truncate(&last, 40);
    let log = open_tiny(directory.path());
    assert_eq!(length(&last), 40);
    log.retain(&ANY_AGE).expect("retention");
    assert_eq!(files(directory.path(), "segment").len(), 2);
    let before = contents(&log).expect("readable");
    log.close().expect("the log closes");
    assert_eq!(contents(&open_tiny(directory.path())).expect("readable"), before);
}

#[test]
fn readers_go_on_while_segments_are_deleted() {
    let directory = folder();
    let log = open_tiny(directory.path());
    for number in 0..60 {
        append(&log, number);
    }
    std::thread::scope(|scope| {
        let log = &log;
        scope.spawn(move || {
            for low_water in 0..120 {
                log.retain(&Retention { low_water: Lsn(low_water), ..ANY_AGE }).expect("retention");
            }
        });
        scope.spawn(move || {
            let mut next = 0;
            while next < 60 {
                match log.read(GOALS, next, 1, 1000) {
                    Ok(read) => {
                        assert_eq!(read.first().map(|record| record.offset), Some(next));
                        next += 1;
                    }
                    Err(LogError::Trimmed { oldest }) => {
                        assert!(oldest > next);
                        next = oldest;
                    }
                    Err(other) => panic!("{other}"),
                }
            }
        });
    });
}
