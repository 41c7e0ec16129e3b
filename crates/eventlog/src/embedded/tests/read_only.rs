//! Reading a log that somebody else is writing.

use std::time::Duration;

use super::support::{
    GOALS, append, contents, files, flip, folder, length, open, open_tiny, prepared, truncate,
};
use crate::embedded::ReadOnlyLog;
use crate::error::LogError;
use crate::log::{EventLog as _, LogReader as _, Lsn, Retention};

#[test]
fn a_reader_follows_a_writer_over_segments() {
    let directory = folder();
    let log = open_tiny(directory.path());
    let reader = ReadOnlyLog::open(directory.path()).expect("an empty log");
    assert_eq!(reader.end_lsn(), Lsn(0));
    for number in 0..30 {
        append(&log, number);
        assert_eq!(reader.end_lsn(), Lsn(number * 2), "nothing changes by itself");
        assert_eq!(reader.refresh().expect("a refresh"), Lsn(number * 2 + 2));
        assert_eq!(contents(&reader).expect("readable"), contents(&log).expect("readable"));
    }
    assert_eq!(reader.size(), log.size());
    log.close().expect("the log closes");
    let late = ReadOnlyLog::open(directory.path()).expect("a closed log");
    assert_eq!(contents(&late).expect("readable"), contents(&reader).expect("readable"));
}

#[test]
fn a_reader_that_fell_behind_retention_is_told_where_the_log_begins() {
    let directory = folder();
    let log = open_tiny(directory.path());
    for number in 0..10 {
        append(&log, number);
    }
    let reader = ReadOnlyLog::open(directory.path()).expect("a log");
    for number in 10..30 {
        append(&log, number);
    }
    log.retain(&Retention { age_min: Duration::ZERO, bytes_min: 0, low_water: Lsn(u64::MAX) })
        .expect("retention");
    let oldest = log.start_offset(GOALS);
    let read = reader.read(GOALS, 0, 10, 1000);
    assert!(matches!(read, Err(LogError::Trimmed { oldest: named }) if named == oldest), "{read:?}");
    assert_eq!(contents(&reader).expect("readable"), contents(&log).expect("readable"));
}

#[test]
fn a_torn_end_is_left_out_and_left_alone() {
    let prepared = prepared(3);
    let whole = length(&prepared.segment);
    for cut in prepared.begins[2]..whole {
        let (directory, segment) = prepared.damaged_copy();
        truncate(&segment, cut);
        let reader = ReadOnlyLog::open(directory.path()).expect("a torn log");
        assert_eq!(contents(&reader).expect("readable"), prepared.after[1]);
        assert_eq!(length(&segment), cut, "a reader changes nothing");
        // The writer comes back, cuts it, and goes on in the same place.
        let log = open(directory.path());
        append(&log, 2);
        assert_eq!(reader.refresh().expect("a refresh"), Lsn(6));
        assert_eq!(contents(&reader).expect("readable"), prepared.after[2]);
    }
}

#[test]
fn a_segment_whose_header_is_not_whole_is_waited_for() {
    let directory = folder();
    let log = open_tiny(directory.path());
    for number in 0..9 {
        append(&log, number);
    }
    log.close().expect("the log closes");
    let last = files(directory.path(), "segment").pop().expect("a segment");
    truncate(&last, 17);
    let reader = ReadOnlyLog::open(directory.path()).expect("a log");
    let before = reader.end_offset(GOALS);
    assert_eq!(reader.refresh().expect("a refresh"), reader.end_lsn());
    let log = open_tiny(directory.path());
    append(&log, before);
    reader.refresh().expect("a refresh");
    assert_eq!(contents(&reader).expect("readable"), contents(&log).expect("readable"));
}

#[test]
fn damage_is_named_to_a_reader_too() {
    let prepared = prepared(4);
    let (directory, segment) = prepared.damaged_copy();
    flip(&segment, prepared.begins[1] + 60, 0x01);
    let opened = ReadOnlyLog::open(directory.path());
    let Err(LogError::Corrupt { offset, .. }) = opened else { panic!("{opened:?}") };
    assert_eq!(offset, prepared.begins[1]);
}

#[test]
fn a_directory_without_a_log_is_empty_and_none_at_all_is_an_error() {
    let directory = folder();
    let reader = ReadOnlyLog::open(directory.path()).expect("an empty directory");
    assert_eq!((reader.end_lsn(), reader.partitions()), (Lsn(0), vec![]));
    append(&open(directory.path()), 0);
    assert_eq!(reader.refresh().expect("a refresh"), Lsn(2));
    let missing = ReadOnlyLog::open(directory.path().join("missing"));
    assert!(matches!(missing, Err(LogError::Io { .. })), "{missing:?}");
}

#[test]
fn a_waiting_reader_sees_what_another_writes() {
    let directory = folder();
    let log = open(directory.path());
    let reader = ReadOnlyLog::open(directory.path()).expect("a log");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| reader.wait_past(Lsn(0), Duration::from_mins(1)));
        append(&log, 0);
        assert_eq!(waiting.join().expect("a reader"), Lsn(2));
    });
    assert_eq!(reader.wait_past(Lsn(2), Duration::ZERO), Lsn(2));
}

#[test]
fn readers_beside_a_busy_writer_see_only_whole_frames() {
    let directory = folder();
    let log = open_tiny(directory.path());
    std::thread::scope(|scope| {
        let log = &log;
        scope.spawn(move || {
            for number in 0..200 {
                append(log, number);
            }
        });
        let path = directory.path();
        scope.spawn(move || {
            let reader = ReadOnlyLog::open(path).expect("a log");
            while reader.end_lsn() < Lsn(400) {
                let end = reader.refresh().expect("a refresh");
                let found = contents(&reader).expect("readable");
                assert_eq!(found.records.len() as u64, end.0);
                assert_eq!(found.ends.0, found.ends.1, "both topics of an append show together");
            }
        });
    });
}
