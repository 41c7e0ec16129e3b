//! An append as the writer takes it.

use super::codec::{RECORD_OVERHEAD_BYTES, encode_record};
use crate::error::LogError;
use crate::log::{Append, Position};
use crate::queue::Queued;
use crate::record::{NewRecord, TopicPartition};

/// The most that a position takes beside its consumer's name.
const POSITION_OVERHEAD_BYTES: usize = 20;

/// An append as the writer needs it.
#[derive(Debug)]
pub(super) struct EncodedAppend {
    /// Its records, one after the other.
    pub(super) bytes: Vec<u8>,
    /// Where each record goes.
    pub(super) places: Vec<TopicPartition>,
    pub(super) positions: Vec<Position>,
}

impl EncodedAppend {
    /// Encodes in the caller's thread: the writer has one core for everybody.
    pub(super) fn new(append: &Append, bytes_max: usize) -> Result<Self, LogError> {
        let contents = append.records.iter().map(|record| record.value.len() + record.key.len());
        let expected: usize = contents.map(|bytes| bytes + RECORD_OVERHEAD_BYTES).sum();
        let mut bytes = Vec::with_capacity(expected.min(bytes_max));
        for record in &append.records {
            if record.value.len() > bytes_max {
                return Err(LogError::TooLarge { bytes: record.value.len(), bytes_max });
            }
            encode_record(&mut bytes, record).map_err(|malformed| LogError::Encode {
                event_type: record.event_type.to_string(),
                reason: malformed.0.to_owned(),
            })?;
            if bytes.len() > bytes_max {
                return Err(LogError::TooLarge { bytes: bytes.len().max(expected), bytes_max });
            }
        }
        let places = append.records.iter().map(NewRecord::topic_partition).collect();
        let encoded = Self { bytes, places, positions: append.positions.clone() };
        let bytes = encoded.size();
        if bytes > bytes_max { Err(LogError::TooLarge { bytes, bytes_max }) } else { Ok(encoded) }
    }

    /// Whether it only waits for what is before it.
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty() && self.positions.is_empty()
    }
}

impl Queued for EncodedAppend {
    fn records(&self) -> usize {
        self.places.len()
    }

    fn size(&self) -> usize {
        let positions =
            self.positions.iter().map(|position| position.consumer.len() + POSITION_OVERHEAD_BYTES);
        self.bytes.len() + positions.sum::<usize>()
    }
}
