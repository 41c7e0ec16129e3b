//! What happens when the device, the caller or another process does not play along.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use proptest::prelude::*;

use super::support::{
    AGENTS, GOALS, TINY, append, contents, files, folder, open, options, read_at, record, stored, try_open,
    write_at,
};
use crate::embedded::{Boundary, EmbeddedLog, Options, Probe};
use crate::error::LogError;
use crate::log::{Append, Committed, EventLog, LogReader as _, Lsn};

fn goal(value: &str) -> Append {
    Append { records: vec![record(GOALS, value)], positions: vec![] }
}

/// Fails at `boundary` from its `nth` time on, counted from 1.
fn failing(boundary: Boundary, nth: usize) -> Probe {
    let passed = AtomicUsize::new(0);
    Arc::new(move |at| {
        if at == boundary && passed.fetch_add(1, Ordering::SeqCst) + 1 >= nth {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        Ok(())
    })
}

#[test]
fn a_second_process_is_refused_with_the_first_ones_id() {
    let directory = folder();
    let log = open(directory.path());
    let refused = try_open(directory.path(), options());
    let Err(LogError::Locked { pid, path }) = &refused else { panic!("{refused:?}") };
    assert_eq!((*pid, path.as_path()), (Some(std::process::id()), directory.path()));
    drop(log);
    drop(open(directory.path()));
}

#[test]
fn a_failed_write_or_sync_ends_all_appending_and_loses_nothing_acknowledged() {
    for boundary in [Boundary::BeforeWrite, Boundary::MidWrite, Boundary::AfterWrite, Boundary::AfterSync] {
        let directory = folder();
        let probe = Some(failing(boundary, 3));
        let log = try_open(directory.path(), Options { probe, ..options() }).expect("the log opens");
        append(&log, 0);
        append(&log, 1);
        let acknowledged = contents(&log).expect("readable");
        let failed = log.append_wait(&goal("lost"));
        let Err(LogError::Io { what, source, .. }) = &failed else { panic!("{boundary:?}: {failed:?}") };
        let sync_failed = matches!(boundary, Boundary::AfterWrite | Boundary::AfterSync);
        assert_eq!(*what, if sync_failed { "sync" } else { "write" });
        assert_eq!(source.kind(), io::ErrorKind::StorageFull);
        for _ in 0..3 {
            let later = log.append_wait(&goal("later"));
            assert!(matches!(later, Err(LogError::Poisoned { .. })), "{boundary:?}: {later:?}");
        }
        assert_eq!(contents(&log).expect("readable"), acknowledged, "what was not acknowledged is not shown");
        assert!(matches!(log.close(), Err(LogError::Poisoned { .. })));

        let log = open(directory.path());
        let found = contents(&log).expect("readable");
        assert_eq!(found.records[..4], acknowledged.records);
        assert_eq!(found.records.len(), if sync_failed { 5 } else { 4 });
        assert_eq!(log.recovery().torn.is_some(), boundary == Boundary::MidWrite);
    }
}

#[test]
fn every_append_that_waits_is_told_of_the_failure() {
    let directory = folder();
    let held = Held::open(directory.path(), |options| {
        let fail = failing(Boundary::AfterWrite, 1);
        options.probe = options
            .probe
            .take()
            .map(|hold| -> Probe { Arc::new(move |boundary| hold(boundary).and_then(|()| fail(boundary))) });
    });
    let first = held.hold();
    let later: Vec<_> = (0..5).map(|number| held.queue(&goal(&number.to_string()))).collect();
    held.release();
    assert!(matches!(first.recv().expect("an answer"), Err(LogError::Io { .. })));
    for outcome in later {
        assert!(matches!(outcome.recv().expect("an answer"), Err(LogError::Poisoned { .. })));
    }
    assert_eq!(held.log.wait_past(Lsn(0), std::time::Duration::from_mins(1)), Lsn(0), "watchers are let go");
}

/// A log whose writer stands still before its first frame until it is released.
struct Held {
    log: EmbeddedLog,
    release: Mutex<Option<mpsc::Sender<()>>>,
    reached: mpsc::Receiver<()>,
}

impl Held {
    fn open(directory: &std::path::Path, change: impl FnOnce(&mut Options)) -> Self {
        let (release, released) = mpsc::channel();
        let (reach, reached) = mpsc::channel();
        let gate = Mutex::new((reach, released));
        let probe: Probe = Arc::new(move |boundary| {
            if boundary == Boundary::BeforeWrite {
                let gate = gate.lock().unwrap_or_else(PoisonError::into_inner);
                let _ = gate.0.send(());
                // An error says that the gate stays open.
                let _ = gate.1.recv();
            }
            Ok(())
        });
        let mut options = Options { probe: Some(probe), ..options() };
        change(&mut options);
        let log = try_open(directory, options).expect("the log opens");
        Self { log, release: Mutex::new(Some(release)), reached }
    }

    fn queue(&self, append: &Append) -> mpsc::Receiver<Result<Committed, LogError>> {
        let (told, outcome) = mpsc::channel();
        self.log.append(append, Box::new(move |result| drop(told.send(result)))).expect("room in the queue");
        outcome
    }

    /// Queues one append and waits until the writer stands before its frame.
    fn hold(&self) -> mpsc::Receiver<Result<Committed, LogError>> {
        let first = self.queue(&goal("first"));
        self.reached.recv().expect("the writer comes to the gate");
        first
    }

    fn release(&self) {
        self.release.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

#[test]
fn a_full_queue_refuses_and_takes_again_later() {
    let directory = folder();
    let held = Held::open(directory.path(), |options| options.queue_appends_max = 2);
    let first = held.hold();
    let (second, third) = (held.queue(&goal("second")), held.queue(&goal("third")));
    let refused = held.log.append(&goal("fourth"), Box::new(|_| panic!("a refused append is never told")));
    assert!(matches!(refused, Err(LogError::Full { appends: 2, .. })), "{refused:?}");
    assert!(refused.is_err_and(|error| error.is_retryable()));
    held.release();
    for outcome in [first, second, third] {
        assert!(outcome.recv().expect("an answer").is_ok());
    }
    assert_eq!(held.log.append_wait(&goal("fourth")).expect("durable").offsets, [3]);
}

#[test]
fn a_queue_is_full_by_bytes_too_but_takes_one_append_of_any_size() {
    let directory = folder();
    let held =
        Held::open(directory.path(), |options| options.queue_bytes_max = kintsugi_types::ByteCount(1000));
    let first = held.hold();
    let big = held.queue(&goal(&"x".repeat(5000)));
    let refused = held.log.append(&goal("small"), Box::new(|_| {}));
    assert!(matches!(refused, Err(LogError::Full { appends: 1, .. })), "{refused:?}");
    held.release();
    assert!(first.recv().expect("an answer").is_ok() && big.recv().expect("an answer").is_ok());
}

#[test]
fn what_waits_during_a_sync_becomes_one_frame_and_no_append_is_split() {
    let directory = folder();
    let held = Held::open(directory.path(), |options| options.group_records_max = 10);
    let three = |name: &str| Append {
        records: (0..3).map(|part| record(AGENTS, &format!("{name}.{part}"))).collect(),
        positions: vec![],
    };
    let first = held.hold();
    let mut waiting: Vec<_> = (0..6).map(|number| held.queue(&three(&number.to_string()))).collect();
    let many = Append {
        records: (0..25).map(|part| record(AGENTS, &part.to_string())).collect(),
        positions: vec![],
    };
    waiting.push(held.queue(&many));
    held.release();
    let frame = |outcome: mpsc::Receiver<Result<Committed, LogError>>| {
        outcome.recv().expect("an answer").expect("durable").frame.0
    };
    assert_eq!(frame(first), 1);
    // Three appends of three make nine records; a fourth would be more than ten. The large one goes alone.
    assert_eq!(waiting.into_iter().map(frame).collect::<Vec<_>>(), [2, 2, 2, 3, 3, 3, 4]);
}

#[test]
fn every_boundary_is_passed_in_order_for_each_frame() {
    let directory = folder();
    let passed = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&passed);
    let probe: Probe = Arc::new(move |boundary| {
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(boundary);
        Ok(())
    });
    let log = try_open(directory.path(), Options { probe: Some(probe), ..options() }).expect("the log opens");
    append(&log, 0);
    append(&log, 1);
    log.close().expect("the log closes");
    let passed = passed.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!(*passed, [Boundary::ALL, Boundary::ALL].concat());
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let directory = folder();
    let file = directory.path().join("file");
    std::fs::write(&file, "no directory").expect("a file");
    let Err(error) = try_open(&file.join("log"), options()) else { panic!("opened below a file") };
    assert!(matches!(&error, LogError::Io { path, .. } if *path == file), "{error}");
    assert!(error.to_string().contains(&file.display().to_string()) && !error.is_retryable());
}

#[test]
fn a_segment_of_a_later_format_is_refused_by_name() {
    let directory = folder();
    append(&open(directory.path()), 0);
    let segment = files(directory.path(), "segment").remove(0);
    let mut header = read_at(&segment, 0, 36);
    header[8..12].copy_from_slice(&99u32.to_le_bytes());
    let crc = crc32fast::hash(&header).to_le_bytes();
    header.extend(crc);
    write_at(&segment, 0, &header);
    let Err(error) = try_open(directory.path(), options()) else { panic!("a later format was read") };
    assert!(matches!(error, LogError::Version { found: 99, supported: 1, .. }), "{error}");
}

#[test]
fn the_last_handle_may_be_dropped_by_an_appender() {
    let directory = folder();
    let log = Arc::new(open(directory.path()));
    let (told, outcome) = mpsc::channel();
    let last = Arc::clone(&log);
    log.append(
        &goal("last"),
        Box::new(move |result| {
            drop(last);
            let _ = told.send(result.is_ok());
        }),
    )
    .expect("room in the queue");
    drop(log);
    assert_eq!(outcome.recv(), Ok(true));
}

#[test]
fn an_append_of_too_many_positions_is_refused() {
    let directory = folder();
    let append_bytes_max = kintsugi_types::ByteCount(1000);
    let log = try_open(directory.path(), Options { append_bytes_max, ..options() }).expect("the log opens");
    let positions = (0..50).map(|number| stored(&format!("consumer {number}"), GOALS, number)).collect();
    let refused = log.append_wait(&Append { records: vec![], positions });
    assert!(matches!(refused, Err(LogError::TooLarge { bytes_max: 1000, .. })), "{refused:?}");
    append(&log, 0);
}

#[test]
fn a_log_is_begun_in_a_directory_whose_parents_are_missing() {
    let directory = folder();
    let below = directory.path().join("a").join("b").join("log");
    append(&open(&below), 0);
    assert_eq!(open(&below).end_lsn(), Lsn(2));
}

/// A life of the process: so many appends, and the device fails at the `nth` passing of a boundary.
type Life = (Boundary, usize, u64);

fn lives() -> impl Strategy<Value = Vec<Life>> {
    let boundary = proptest::sample::select(&Boundary::ALL[..4]);
    proptest::collection::vec((boundary, 1usize..8, 0u64..8), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_fails_whenever_what_was_acknowledged_is_there(lives in lives(), is_tiny in any::<bool>()) {
        let directory = folder();
        let segment_bytes = if is_tiny { TINY } else { options().segment_bytes };
        let mut acknowledged: Vec<String> = Vec::new();
        let mut number = 0;
        for (boundary, nth, appends) in lives {
            let probe = Some(failing(boundary, nth));
            let log = try_open(directory.path(), Options { segment_bytes, probe, ..options() }).expect("opens");
            let mut unknown = None;
            for _ in 0..appends {
                number += 1;
                let text = format!("goal {number}");
                let append = Append {
                    records: vec![record(GOALS, &text), record(AGENTS, &text)],
                    positions: vec![stored("dispatcher", GOALS, number)],
                };
                match log.append_wait(&append) {
                    Ok(_) => acknowledged.push(text),
                    Err(LogError::Io { .. }) => unknown = Some(text),
                    Err(_) => {}
                }
            }
            drop(log);
            let log = open(directory.path());
            let texts = |of| -> Vec<String> {
                let read = log.read(of, 0, 1000, usize::MAX).expect("readable");
                read.iter().map(|record| String::from_utf8_lossy(&record.value).into_owned()).collect()
            };
            let found = texts(GOALS);
            prop_assert_eq!(&found, &texts(AGENTS));
            if found.len() > acknowledged.len() {
                // Written, and never told so: it may be there, and then it stays.
                acknowledged.extend(unknown);
            }
            prop_assert_eq!(&found, &acknowledged);
            let last = found.last().and_then(|text| text.strip_prefix("goal ")?.parse().ok());
            prop_assert_eq!(log.position("dispatcher", GOALS), last);
        }
    }
}
