//! Reading what is committed, shared by the log that writes and the view of one that another process writes.

use std::collections::VecDeque;
use std::fs::File;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use bytes::Bytes;

use super::LogSize;
use super::catalog::{Catalog, Sealed};
use super::codec::{BodyReader, RawRecord, next_record};
use super::frame::{FrameHeader, HEADER_BYTES, Run, decode_runs, skip_positions};
use super::index::{self, FrameEntry, SegmentIndex};
use super::recovery::{corrupt, read_sealed};
use super::scan::{FrameScanner, Scanned, read_up_to};
use super::segment::{self, FIRST_FRAME_AT, SegmentHeader};
use super::wire::{Cursor, Malformed};
use crate::error::LogError;
use crate::log::Lsn;
use crate::queue::locked;
use crate::record::{Record, TopicPartition};

/// How many frames one look into an index fetches the places of.
const FRAMES_PER_LOOKUP: usize = 64;

/// A sealed segment that is open for reading.
#[derive(Debug)]
struct OpenSegment {
    first_batch: u64,
    file: Arc<File>,
    index: SegmentIndex,
}

/// Frames of one segment that are to be read.
struct Source {
    file: Arc<File>,
    path: Arc<Path>,
    salt: u32,
    frames: Vec<FrameEntry>,
}

/// One segment on the way of a replay.
struct Leg {
    /// Missing for a sealed segment, which is opened when its turn comes.
    file: Option<Arc<File>>,
    path: Arc<Path>,
    salt: u32,
    at: u64,
    limit: u64,
    first_batch: u64,
}

#[derive(Debug, Default)]
struct End {
    lsn: u64,
    is_closed: bool,
}

/// The readable side of a log.
#[derive(Debug)]
pub(super) struct View {
    catalog: RwLock<Catalog>,
    open: Mutex<VecDeque<Arc<OpenSegment>>>,
    open_max: usize,
    end: Mutex<End>,
    end_changed: Condvar,
}

/// A thread that panicked while it held a lock left nothing half done: every change is a single assignment or is made
/// by the one writer, whose panic poisons the log.
impl View {
    pub(super) fn new(catalog: Catalog, open_max: usize) -> Self {
        let end = End { lsn: catalog.next_lsn, is_closed: false };
        Self {
            catalog: RwLock::new(catalog),
            open: Mutex::default(),
            open_max: open_max.max(1),
            end: Mutex::new(end),
            end_changed: Condvar::new(),
        }
    }

    pub(super) fn catalog(&self) -> RwLockReadGuard<'_, Catalog> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn catalog_mut(&self) -> RwLockWriteGuard<'_, Catalog> {
        self.catalog.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells those who wait that the log goes up to `lsn`.
    pub(super) fn publish_end(&self, lsn: u64) {
        locked(&self.end).lsn = lsn;
        self.end_changed.notify_all();
    }

    /// Lets those who wait go: nothing will come any more.
    pub(super) fn close(&self) {
        locked(&self.end).is_closed = true;
        self.end_changed.notify_all();
    }

    pub(super) fn wait_past(&self, seen: Lsn, timeout: Duration) -> Lsn {
        let end = locked(&self.end);
        let waits = |end: &mut End| end.lsn <= seen.0 && !end.is_closed;
        let (end, _) =
            self.end_changed.wait_timeout_while(end, timeout, waits).unwrap_or_else(PoisonError::into_inner);
        Lsn(end.lsn)
    }

    pub(super) fn size(&self) -> LogSize {
        let catalog = self.catalog();
        let sealed_bytes: u64 = catalog.sealed.iter().map(|sealed| sealed.summary.bytes).sum();
        let active = catalog.active.as_ref();
        LogSize {
            segments: catalog.sealed.len() + usize::from(active.is_some()),
            bytes: sealed_bytes + active.map_or(0, |active| active.bytes),
            records: catalog.next_lsn - catalog.start_lsn(),
            frames: catalog.next_batch.saturating_sub(1),
        }
    }

    /// Forgets a sealed segment that was deleted.
    pub(super) fn forget(&self, first_batch: u64) {
        locked(&self.open).retain(|open| open.first_batch != first_batch);
    }

    pub(super) fn read(
        &self,
        of: TopicPartition,
        offset: u64,
        records_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Record>, LogError> {
        let mut records =
            Records { of, next: offset, bytes: 0, count_max: records_max, bytes_max, found: Vec::new() };
        let end = {
            let catalog = self.catalog();
            trimmed_below(catalog.start_offset(of), offset)?;
            catalog.end_offset(of)
        };
        let mut bodies = BodyReader::default();
        while records.next < end && !records.is_full() {
            let begun_at = records.next;
            let Some(source) = self.source(of, records.next)? else { break };
            for frame in &source.frames {
                let (header, payload) = read_frame(&source, frame)?;
                records
                    .take_from(&header, &payload, &mut bodies)
                    .map_err(|malformed| corrupt(&source.path, frame.at, malformed.0))?;
                if records.is_full() {
                    break;
                }
            }
            if records.next == begun_at && !records.is_full() {
                let reason = format!("no frame holds offset {begun_at} of {of}");
                return Err(corrupt(&source.path, 0, reason));
            }
        }
        Ok(records.found)
    }

    /// The frames from which `of` can be read from `offset` on, within one segment. `None` at the end.
    fn source(&self, of: TopicPartition, offset: u64) -> Result<Option<Source>, LogError> {
        let sealed = {
            let catalog = self.catalog();
            trimmed_below(catalog.start_offset(of), offset)?;
            let active =
                catalog.active.as_ref().filter(|active| !active.is_empty() && active.starts.of(of) <= offset);
            if let Some(active) = active {
                return Ok(Some(Source {
                    file: Arc::clone(&active.file),
                    path: Arc::clone(&active.path),
                    salt: active.header.salt,
                    frames: active.index.frames_from(of, offset, FRAMES_PER_LOOKUP),
                }));
            }
            let after = catalog.sealed.partition_point(|sealed| sealed.summary.starts.of(of) <= offset);
            after.checked_sub(1).and_then(|place| catalog.sealed.get(place)).cloned()
        };
        let Some(sealed) = sealed else { return Ok(None) };
        let Some(open) = self.open(&sealed)? else {
            let oldest = self.catalog().start_offset(of).max(offset + 1);
            return Err(LogError::Trimmed { oldest });
        };
        Ok(Some(Source {
            file: Arc::clone(&open.file),
            path: Arc::clone(&sealed.path),
            salt: sealed.summary.salt,
            frames: open.index.frames_from(of, offset, FRAMES_PER_LOOKUP),
        }))
    }

    /// Opens a sealed segment with its index; the last few stay open. `None` where it was deleted meanwhile.
    fn open(&self, sealed: &Sealed) -> Result<Option<Arc<OpenSegment>>, LogError> {
        let first_batch = sealed.summary.first_batch;
        {
            let mut open = locked(&self.open);
            if let Some(place) = open.iter().position(|open| open.first_batch == first_batch)
                && let Some(found) = open.remove(place)
            {
                open.push_front(Arc::clone(&found));
                return Ok(Some(found));
            }
        }
        let Some(file) = open_if_kept(&sealed.path)? else { return Ok(None) };
        let index = match index::read(&segment::index_path(&sealed.path)) {
            Some(index) => index,
            None => rebuild_index(sealed, &file)?,
        };
        let opened = Arc::new(OpenSegment { first_batch, file: Arc::new(file), index });
        let mut open = locked(&self.open);
        open.push_front(Arc::clone(&opened));
        open.truncate(self.open_max);
        Ok(Some(opened))
    }

    pub(super) fn replay(
        &self,
        from: Lsn,
        visit: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<Lsn, LogError> {
        let legs = self.legs(from)?;
        let mut bodies = BodyReader::default();
        let mut next = from.0;
        for leg in legs {
            let Some(file) = leg.open()? else {
                return Err(LogError::Trimmed { oldest: self.catalog().start_lsn().max(next + 1) });
            };
            let mut scanner =
                FrameScanner::new((&file, &leg.path), leg.salt, leg.at, leg.limit, leg.first_batch);
            loop {
                let (at, header, payload) = match scanner.next()? {
                    Scanned::Frame { at, header, payload } => (at, header, payload),
                    Scanned::End => break,
                    Scanned::Bad(bad) => return Err(corrupt(&leg.path, bad.at, bad.reason)),
                };
                let mut flow = ControlFlow::Continue(());
                each_record(&header, &payload, |place| {
                    if place.lsn < next {
                        return Ok(ControlFlow::Continue(()));
                    }
                    let record = place.record(&header, &payload, &mut bodies)?;
                    next = place.lsn + 1;
                    flow = visit(record);
                    Ok(flow)
                })
                .map_err(|malformed| corrupt(&leg.path, at, malformed.0))?;
                if flow.is_break() {
                    return Ok(Lsn(next));
                }
            }
        }
        Ok(Lsn(next))
    }

    /// The stretches of segments that hold what is committed now from `from` on.
    fn legs(&self, from: Lsn) -> Result<Vec<Leg>, LogError> {
        let (sealed, mut last) = {
            let catalog = self.catalog();
            trimmed_below(catalog.start_lsn(), from.0)?;
            if from.0 >= catalog.next_lsn {
                return Ok(Vec::new());
            }
            let sealed: Vec<_> =
                catalog.sealed.iter().filter(|sealed| sealed.summary.next_lsn > from.0).cloned().collect();
            let last = catalog.active.as_ref().map(|active| {
                let begin = active
                    .index
                    .frame_at_lsn(from.0)
                    .unwrap_or((0, FrameEntry { at: FIRST_FRAME_AT, bytes: 0, first_lsn: 0 }));
                Leg {
                    file: Some(Arc::clone(&active.file)),
                    path: Arc::clone(&active.path),
                    salt: active.header.salt,
                    at: begin.1.at,
                    limit: active.bytes,
                    first_batch: active.header.first_batch + begin.0,
                }
            });
            (sealed, last)
        };
        let mut legs = Vec::with_capacity(sealed.len() + 1);
        for sealed in sealed {
            let summary = &sealed.summary;
            // Only the first one can be entered in its middle.
            let begin = if summary.first_lsn < from.0 { self.open(&sealed)? } else { None };
            let begin = begin.and_then(|open| open.index.frame_at_lsn(from.0));
            let (skipped, at) = begin.map_or((0, FIRST_FRAME_AT), |(place, frame)| (place, frame.at));
            legs.push(Leg {
                file: None,
                path: Arc::clone(&sealed.path),
                salt: summary.salt,
                at,
                limit: summary.bytes,
                first_batch: summary.first_batch + skipped,
            });
        }
        legs.extend(last.take());
        Ok(legs)
    }
}

fn trimmed_below(oldest: u64, wanted: u64) -> Result<(), LogError> {
    if wanted < oldest { Err(LogError::Trimmed { oldest }) } else { Ok(()) }
}

impl Leg {
    fn open(&self) -> Result<Option<Arc<File>>, LogError> {
        match &self.file {
            Some(file) => Ok(Some(Arc::clone(file))),
            None => open_if_kept(&self.path).map(|file| file.map(Arc::new)),
        }
    }
}

/// `None` where retention was faster.
fn open_if_kept(path: &Path) -> Result<Option<File>, LogError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(LogError::io("open", path)(error)),
    }
}

fn rebuild_index(sealed: &Sealed, file: &File) -> Result<SegmentIndex, LogError> {
    let path = &sealed.path;
    let header = SegmentHeader::read(path)?.ok_or_else(|| corrupt(path, 0, "the segment has no header"))?;
    let file = file.try_clone().map_err(LogError::io("open", path))?;
    let catalog = read_sealed(path, file, header)?;
    Ok(catalog.active.map(|active| active.index).unwrap_or_default())
}

fn read_frame(source: &Source, frame: &FrameEntry) -> Result<(FrameHeader, Bytes), LogError> {
    let damaged = |reason: &str| corrupt(&source.path, frame.at, reason);
    let length = usize::try_from(frame.bytes).map_err(|_| damaged("the frame does not fit in memory"))?;
    let mut bytes = vec![0; length];
    let filled =
        read_up_to(&source.file, &mut bytes, frame.at).map_err(LogError::io("read", &source.path))?;
    if filled < length {
        return Err(damaged("the file ends within a frame"));
    }
    let bytes = Bytes::from(bytes);
    let header = FrameHeader::decode(&bytes, source.salt)
        .filter(|header| header.frame_bytes() == frame.bytes)
        .ok_or_else(|| damaged("the frame's header is damaged"))?;
    let payload = bytes.slice(HEADER_BYTES..);
    if !header.payload_is_intact(&payload, source.salt) {
        return Err(damaged("the frame's contents do not match their checksum"));
    }
    Ok((header, payload))
}

/// A record in a frame, with its place.
pub(super) struct Placed<'a> {
    pub(super) raw: RawRecord<'a>,
    pub(super) offset: u64,
    pub(super) lsn: u64,
}

impl Placed<'_> {
    pub(super) fn record(
        &self,
        header: &FrameHeader,
        payload: &Bytes,
        bodies: &mut BodyReader,
    ) -> Result<Record, Malformed> {
        let body = bodies.read(payload, self.raw.body)?;
        Ok(Record {
            topic: self.raw.at.topic,
            partition: self.raw.at.partition,
            offset: self.offset,
            lsn: Lsn(self.lsn),
            envelope: body.envelope,
            event_type: body.event_type,
            key: body.key,
            value: body.value,
            appended_at_ms: header.time_ms,
        })
    }
}

/// Goes over the records of a frame until `visit` breaks.
pub(super) fn each_record<'a>(
    header: &FrameHeader,
    payload: &'a [u8],
    mut visit: impl FnMut(Placed<'a>) -> Result<ControlFlow<()>, Malformed>,
) -> Result<(), Malformed> {
    let mut cursor = Cursor::new(payload);
    let mut runs = decode_runs(header, &mut cursor)?;
    runs.retain(|run| run.count > 0);
    runs.sort_unstable_by_key(|run| run.at);
    skip_positions(header, &mut cursor)?;
    // Neighbours are often of one partition.
    let mut last_place = 0;
    for lsn in header.first_lsn..header.next_lsn() {
        let raw = next_record(&mut cursor)?;
        if runs.get(last_place).is_none_or(|run| run.at != raw.at) {
            let found = runs.binary_search_by_key(&raw.at, |run| run.at);
            last_place = found.map_err(|_| Malformed("a record belongs to no run"))?;
        }
        let run: &mut Run = runs.get_mut(last_place).ok_or(Malformed("a record belongs to no run"))?;
        let offset = run.first_offset;
        run.first_offset += 1;
        if visit(Placed { raw, offset, lsn })?.is_break() {
            break;
        }
    }
    Ok(())
}

/// Records that a read has found so far.
struct Records {
    of: TopicPartition,
    next: u64,
    bytes: usize,
    count_max: usize,
    bytes_max: usize,
    found: Vec<Record>,
}

impl Records {
    fn is_full(&self) -> bool {
        self.found.len() >= self.count_max || (self.bytes >= self.bytes_max && !self.found.is_empty())
    }

    fn take_from(
        &mut self,
        header: &FrameHeader,
        payload: &Bytes,
        bodies: &mut BodyReader,
    ) -> Result<(), Malformed> {
        each_record(header, payload, |place| {
            if place.raw.at != self.of || place.offset != self.next {
                return Ok(ControlFlow::Continue(()));
            }
            let record = place.record(header, payload, bodies)?;
            let bytes = record.key.len() + record.value.len();
            if !self.found.is_empty() && self.bytes + bytes > self.bytes_max {
                // Full: one byte more than fits says so.
                self.bytes = self.bytes_max;
                return Ok(ControlFlow::Break(()));
            }
            self.bytes += bytes;
            self.next += 1;
            self.found.push(record);
            Ok(if self.is_full() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })
    }
}
