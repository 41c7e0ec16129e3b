//! The newest records of a partition, kept in memory without a hole.

use std::collections::VecDeque;
use std::sync::Arc;

use super::headers::Place;
use super::reading::Epochs;
use crate::record::Record;

/// Records from `from` on, up to but without `next`. No committed record between the two is missing.
#[derive(Debug, Default)]
pub(super) struct Tail {
    from: u64,
    next: u64,
    records: VecDeque<Record>,
    epochs: Epochs,
}

/// What a record takes beside its key and value, about.
const RECORD_BYTES: usize = 300;

/// About what `record` takes in memory.
pub(super) fn bytes_of(record: &Record) -> usize {
    RECORD_BYTES + record.key.len() + record.value.len()
}

impl Tail {
    /// A tail that begins at `from`.
    pub(super) fn new(from: u64) -> Self {
        Self { from, next: from, records: VecDeque::new(), epochs: Epochs::default() }
    }

    /// The offset from which on it holds everything.
    pub(super) const fn from(&self) -> u64 {
        self.from
    }

    /// The offset up to which it holds everything.
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    /// Its oldest record, if it holds any.
    pub(super) fn oldest(&self) -> Option<&Record> {
        self.records.front()
    }

    /// Whether an owner of the past wrote the record at `place`, of this lane or another.
    pub(super) fn is_stale(&mut self, place: Option<&Place<Arc<str>>>) -> bool {
        self.epochs.is_stale(place)
    }

    /// Takes in the next record, or moves past one that does not count.
    pub(super) fn push(&mut self, offset: u64, record: Option<Record>) {
        self.next = offset + 1;
        self.records.extend(record);
    }

    /// Drops the oldest record, and returns how many bytes that frees.
    pub(super) fn drop_oldest(&mut self) -> usize {
        self.records.pop_front().map_or(0, |record| {
            self.from = record.offset + 1;
            bytes_of(&record)
        })
    }

    /// Records from `offset` on, as many as the limits allow, and at least one where there is one.
    pub(super) fn read(&self, offset: u64, records_max: usize, bytes_max: usize) -> Vec<Record> {
        let first = self.records.partition_point(|record| record.offset < offset);
        let mut room = Room::new(records_max, bytes_max);
        self.records.iter().skip(first).take_while(|record| room.takes(record)).cloned().collect()
    }
}

/// How much more a read may return.
#[derive(Debug)]
pub(super) struct Room {
    records: usize,
    bytes: usize,
    is_first: bool,
}

impl Room {
    pub(super) const fn new(records_max: usize, bytes_max: usize) -> Self {
        Self { records: records_max, bytes: bytes_max, is_first: true }
    }

    /// Whether `record` still fits; it is counted then. The first always fits.
    pub(super) fn takes(&mut self, record: &Record) -> bool {
        let bytes = record.key.len() + record.value.len();
        if self.records == 0 || (bytes > self.bytes && !self.is_first) {
            self.records = 0;
            return false;
        }
        self.is_first = false;
        self.records -= 1;
        self.bytes = self.bytes.saturating_sub(bytes);
        true
    }

    /// Whether nothing more fits.
    pub(super) const fn is_full(&self) -> bool {
        self.records == 0
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kintsugi_events::Topic;

    use super::*;
    use crate::log::Lsn;

    fn record(offset: u64) -> Record {
        Record {
            topic: Topic::Goals,
            partition: 0,
            offset,
            lsn: Lsn(offset),
            envelope: None,
            event_type: String::new(),
            key: "key".to_owned(),
            value: Bytes::from_static(b"a value"),
            appended_at_ms: 0,
        }
    }

    #[test]
    fn a_tail_reads_over_the_gaps_of_offsets_and_keeps_to_limits() {
        let mut tail = Tail::new(5);
        for offset in [5, 6, 9, 12] {
            tail.push(offset, Some(record(offset)));
        }
        let offsets = |offset, records_max, bytes_max| -> Vec<u64> {
            tail.read(offset, records_max, bytes_max).iter().map(|record| record.offset).collect()
        };
        assert_eq!(offsets(5, 9, usize::MAX), [5, 6, 9, 12]);
        assert_eq!(offsets(7, 9, usize::MAX), [9, 12]);
        assert_eq!(offsets(5, 2, usize::MAX), [5, 6]);
        assert_eq!(offsets(5, 9, 25), [5, 6], "ten bytes each");
        assert_eq!(offsets(5, 9, 1), [5], "at least one");
        assert_eq!((offsets(13, 9, usize::MAX), offsets(5, 0, 9)), (vec![], vec![]));
        assert_eq!((tail.from(), tail.next()), (5, 13));
    }

    #[test]
    fn what_is_dropped_is_no_longer_covered() {
        let mut tail = Tail::new(0);
        tail.push(3, Some(record(3)));
        tail.push(7, None);
        assert_eq!(tail.drop_oldest(), bytes_of(&record(3)));
        assert_eq!((tail.from(), tail.next(), tail.drop_oldest()), (4, 8, 0));
    }

    #[test]
    fn an_owner_of_the_past_is_told_by_its_epoch() {
        let mut tail = Tail::new(0);
        let place = |lane: &str, epoch| Place { lane: Arc::from(lane), epoch, lsn: Lsn(0) };
        let places = [
            Some(place("0", 2)),
            None,
            Some(place("0", 3)),
            Some(place("0", 2)),
            Some(place("diagnose-0", 2)),
            Some(place("0", 3)),
            Some(place("diagnose-0", 1)),
        ];
        let told: Vec<bool> = places.iter().map(|place| tail.is_stale(place.as_ref())).collect();
        assert_eq!(told, [false, false, false, true, false, false, true]);
    }
}
