//! Where each partition's offsets lie in a segment.
//!
//! The active segment's index grows in memory. When a segment is sealed its index is written beside it, the summary
//! apart from the body: opening a log reads summaries only.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use kintsugi_events::Topic;
use serde::{Deserialize, Serialize};

use super::frame::{FrameHeader, Run};
use super::segment::write_whole;
use super::wire::Cursor;
use crate::error::LogError;
use crate::record::TopicPartition;

const MAGIC: [u8; 8] = *b"KINTIDX\n";
const FORMAT: u32 = 1;
const HEADER_BYTES: usize = 28;

/// Where a frame lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FrameEntry {
    /// Where it begins in its segment.
    pub(super) at: u64,
    /// Its whole length.
    pub(super) bytes: u64,
    /// The LSN of its first record.
    pub(super) first_lsn: u64,
}

/// Where a run of one partition's offsets lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RunEntry {
    pub(super) first_offset: u64,
    /// Place in [`SegmentIndex::frames`].
    pub(super) frame: u32,
}

/// The frames of one segment, and the partitions in them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct SegmentIndex {
    pub(super) frames: Vec<FrameEntry>,
    pub(super) runs: HashMap<TopicPartition, Vec<RunEntry>>,
}

impl SegmentIndex {
    /// Adds the frame that follows on the last one.
    pub(super) fn push(&mut self, at: u64, header: &FrameHeader, runs: &[Run]) {
        // A segment of a GiB has fewer than 2^32 frames, for a frame has a header.
        let frame = u32::try_from(self.frames.len()).unwrap_or(u32::MAX);
        self.frames.push(FrameEntry { at, bytes: header.frame_bytes(), first_lsn: header.first_lsn });
        for run in runs.iter().filter(|run| run.count > 0) {
            let entry = RunEntry { first_offset: run.first_offset, frame };
            self.runs.entry(run.at).or_default().push(entry);
        }
    }

    /// The frames that hold records of `of` from `offset` on, at most `frames_max`.
    pub(super) fn frames_from(&self, of: TopicPartition, offset: u64, frames_max: usize) -> Vec<FrameEntry> {
        let Some(runs) = self.runs.get(&of) else { return Vec::new() };
        // The run before the first that begins above the offset may hold it.
        let first = runs.partition_point(|run| run.first_offset <= offset).saturating_sub(1);
        let wanted = runs.iter().skip(first).take(frames_max);
        wanted.filter_map(|run| self.frames.get(run.frame as usize)).copied().collect()
    }

    /// Where to begin reading so as to meet `lsn`: the frame's place in the segment's frames, and in its bytes.
    pub(super) fn frame_at_lsn(&self, lsn: u64) -> Option<(u64, FrameEntry)> {
        let place = self.frames.partition_point(|frame| frame.first_lsn <= lsn).saturating_sub(1);
        self.frames.get(place).map(|frame| (place as u64, *frame))
    }
}

/// What has to be known of a sealed segment without reading it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Summary {
    pub(super) salt: u32,
    pub(super) first_batch: u64,
    /// The first frame after the segment.
    pub(super) next_batch: u64,
    pub(super) first_lsn: u64,
    /// The first LSN after the segment.
    pub(super) next_lsn: u64,
    /// The file's length.
    pub(super) bytes: u64,
    /// The latest time in it.
    pub(super) newest_ms: i64,
    /// Where each partition stood when it began.
    pub(super) starts: Starts,
}

/// Where each partition stood when a segment began, from the table in its first frame. A partition that is not in it
/// stood at 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Starts(
    /// Topic code, partition, offset; ascending.
    Vec<(u8, u32, u64)>,
);

impl Starts {
    pub(super) fn new(runs: &[Run]) -> Self {
        let mut starts: Vec<_> =
            runs.iter().map(|run| (run.at.topic.code(), run.at.partition, run.first_offset)).collect();
        starts.sort_unstable();
        Self(starts)
    }

    pub(super) fn of(&self, of: TopicPartition) -> u64 {
        let wanted = (of.topic.code(), of.partition);
        let place = self.0.binary_search_by_key(&wanted, |(topic, partition, _)| (*topic, *partition));
        place.ok().and_then(|place| self.0.get(place)).map_or(0, |(_, _, offset)| *offset)
    }
}

#[derive(Serialize, Deserialize)]
struct IndexBody {
    frames: Vec<FrameEntry>,
    runs: Vec<(u8, u32, Vec<RunEntry>)>,
}

/// Writes the index of the segment whose index path is `path`. The caller syncs the directory.
pub(super) fn write(path: &Path, summary: &Summary, index: &SegmentIndex) -> Result<(), LogError> {
    let mut runs: Vec<_> =
        index.runs.iter().map(|(of, runs)| (of.topic.code(), of.partition, runs.clone())).collect();
    runs.sort_unstable_by_key(|(topic, partition, _)| (*topic, *partition));
    let body = IndexBody { frames: index.frames.clone(), runs };
    let encode_error = |error: postcard::Error| LogError::Encode {
        event_type: "segment index".to_owned(),
        reason: error.to_string(),
    };
    let summary = postcard::to_stdvec(summary).map_err(encode_error)?;
    let body = postcard::to_stdvec(&body).map_err(encode_error)?;
    let mut out = Vec::with_capacity(HEADER_BYTES + summary.len() + body.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&FORMAT.to_le_bytes());
    for part in [&summary, &body] {
        // A part of 4 GiB would need a segment of far more than that.
        out.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(&crc32fast::hash(part).to_le_bytes());
    }
    out.extend_from_slice(&summary);
    out.extend_from_slice(&body);
    write_whole(path, &out)
}

/// Reads only the summary. `None` where there is no index or it is damaged: it can be built again.
pub(super) fn read_summary(path: &Path) -> Option<Summary> {
    let mut file = File::open(path).ok()?;
    let (summary, _) = read_parts_header(&mut file)?;
    postcard::from_bytes(&read_part(&mut file, summary)?).ok()
}

/// Reads the whole index. `None` where there is none or it is damaged: it can be built again.
pub(super) fn read(path: &Path) -> Option<SegmentIndex> {
    let mut file = File::open(path).ok()?;
    let (summary, body) = read_parts_header(&mut file)?;
    file.seek(SeekFrom::Current(i64::from(summary.bytes))).ok()?;
    let body: IndexBody = postcard::from_bytes(&read_part(&mut file, body)?).ok()?;
    let mut runs = HashMap::with_capacity(body.runs.len());
    for (topic, partition, entries) in body.runs {
        runs.insert(TopicPartition::new(Topic::from_code(topic)?, partition), entries);
    }
    Some(SegmentIndex { frames: body.frames, runs })
}

#[derive(Clone, Copy)]
struct Part {
    bytes: u32,
    crc: u32,
}

fn read_parts_header(file: &mut File) -> Option<(Part, Part)> {
    let mut header = [0; HEADER_BYTES];
    file.read_exact(&mut header).ok()?;
    let mut cursor = Cursor::new(header.strip_prefix(&MAGIC)?);
    (cursor.u32("").ok()? == FORMAT).then_some(())?;
    let mut part = || Some(Part { bytes: cursor.u32("").ok()?, crc: cursor.u32("").ok()? });
    Some((part()?, part()?))
}

fn read_part(file: &mut File, part: Part) -> Option<Vec<u8>> {
    // The length is not covered by a CRC: take what is there and compare, rather than reserve by it.
    let mut bytes = Vec::new();
    file.take(u64::from(part.bytes)).read_to_end(&mut bytes).ok()?;
    (bytes.len() == part.bytes as usize && crc32fast::hash(&bytes) == part.crc).then_some(bytes)
}
