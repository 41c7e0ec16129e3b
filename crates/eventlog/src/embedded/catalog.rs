//! What a log knows in memory: its segments, where every partition ends, where every consumer stands.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::frame::{FrameHeader, Tables};
use super::index::{SegmentIndex, Starts, Summary};
use super::segment::{FIRST_FRAME_AT, SegmentHeader};
use crate::log::Position;
use crate::record::TopicPartition;

/// A segment that is never written again.
#[derive(Debug)]
pub(super) struct Sealed {
    pub(super) path: Arc<Path>,
    pub(super) summary: Summary,
}

/// The segment that frames are added to.
#[derive(Debug, Clone)]
pub(super) struct Active {
    pub(super) path: Arc<Path>,
    pub(super) file: Arc<File>,
    pub(super) header: SegmentHeader,
    /// Where its last committed frame ends.
    pub(super) bytes: u64,
    pub(super) newest_ms: i64,
    pub(super) index: SegmentIndex,
    pub(super) starts: Starts,
}

impl Active {
    pub(super) fn new(path: PathBuf, file: File, header: SegmentHeader) -> Self {
        Self {
            path: path.into(),
            file: Arc::new(file),
            header,
            bytes: FIRST_FRAME_AT,
            newest_ms: i64::MIN,
            index: SegmentIndex::default(),
            starts: Starts::default(),
        }
    }

    /// Whether nothing is in it yet, not even the tables that the segments before it could be deleted for.
    pub(super) fn is_empty(&self) -> bool {
        self.index.frames.is_empty()
    }
}

/// What a log knows in memory.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    /// Oldest first.
    pub(super) sealed: VecDeque<Arc<Sealed>>,
    /// Missing only where a reader found no segment yet.
    pub(super) active: Option<Active>,
    pub(super) ends: HashMap<TopicPartition, u64>,
    pub(super) positions: HashMap<TopicPartition, BTreeMap<Arc<str>, u64>>,
    pub(super) next_lsn: u64,
    pub(super) next_batch: u64,
    /// Of the last frame.
    pub(super) epoch: u32,
}

impl Catalog {
    /// What is known when the segment with `header` is about to be read and nothing before it was.
    pub(super) fn at(header: &SegmentHeader) -> Self {
        Self { next_lsn: header.first_lsn, next_batch: header.first_batch, ..Self::default() }
    }

    /// Takes in a frame that ends the active segment. Refuses, in words, one that does not follow on the last.
    pub(super) fn apply(&mut self, at: u64, header: &FrameHeader, tables: &Tables) -> Result<(), String> {
        let Some(active) = &mut self.active else { return Err("there is no segment".to_owned()) };
        if header.batch != self.next_batch || header.first_lsn != self.next_lsn {
            return Err(format!(
                "frame {} with LSN {} stands where frame {} with LSN {} should",
                header.batch, header.first_lsn, self.next_batch, self.next_lsn
            ));
        }
        let is_first = active.is_empty();
        for run in &tables.runs {
            let known = self.ends.get(&run.at).copied();
            // Where reading began with this segment, its first frame is what says where partitions stand.
            let expected = known.unwrap_or(if is_first { run.first_offset } else { 0 });
            if run.first_offset != expected {
                return Err(format!("{} goes on at offset {}, not {expected}", run.at, run.first_offset));
            }
        }
        if is_first {
            active.starts = Starts::new(&tables.runs);
        }
        active.index.push(at, header, &tables.runs);
        active.bytes = at + header.frame_bytes();
        active.newest_ms = active.newest_ms.max(header.time_ms);
        for run in &tables.runs {
            self.ends.insert(run.at, run.first_offset + u64::from(run.count));
        }
        for position in &tables.positions {
            let of = TopicPartition::new(position.topic, position.partition);
            let consumers = self.positions.entry(of).or_default();
            consumers.insert(Arc::clone(&position.consumer), position.next_offset);
        }
        self.next_lsn = header.next_lsn();
        self.next_batch = header.batch + 1;
        self.epoch = header.epoch;
        Ok(())
    }

    /// What a summary of the active segment says once no frame is added any more.
    pub(super) fn summary(&self, active: &Active) -> Summary {
        Summary {
            salt: active.header.salt,
            first_batch: active.header.first_batch,
            next_batch: self.next_batch,
            first_lsn: active.header.first_lsn,
            next_lsn: self.next_lsn,
            bytes: active.bytes,
            newest_ms: active.newest_ms,
            starts: active.starts.clone(),
        }
    }

    /// Seals the active segment and goes on with `next`.
    pub(super) fn roll(&mut self, next: Active) {
        if let Some(active) = self.active.take() {
            let summary = self.summary(&active);
            self.sealed.push_back(Arc::new(Sealed { path: active.path, summary }));
        }
        self.active = Some(next);
    }

    pub(super) fn start_offset(&self, of: TopicPartition) -> u64 {
        match (self.sealed.front(), &self.active) {
            (Some(oldest), _) => oldest.summary.starts.of(of),
            (None, Some(active)) => active.starts.of(of),
            (None, None) => 0,
        }
    }

    pub(super) fn end_offset(&self, of: TopicPartition) -> u64 {
        self.ends.get(&of).copied().unwrap_or(0)
    }

    pub(super) fn start_lsn(&self) -> u64 {
        match (self.sealed.front(), &self.active) {
            (Some(oldest), _) => oldest.summary.first_lsn,
            (None, Some(active)) => active.header.first_lsn,
            (None, None) => 0,
        }
    }

    pub(super) fn partitions(&self) -> Vec<TopicPartition> {
        self.ends.keys().copied().collect()
    }

    pub(super) fn position(&self, consumer: &str, of: TopicPartition) -> Option<u64> {
        self.positions.get(&of)?.get(consumer).copied()
    }

    pub(super) fn positions(&self) -> Vec<Position> {
        let of_partition = |(of, consumers): (&TopicPartition, &BTreeMap<Arc<str>, u64>)| {
            let (topic, partition) = (of.topic, of.partition);
            let position = |(consumer, next_offset): (&Arc<str>, &u64)| Position {
                consumer: Arc::clone(consumer),
                topic,
                partition,
                next_offset: *next_offset,
            };
            consumers.iter().map(position).collect::<Vec<_>>()
        };
        self.positions.iter().flat_map(of_partition).collect()
    }
}
