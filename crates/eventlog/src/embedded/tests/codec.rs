//! Whatever is written comes back, and whatever was not written is refused without a panic.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use kintsugi_events::{Envelope, Subject, Topic};
use kintsugi_types::{EventId, GoalId, TenantId, Timestamp};
use proptest::prelude::*;
use uuid::Uuid;

use crate::embedded::codec::{BodyReader, encode_record};
use crate::embedded::frame::{FrameHeader, FrameStamp, HEADER_BYTES, Run, Tables, build_frame};
use crate::embedded::reader::each_record;
use crate::embedded::wire::Cursor;
use crate::log::Position;
use crate::record::{NewRecord, TopicPartition};

const SALT: u32 = 0x5eed;

fn name() -> impl Strategy<Value = String> {
    "[a-zé:./-]{1,40}"
}

fn subject() -> impl Strategy<Value = Subject> {
    prop_oneof![
        name().prop_map(|name| Subject::Agent(name.parse().expect("a name"))),
        name().prop_map(|name| Subject::Tool(name.parse().expect("a name"))),
        name().prop_map(|name| Subject::Model(name.parse().expect("a name"))),
        Just(Subject::Engine),
    ]
}

fn event_id() -> impl Strategy<Value = EventId> {
    any::<u128>().prop_map(|bits| EventId::from_uuid(Uuid::from_u128(bits)))
}

fn envelope() -> impl Strategy<Value = Envelope> {
    let time = (-10_000_000_000i64..10_000_000_000, 0u32..1_000_000_000)
        .prop_map(|(seconds, nanos)| Timestamp::from_timestamp(seconds, nanos).expect("a time"));
    let tenant =
        prop_oneof![Just(TenantId::default()), name().prop_map(|name| name.parse().expect("a name"))];
    (
        (event_id(), ".{0,30}", subject(), time),
        (
            any::<Option<u64>>(),
            proptest::option::of(name().prop_map(|name| GoalId::new(name).expect("a name"))),
            proptest::option::of(event_id()),
            tenant,
        ),
    )
        .prop_map(|((id, source, subject, time), (sequence, goal, causation, tenant))| Envelope {
            id,
            source: source.into(),
            subject,
            time,
            sequence,
            goal,
            causation,
            tenant,
        })
}

fn event_type() -> impl Strategy<Value = Cow<'static, str>> {
    prop_oneof![
        Just(Cow::Borrowed("dev.kintsugi.thought.recorded.v1")),
        Just(Cow::Borrowed("dev.kintsugi..v1")),
        Just(Cow::Borrowed("dev.kintsugi.v1")),
        ".{0,60}".prop_map(Cow::Owned),
    ]
}

fn new_record() -> impl Strategy<Value = NewRecord> {
    let topic = proptest::sample::select(Topic::ALL);
    let value = proptest::collection::vec(any::<u8>(), 0..300);
    (topic, any::<u32>(), proptest::option::of(envelope()), event_type(), ".{0,20}", any::<bool>(), value)
        .prop_map(|(topic, partition, envelope, event_type, key, key_is_subject, value)| {
            let subject = envelope.as_ref().filter(|_| key_is_subject).map(|it| it.subject.to_string());
            NewRecord { topic, partition, key: subject.unwrap_or(key), envelope, event_type, value }
        })
}

fn position() -> impl Strategy<Value = Position> {
    (".{0,20}", proptest::sample::select(Topic::ALL), any::<u32>(), any::<u64>()).prop_map(
        |(consumer, topic, partition, next_offset)| Position {
            consumer: Arc::from(consumer),
            topic,
            partition,
            next_offset,
        },
    )
}

/// The runs of `records`, each partition beginning at an offset of its own.
fn runs_of(records: &[NewRecord]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for record in records {
        let at = record.topic_partition();
        match runs.iter_mut().find(|run| run.at == at) {
            Some(run) => run.count += 1,
            None => runs.push(Run { at, first_offset: u64::from(at.partition) * 7, count: 1 }),
        }
    }
    runs.push(Run { at: TopicPartition::new(Topic::Goals, u32::MAX), first_offset: u64::MAX, count: 0 });
    runs
}

fn frame_of(records: &[NewRecord], positions: &[Position]) -> (FrameHeader, Bytes) {
    let mut encoded = Vec::new();
    for record in records {
        encode_record(&mut encoded, record).expect("a small record");
    }
    let stamp = FrameStamp { batch: 7, epoch: 3, first_lsn: 1 << 40, time_ms: -5 };
    let mut frame = Vec::new();
    let pieces = std::iter::once(encoded.as_slice());
    let header =
        build_frame(&mut frame, SALT, stamp, &runs_of(records), positions, pieces).expect("a small frame");
    (header, frame.into())
}

proptest! {
    #[test]
    fn a_frame_comes_back_as_it_was_built(
        records in proptest::collection::vec(new_record(), 0..12),
        positions in proptest::collection::vec(position(), 0..5),
    ) {
        let (built, frame) = frame_of(&records, &positions);
        let header = FrameHeader::decode(&frame, SALT).expect("a header");
        prop_assert_eq!(header, built);
        prop_assert_eq!(FrameHeader::decode(&frame, SALT + 1), None);
        let payload = frame.slice(HEADER_BYTES..);
        prop_assert!(header.payload_is_intact(&payload, SALT));
        let tables = Tables::decode(&header, &mut Cursor::new(&payload)).expect("tables");
        prop_assert_eq!(&tables.positions, &positions);
        prop_assert_eq!(tables.runs, runs_of(&records));

        let (mut bodies, mut found) = (BodyReader::default(), Vec::new());
        each_record(&header, &payload, |place| {
            found.push(place.record(&header, &payload, &mut bodies)?);
            Ok(ControlFlow::Continue(()))
        })
        .expect("records");
        prop_assert_eq!(found.len(), records.len());
        let mut next: Vec<Run> = runs_of(&records);
        for (lsn, (found, new)) in (1u64 << 40..).zip(found.iter().zip(&records)) {
            let run = next.iter_mut().find(|run| run.at == new.topic_partition()).expect("a run");
            prop_assert_eq!((found.lsn.0, found.offset), (lsn, run.first_offset));
            run.first_offset += 1;
            prop_assert_eq!(found.topic_partition(), new.topic_partition());
            prop_assert_eq!(&found.envelope, &new.envelope);
            prop_assert_eq!((found.event_type.as_str(), &found.key), (new.event_type.as_ref(), &new.key));
            prop_assert_eq!(&found.value[..], &new.value[..]);
            prop_assert_eq!(found.appended_at_ms, -5);
        }
    }

    #[test]
    fn one_flipped_bit_is_always_found(
        records in proptest::collection::vec(new_record(), 1..4),
        at in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let (_, frame) = frame_of(&records, &[]);
        let mut damaged = frame.to_vec();
        *at.get_mut(&mut damaged) ^= 1 << bit;
        let is_intact = FrameHeader::decode(&damaged, SALT)
            .is_some_and(|header| header.payload_is_intact(&damaged[HEADER_BYTES..], SALT));
        prop_assert!(!is_intact);
    }

    #[test]
    fn bytes_that_no_log_wrote_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        record_count in 0u32..5,
        run_count in 0u32..5,
        position_count in 0u32..5,
    ) {
        let header = FrameHeader {
            payload_bytes: 0, payload_crc: 0, batch: 1, epoch: 0, record_count, first_lsn: 0, time_ms: 0,
            run_count, position_count,
        };
        let bytes = Bytes::from(bytes);
        let mut bodies = BodyReader::default();
        let _ = Tables::decode(&header, &mut Cursor::new(&bytes));
        let _ = bodies.read(&bytes, &bytes);
        let _ = each_record(&header, &bytes, |place| {
            let _ = place.record(&header, &bytes, &mut bodies);
            Ok(ControlFlow::Continue(()))
        });
    }
}
