//! Promises about what is there after a restart.

use kintsugi_events::Topic;

use super::Harness;
use super::support::{
    append, assert_grows, at, bare, event, good, one, position, read_all, records, replay_all, texts,
};
use crate::log::{Append, Lsn};
use crate::record::NewRecord;

pub(super) fn everything_acknowledged_is_there_after_reopening(harness: &mut dyn Harness) {
    let approvals = at(Topic::Approvals, 2);
    let before = {
        let log = harness.log();
        for seed in 0..60 {
            append(&*log, &records(vec![good(NewRecord::from_event(&event(seed), 2))]));
        }
        (read_all(&*log, approvals), replay_all(&*log, Lsn(0)))
    };
    harness.crash();
    let log = harness.log();
    assert_eq!((read_all(&*log, approvals), replay_all(&*log, Lsn(0))), before);
    drop(log);
    harness.reopen();
    assert_eq!(read_all(&*harness.log(), approvals), before.0);
}

pub(super) fn offsets_go_on_after_reopening(harness: &mut dyn Harness) {
    let goals = at(Topic::Goals, 0);
    let (mut last_frame, mut offsets, mut lsns) = (None, Vec::new(), Vec::new());
    for round in 0..5 {
        let log = harness.log();
        let committed = append(&*log, &records(vec![bare(goals, "a"), bare(goals, "b")]));
        lsns.extend([committed.first_lsn.0, committed.lsn(1).0]);
        offsets.extend(committed.offsets);
        assert!(last_frame < Some(committed.frame), "frames are never numbered twice");
        last_frame = Some(committed.frame);
        drop(log);
        if round % 2 == 0 { harness.reopen() } else { harness.crash() }
    }
    assert_grows(&offsets, harness.is_dense());
    assert_grows(&lsns, harness.is_dense());
    assert_eq!(texts(&*harness.log(), goals).len(), 10);
}

pub(super) fn records_and_positions_survive_together(harness: &mut dyn Harness) {
    let (goals, agents) = (at(Topic::Goals, 0), at(Topic::Agents, 0));
    {
        let log = harness.log();
        append(&*log, &one(goals, "goal"));
        append(
            &*log,
            &Append {
                records: vec![bare(agents, "accepted")],
                positions: vec![position("dispatcher", goals, 1), position("monitor", agents, 1)],
            },
        );
        assert_eq!(log.position("dispatcher", goals), Some(1));
    }
    harness.crash();
    let log = harness.log();
    assert_eq!(log.position("dispatcher", goals), Some(1));
    assert_eq!(log.position("monitor", agents), Some(1));
    assert_eq!((log.position("monitor", goals), log.position("nobody", goals)), (None, None));
    assert_eq!(texts(&*log, agents), ["accepted"]);
    let mut positions = log.positions();
    positions.sort_by(|one, other| one.consumer.cmp(&other.consumer));
    assert_eq!(positions, [position("dispatcher", goals, 1), position("monitor", agents, 1)]);
}

pub(super) fn the_last_position_stored_holds(harness: &mut dyn Harness) {
    let goals = at(Topic::Goals, 4);
    for next_offset in [3, 9, 5] {
        let alone = Append { records: vec![], positions: vec![position("stage", goals, next_offset)] };
        let committed = append(&*harness.log(), &alone);
        assert_eq!((committed.offsets, committed.first_lsn), (vec![], harness.log().end_lsn()));
    }
    let twice =
        Append { records: vec![], positions: vec![position("stage", goals, 1), position("stage", goals, 2)] };
    append(&*harness.log(), &twice);
    assert_eq!(harness.log().position("stage", goals), Some(2));
    harness.reopen();
    assert_eq!(harness.log().position("stage", goals), Some(2));
    assert_eq!(harness.log().end_offset(goals), 0, "a position makes no record");
}

pub(super) fn a_log_that_was_never_written_reopens_empty(harness: &mut dyn Harness) {
    harness.reopen();
    let log = harness.log();
    assert_eq!((log.start_lsn(), log.end_lsn()), (Lsn(0), Lsn(0)));
    assert_eq!((log.partitions(), log.positions()), (vec![], vec![]));
    assert_eq!(replay_all(&*log, Lsn(0)), []);
}
