//! What a crash may leave behind is mended, and nothing else is.

use super::support::{
    GOALS, append, contents, copy, files, flip, folder, length, open, open_tiny, options, prepared, read_at,
    record, truncate, try_open, write_at,
};
use crate::embedded::{Options, VerifyOnOpen, verify};
use crate::error::LogError;
use crate::log::{Append, EventLog as _, LogReader as _};

#[test]
fn a_log_cut_at_any_byte_of_its_last_frame_holds_what_was_acknowledged_before() {
    let prepared = prepared(4);
    let begin = prepared.begins[3];
    for cut in begin..length(&prepared.segment) {
        let (directory, segment) = prepared.damaged_copy();
        truncate(&segment, cut);
        let log = open(directory.path());
        assert_eq!(contents(&log).expect("readable"), prepared.after[2], "cut at byte {cut}");
        let torn = log.recovery().torn.as_ref().map(|torn| (torn.offset, torn.bytes));
        assert_eq!(torn, (cut > begin).then_some((begin, cut - begin)));
        assert_eq!(length(&segment), begin);

        append(&log, 3);
        let again = contents(&log).expect("readable");
        log.close().expect("the log closes");
        let log = open(directory.path());
        assert_eq!(contents(&log).expect("readable"), again);
        assert_eq!(again, prepared.after[3], "the lost append made again leads to the same");
        assert_eq!(log.recovery().torn, None);
    }
}

#[test]
fn any_flipped_byte_is_cut_in_the_last_frame_and_named_everywhere_else() {
    let prepared = prepared(4);
    let (directory, segment) = prepared.damaged_copy();
    let whole = std::fs::read(&segment).expect("the segment");
    let last = prepared.begins.len() - 1;
    for at in 0..length(&segment) {
        for mask in [0x01, 0xff] {
            std::fs::write(&segment, &whole).expect("a fresh segment");
            flip(&segment, at, mask);
            let opened = try_open(directory.path(), options());
            match prepared.frame_of(at) {
                Some(frame) if frame == last => {
                    let log = opened.expect("a torn frame is cut");
                    assert_eq!(contents(&log).expect("readable"), prepared.after[last - 1], "byte {at}");
                    assert_eq!(
                        log.recovery().torn.as_ref().map(|torn| torn.offset),
                        Some(prepared.begins[last])
                    );
                }
                frame => {
                    let expected = frame.map_or(0, |frame| prepared.begins[frame]);
                    let Err(LogError::Corrupt { segment: named, offset, reason }) = opened else {
                        panic!("byte {at} was flipped and the log opened: {opened:?}");
                    };
                    assert_eq!((named, offset), (segment.clone(), expected), "byte {at}: {reason}");
                    let damaged = std::fs::read(&segment).expect("the segment");
                    assert_eq!(damaged.len(), whole.len(), "corruption is never cut");
                }
            }
        }
    }
}

#[test]
fn a_damaged_last_but_one_frame_is_named_even_if_the_last_one_is_damaged_too() {
    let prepared = prepared(4);
    let (directory, segment) = prepared.damaged_copy();
    // The contents of one, the header of the other.
    flip(&segment, prepared.begins[3] - 1, 0x10);
    flip(&segment, prepared.begins[3] + 5, 0x10);
    let opened = try_open(directory.path(), options());
    let Err(LogError::Corrupt { offset, .. }) = opened else { panic!("opened: {opened:?}") };
    assert_eq!(offset, prepared.begins[2]);
}

#[test]
fn a_wrong_length_does_not_hide_the_frames_behind_it() {
    let prepared = prepared(4);
    for claimed in [0u32, 1, 100, u32::MAX] {
        let (directory, segment) = prepared.damaged_copy();
        write_at(&segment, prepared.begins[1] + 8, &claimed.to_le_bytes());
        let opened = try_open(directory.path(), options());
        let Err(LogError::Corrupt { offset, .. }) = opened else { panic!("opened: {opened:?}") };
        assert_eq!(offset, prepared.begins[1]);
    }
}

#[test]
fn noise_behind_the_last_frame_is_cut() {
    let prepared = prepared(3);
    for noise in [vec![0; 300], vec![0xff; 20], b"\xf7Kz\x9c and then nothing of a frame".repeat(5)] {
        let (directory, segment) = prepared.damaged_copy();
        let end = length(&segment);
        write_at(&segment, end, &noise);
        let log = open(directory.path());
        assert_eq!(contents(&log).expect("readable"), prepared.after[2]);
        assert_eq!(log.recovery().torn.as_ref().map(|torn| torn.bytes), Some(noise.len() as u64));
        assert_eq!(length(&segment), end);
    }
}

#[test]
fn a_log_kept_as_a_value_is_not_taken_for_frames_that_follow() {
    let directory = folder();
    let log = open(directory.path());
    for number in 0..3 {
        append(&log, number);
    }
    let segment = files(directory.path(), "segment").remove(0);
    let (begin, before) = (length(&segment), contents(&log).expect("readable"));
    // A frame of this very log, and one of another that bears a later number.
    let mut value = std::fs::read(&segment).expect("the segment");
    let other = prepared(9);
    value.extend(std::fs::read(&other.segment).expect("the other segment"));
    let mut holder = record(GOALS, "");
    holder.value = value;
    log.append_wait(&Append { records: vec![holder], positions: vec![] }).expect("durable");
    log.close().expect("the log closes");
    // The header of the frame that holds them is damaged, so that its length says nothing.
    flip(&segment, begin + 20, 0x01);
    let log = open(directory.path());
    assert_eq!(contents(&log).expect("readable"), before);
}

#[test]
fn any_flipped_byte_of_a_sealed_segment_is_named_by_a_full_open_and_by_verify() {
    let directory = folder();
    let log = open_tiny(directory.path());
    for number in 0..6 {
        append(&log, number);
    }
    log.close().expect("the log closes");
    let whole = directory.path();
    let sealed = files(whole, "segment").remove(1);
    let name = sealed.file_name().expect("a name");
    let damaged = copy(whole);
    let segment = damaged.path().join(name);
    let bytes = std::fs::read(&sealed).expect("the segment");
    let mut offsets_named = Vec::new();
    for at in 0..bytes.len() as u64 {
        std::fs::write(&segment, &bytes).expect("a fresh segment");
        flip(&segment, at, 0x04);
        let opened = try_open(damaged.path(), Options { verify: VerifyOnOpen::All, ..options() });
        let Err(LogError::Corrupt { segment: named, offset, .. }) = opened else {
            panic!("byte {at} was flipped and the log opened: {opened:?}");
        };
        assert_eq!(named, segment);
        assert!(offset <= at);
        let found = verify(damaged.path()).expect("a readable directory");
        assert!(found.damages.iter().any(|damage| (&damage.segment, damage.offset) == (&named, offset)));
        offsets_named.push(offset);

        // A quick open reads no sealed contents; reading them finds the damage.
        match try_open(damaged.path(), options()) {
            Err(LogError::Corrupt { .. }) => assert_eq!(offset, 0, "only headers are read at once"),
            Err(other) => panic!("byte {at}: {other}"),
            Ok(log) => {
                let read = contents(&log).map(|_| ()).and(log.read(GOALS, 0, 100, 1000).map(|_| ()));
                assert!(matches!(read, Err(LogError::Corrupt { .. })), "byte {at}: {read:?}");
                append(&log, 6);
            }
        }
        std::fs::remove_dir_all(damaged.path()).expect("an old copy");
        std::fs::create_dir(damaged.path()).expect("a new copy");
        for path in files(whole, "segment").into_iter().chain(files(whole, "index")) {
            std::fs::copy(&path, damaged.path().join(path.file_name().expect("a name"))).expect("a copy");
        }
    }
    offsets_named.dedup();
    assert_eq!(offsets_named.first(), Some(&0), "the header, then the frames");
    assert!(offsets_named.len() >= 2);
}

#[test]
fn verify_names_every_damaged_place() {
    let prepared = prepared(9);
    let (directory, segment) = prepared.damaged_copy();
    let intact = verify(directory.path()).expect("a readable directory");
    assert_eq!((intact.frames, intact.records, intact.is_intact()), (9, 18, true));
    // A header, contents, and the header of the one that follows.
    for at in [prepared.begins[1] + 17, prepared.begins[4] + 80, prepared.begins[5] + 1] {
        flip(&segment, at, 0x20);
    }
    let found = verify(directory.path()).expect("a readable directory");
    let offsets: Vec<_> = found.damages.iter().map(|damage| damage.offset).collect();
    assert_eq!(offsets, [prepared.begins[1], prepared.begins[4], prepared.begins[5]]);
    assert_eq!((found.frames, found.torn), (6, None));
    // A torn end is no damage.
    truncate(&segment, prepared.begins[8] + 30);
    let found = verify(directory.path()).expect("a readable directory");
    assert_eq!(found.torn.map(|torn| torn.bytes), Some(30));
    assert_eq!(found.damages.len(), 3);
}

#[test]
fn a_frame_in_a_place_of_another_is_named() {
    let prepared = prepared(4);
    let (directory, segment) = prepared.damaged_copy();
    // The third frame once more in place of the fourth: every checksum is right.
    let (begin, next) = (prepared.begins[2], prepared.begins[3]);
    let third = read_at(&segment, begin, usize::try_from(next - begin).expect("small"));
    truncate(&segment, next);
    write_at(&segment, next, &third);
    let opened = try_open(directory.path(), options());
    let Err(LogError::Corrupt { offset, .. }) = opened else { panic!("opened: {opened:?}") };
    assert_eq!(offset, next);
}
