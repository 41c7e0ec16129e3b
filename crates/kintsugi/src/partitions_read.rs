//! How far each partition was read, for whoever reads a log that hands some records on once more.

use std::collections::BTreeMap;

use kintsugi_eventlog::{Record, TopicPartition};

/// The place after the last record that was read, of each partition.
///
/// On a cluster a reader that cannot go on where it stopped, because the broker was away or many read at once, begins
/// some seconds earlier. In a partition offsets only grow.
#[derive(Debug, Default)]
pub(crate) struct PartitionsRead(BTreeMap<TopicPartition, u64>);

impl PartitionsRead {
    /// Notes that `record` was read, and returns whether that is the first time.
    pub(crate) fn note(&mut self, record: &Record) -> bool {
        let next = self.0.entry(record.topic_partition()).or_default();
        let is_first = record.offset >= *next;
        *next = (*next).max(record.offset + 1);
        is_first
    }
}
