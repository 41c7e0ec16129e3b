//! A frame: one group commit, written and synced as a whole.
//!
//! ```text
//! header (56 bytes): magic u32 | header crc u32 | payload length u32 | payload crc u32 | batch u64 | epoch u32
//!                    | record count u32 | first LSN u64 | time ms i64 | run count u32 | position count u32
//! payload:           runs [topic, partition, first offset, count] | positions | records
//! ```
//!
//! The header has a CRC of its own, so that where a frame ends is known even if its payload is damaged, and so that
//! a later frame is found by its header where an earlier header is damaged. Both CRCs begin with the segment's salt:
//! bytes that look like a frame inside somebody's value are never taken for one.
//!
//! The first frame of a segment carries the whole table: a run (perhaps empty) for every partition and the position
//! of every consumer. So the segments before it can be deleted.

use std::sync::Arc;

use kintsugi_events::Topic;

use super::codec::topic_partition;
use super::wire::{Cursor, Malformed, put_text, put_varint};
use crate::log::Position;
use crate::record::TopicPartition;

/// Length of a frame's header.
pub(super) const HEADER_BYTES: usize = 56;
/// The header's length as a distance in a file.
pub(super) const HEADER_BYTES_U64: u64 = HEADER_BYTES as u64;
/// No frame is longer: what is longer and unreadable at the end of a segment is not one torn frame.
pub(super) const FRAME_BYTES_MAX: u64 = 256 << 20;
/// The first bytes of a frame: not text, for most values are.
pub(super) const MAGIC: [u8; 4] = [0xF7, b'K', b'z', 0x9C];

/// What stands before a frame's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub(super) payload_bytes: u32,
    pub(super) payload_crc: u32,
    /// The frame's number, from 1 without a gap.
    pub(super) batch: u64,
    /// How often the log had been opened for writing when the frame was written.
    pub(super) epoch: u32,
    pub(super) record_count: u32,
    pub(super) first_lsn: u64,
    pub(super) time_ms: i64,
    pub(super) run_count: u32,
    pub(super) position_count: u32,
}

fn salted_crc(salt: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(bytes);
    hasher.finalize()
}

impl FrameHeader {
    pub(super) fn encode(&self, salt: u32) -> [u8; HEADER_BYTES] {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(&self.payload_bytes.to_le_bytes());
        out.extend_from_slice(&self.payload_crc.to_le_bytes());
        out.extend_from_slice(&self.batch.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.record_count.to_le_bytes());
        out.extend_from_slice(&self.first_lsn.to_le_bytes());
        out.extend_from_slice(&self.time_ms.to_le_bytes());
        out.extend_from_slice(&self.run_count.to_le_bytes());
        out.extend_from_slice(&self.position_count.to_le_bytes());
        let crc = salted_crc(salt, &out).to_le_bytes();
        let mut header = [0; HEADER_BYTES];
        for (place, byte) in header.iter_mut().zip(MAGIC.iter().chain(&crc).chain(&out)) {
            *place = *byte;
        }
        header
    }

    /// The header at the front of `bytes`, if a whole and undamaged one stands there.
    pub(super) fn decode(bytes: &[u8], salt: u32) -> Option<Self> {
        let rest = bytes.get(..HEADER_BYTES)?.strip_prefix(&MAGIC)?;
        let mut cursor = Cursor::new(rest);
        let crc = cursor.u32("").ok()?;
        if crc != salted_crc(salt, cursor.rest()) {
            return None;
        }
        Self::decode_fields(&mut cursor).ok()
    }

    fn decode_fields(cursor: &mut Cursor<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            payload_bytes: cursor.u32("payload length")?,
            payload_crc: cursor.u32("payload crc")?,
            batch: cursor.u64("batch")?,
            epoch: cursor.u32("epoch")?,
            record_count: cursor.u32("record count")?,
            first_lsn: cursor.u64("first LSN")?,
            time_ms: cursor.i64("time")?,
            run_count: cursor.u32("run count")?,
            position_count: cursor.u32("position count")?,
        })
    }

    /// Length of the whole frame.
    pub(super) fn frame_bytes(&self) -> u64 {
        HEADER_BYTES_U64 + u64::from(self.payload_bytes)
    }

    pub(super) fn next_lsn(&self) -> u64 {
        self.first_lsn + u64::from(self.record_count)
    }

    pub(super) fn payload_is_intact(&self, payload: &[u8], salt: u32) -> bool {
        payload.len() as u64 == u64::from(self.payload_bytes) && salted_crc(salt, payload) == self.payload_crc
    }
}

/// Consecutive offsets of one partition within a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) at: TopicPartition,
    pub(super) first_offset: u64,
    /// 0 in a table that only says where a partition stands.
    pub(super) count: u32,
}

/// What stands in a frame before its records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tables {
    pub(super) runs: Vec<Run>,
    pub(super) positions: Vec<Position>,
}

impl Tables {
    /// Reads the tables off the front of a payload; the records are what is left in `cursor`.
    pub(super) fn decode(header: &FrameHeader, cursor: &mut Cursor<'_>) -> Result<Self, Malformed> {
        let runs = decode_runs(header, cursor)?;
        let positions =
            (0..header.position_count).map(|_| decode_position(cursor)).collect::<Result<_, _>>()?;
        Ok(Self { runs, positions })
    }
}

/// Reads the runs off the front of a payload.
pub(super) fn decode_runs(header: &FrameHeader, cursor: &mut Cursor<'_>) -> Result<Vec<Run>, Malformed> {
    let run = |cursor: &mut Cursor<'_>| {
        Ok(Run {
            at: topic_partition(cursor)?,
            first_offset: cursor.varint("first offset")?,
            count: cursor.varint_u32("run length")?,
        })
    };
    let runs = (0..header.run_count).map(|_| run(cursor)).collect::<Result<Vec<_>, _>>()?;
    let counted: u64 = runs.iter().map(|run| u64::from(run.count)).sum();
    if counted == u64::from(header.record_count) {
        Ok(runs)
    } else {
        Err(Malformed("runs and records differ in number"))
    }
}

/// Goes over the positions, which stand between runs and records, for a reader that wants only records.
pub(super) fn skip_positions(header: &FrameHeader, cursor: &mut Cursor<'_>) -> Result<(), Malformed> {
    for _ in 0..header.position_count {
        cursor.text("consumer")?;
        topic_partition(cursor)?;
        cursor.varint("position")?;
    }
    Ok(())
}

fn decode_position(cursor: &mut Cursor<'_>) -> Result<Position, Malformed> {
    let consumer: Arc<str> = cursor.text("consumer")?.into();
    let TopicPartition { topic, partition } = topic_partition(cursor)?;
    Ok(Position { consumer, topic, partition, next_offset: cursor.varint("position")? })
}

/// What a writer gives a frame beside its contents.
#[derive(Debug, Clone, Copy)]
pub(super) struct FrameStamp {
    pub(super) batch: u64,
    pub(super) epoch: u32,
    pub(super) first_lsn: u64,
    pub(super) time_ms: i64,
}

/// Writes a frame over `out`, whose memory is used again and again. Returns its header.
pub(super) fn build_frame<'a>(
    out: &mut Vec<u8>,
    salt: u32,
    stamp: FrameStamp,
    runs: &[Run],
    positions: &[Position],
    records: impl Iterator<Item = &'a [u8]>,
) -> Result<FrameHeader, Malformed> {
    out.clear();
    out.resize(HEADER_BYTES, 0);
    for run in runs {
        put_topic_partition(out, run.at.topic, run.at.partition);
        put_varint(out, run.first_offset);
        put_varint(out, u64::from(run.count));
    }
    for position in positions {
        put_text(out, &position.consumer);
        put_topic_partition(out, position.topic, position.partition);
        put_varint(out, position.next_offset);
    }
    for encoded in records {
        out.extend_from_slice(encoded);
    }
    let too_much = Malformed("frame longer than is allowed");
    if out.len() as u64 > FRAME_BYTES_MAX {
        return Err(too_much);
    }
    let (header_place, payload) = out.split_at_mut_checked(HEADER_BYTES).ok_or(too_much)?;
    let count = |length: usize| u32::try_from(length).map_err(|_| too_much);
    let header = FrameHeader {
        payload_bytes: count(payload.len())?,
        payload_crc: salted_crc(salt, payload),
        batch: stamp.batch,
        epoch: stamp.epoch,
        record_count: runs.iter().map(|run| run.count).sum(),
        first_lsn: stamp.first_lsn,
        time_ms: stamp.time_ms,
        run_count: count(runs.len())?,
        position_count: count(positions.len())?,
    };
    header_place.copy_from_slice(&header.encode(salt));
    Ok(header)
}

fn put_topic_partition(out: &mut Vec<u8>, topic: Topic, partition: u32) {
    out.push(topic.code());
    put_varint(out, u64::from(partition));
}
