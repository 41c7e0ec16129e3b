//! What the checks share.

use std::ops::ControlFlow;
use std::sync::Arc;

use kintsugi_events::{Approval, Envelope, Event, Payload, Subject, Topic};
use kintsugi_types::{AgentId, EventId, GoalId, IdSource as _, SeededIds, TenantId, Timestamp};

use crate::error::LogError;
use crate::log::{Append, Committed, EventLog, Lsn, Position};
use crate::record::{NewRecord, Record, TopicPartition};

/// More than any check reads at once.
pub(super) const MANY: usize = 1_000_000;

/// Unwraps with the promise that was broken.
#[track_caller]
pub(super) fn good<T>(outcome: Result<T, LogError>) -> T {
    match outcome {
        Ok(value) => value,
        Err(error) => panic!("the log refused: {error}"),
    }
}

pub(super) const fn at(topic: Topic, partition: u32) -> TopicPartition {
    TopicPartition::new(topic, partition)
}

pub(super) fn bare(of: TopicPartition, value: &str) -> NewRecord {
    NewRecord::bare(of.topic, of.partition, "key", value.as_bytes().to_vec())
}

pub(super) fn records(records: Vec<NewRecord>) -> Append {
    Append { records, positions: Vec::new() }
}

pub(super) fn one(of: TopicPartition, value: &str) -> Append {
    records(vec![bare(of, value)])
}

pub(super) fn position(consumer: &str, of: TopicPartition, next_offset: u64) -> Position {
    Position { consumer: consumer.into(), topic: of.topic, partition: of.partition, next_offset }
}

#[track_caller]
pub(super) fn append(log: &dyn EventLog, append: &Append) -> Committed {
    good(log.append_wait(append))
}

#[track_caller]
pub(super) fn read_all(log: &dyn EventLog, of: TopicPartition) -> Vec<Record> {
    good(log.read(of, log.start_offset(of), MANY, usize::MAX))
}

/// Panics where numbers do not grow, or, where they have to be dense, do not count from 0.
#[track_caller]
pub(super) fn assert_grows(numbers: &[u64], is_dense: bool) {
    assert!(numbers.windows(2).all(|pair| matches!(pair, [one, next] if one < next)), "{numbers:?}");
    if is_dense {
        assert!(numbers.iter().copied().eq(0..numbers.len() as u64), "{numbers:?}");
    }
}

pub(super) fn text(record: &Record) -> String {
    String::from_utf8_lossy(&record.value).into_owned()
}

#[track_caller]
pub(super) fn texts(log: &dyn EventLog, of: TopicPartition) -> Vec<String> {
    read_all(log, of).iter().map(text).collect()
}

#[track_caller]
pub(super) fn replay_all(log: &dyn EventLog, from: Lsn) -> Vec<Record> {
    let mut found = Vec::new();
    let end = good(log.replay(from, &mut |record| {
        found.push(record);
        ControlFlow::Continue(())
    }));
    assert_eq!(end, log.end_lsn(), "replay returns where to go on from");
    found
}

/// An event with every optional attribute set or none, by `seed`.
pub(super) fn event(seed: u64) -> Event {
    let mut ids = SeededIds::new(seed);
    let name = |text: String| AgentId::new(text).unwrap_or_else(|error| panic!("{error}"));
    let agent = name(format!("support-{seed}"));
    let subject = match seed % 3 {
        0 => Subject::Agent(agent.clone()),
        1 => Subject::Engine,
        _ => "tool:refund_order".parse().unwrap_or(Subject::Engine),
    };
    let time = Timestamp::from_timestamp_micros(1_767_225_600_123_456 + seed.cast_signed());
    let source: Arc<str> = "/kintsugi/node-1/agents".into();
    let mut envelope = Envelope::new(&mut ids, source, subject, time.unwrap_or_default());
    if seed.is_multiple_of(2) {
        envelope.sequence = Some(seed * 1000);
        envelope.goal = GoalId::new(format!("goal-{seed}")).ok();
        envelope.causation = Some(EventId::from_uuid(ids.next_uuid()));
        envelope.tenant = TenantId::new("acme").unwrap_or_default();
    }
    let approval = Approval {
        agent,
        goal: envelope.goal.clone(),
        effect: None,
        question: format!("refund order {seed}? ä¢"),
        decision: None,
        decided_by: None,
    };
    Event { envelope, payload: Payload::Approval(Box::new(approval)) }
}
