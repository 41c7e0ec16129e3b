//! The one thread that writes: takes what waits, writes it as one frame, syncs, publishes, acknowledges.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use super::Shared;
use super::catalog::{Active, Catalog};
use super::encoded::EncodedAppend;
use super::frame::{FrameStamp, HEADER_BYTES_U64, Run, Tables, build_frame};
use super::index;
use super::lock::sync_directory;
use super::options::{Boundary, Options};
use super::recovery::corrupt;
use super::segment::{self, FIRST_FRAME_AT, SegmentHeader};
use crate::error::LogError;
use crate::log::{Committed, FrameId, Lsn};
use crate::queue::{Gather, Queued as _, Taken, Waiting, tell};
use crate::record::TopicPartition;

/// The frame's memory is kept from one frame to the next up to this size.
const FRAME_MEMORY_KEPT_BYTES: usize = 4 << 20;

/// The writer's own state. What readers see lies in the shared catalog, and changes only after a sync.
pub(super) struct Writer {
    shared: Arc<Shared>,
    options: Options,
    file: Arc<File>,
    path: Arc<Path>,
    salt: u32,
    /// Where the next frame goes.
    at: u64,
    next_batch: u64,
    next_lsn: u64,
    epoch: u32,
    frame: Vec<u8>,
    tables: Tables,
    run_of: HashMap<TopicPartition, usize>,
}

impl Writer {
    /// A writer that goes on behind what `catalog` holds. `None` where it has no active segment.
    pub(super) fn new(shared: Arc<Shared>, options: Options) -> Option<Self> {
        let catalog = shared.view.catalog();
        let active = catalog.active.as_ref()?;
        let (file, path) = (Arc::clone(&active.file), Arc::clone(&active.path));
        let (salt, at) = (active.header.salt, active.bytes);
        let (next_batch, next_lsn) = (catalog.next_batch, catalog.next_lsn);
        let epoch = catalog.epoch.saturating_add(1);
        drop(catalog);
        Some(Self {
            shared,
            options,
            file,
            path,
            salt,
            at,
            next_batch,
            next_lsn,
            epoch,
            frame: Vec::new(),
            tables: Tables::default(),
            run_of: HashMap::new(),
        })
    }

    /// Works until the queue is closed and empty, or something fails.
    pub(super) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut group = Vec::new();
        let outcome = catch_unwind(AssertUnwindSafe(|| self.work(&mut group)));
        let error = match outcome {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error),
            Err(_) => Some(LogError::Poisoned { reason: "the log's writer panicked".into() }),
        };
        if let Some(error) = error {
            // Every append is told from here on; who handles that logs it.
            tracing::debug!(%error, "the log takes no more appends");
            let reason: Arc<str> = match &error {
                LogError::Poisoned { reason } => Arc::clone(reason),
                other => other.to_string().into(),
            };
            let later = shared.queue.poison(&reason);
            for waiting in group {
                tell(waiting.on_commit, Err(error.clone()));
            }
            for waiting in later {
                tell(waiting.on_commit, Err(LogError::Poisoned { reason: Arc::clone(&reason) }));
            }
        }
        shared.view.close();
    }

    fn work(&mut self, group: &mut Vec<Waiting<EncodedAppend>>) -> Result<(), LogError> {
        while self.shared.queue.take_group(group, None, Gather::default()) != Taken::Over {
            let committed = self.commit(group)?;
            for (waiting, committed) in group.drain(..).zip(committed) {
                tell(waiting.on_commit, Ok(committed));
            }
            // Everybody was told: nothing is left that could fail.
            let _ = self.probe(Boundary::AfterAck);
        }
        Ok(())
    }

    /// Makes `group` durable and visible.
    fn commit(&mut self, group: &[Waiting<EncodedAppend>]) -> Result<Vec<Committed>, LogError> {
        let now_ms = self.options.clock.now().timestamp_millis();
        if group.iter().all(|waiting| waiting.append.is_empty()) {
            let nothing = Committed {
                offsets: Vec::new(),
                follows: Vec::new(),
                first_lsn: Lsn(self.next_lsn),
                frame: FrameId(self.next_batch - 1),
                appended_at_ms: now_ms,
            };
            return Ok(vec![nothing; group.len()]);
        }
        let group_bytes: usize = group.iter().map(|waiting| waiting.append.size()).sum();
        let end = self.at + HEADER_BYTES_U64 + group_bytes as u64;
        if self.at > FIRST_FRAME_AT && end > self.options.segment_bytes.bytes() {
            self.roll()?;
        }
        let committed = self.assign(group, now_ms);
        let stamp = FrameStamp {
            batch: self.next_batch,
            epoch: self.epoch,
            first_lsn: self.next_lsn,
            time_ms: now_ms,
        };
        let records = group.iter().map(|waiting| waiting.append.bytes.as_slice());
        let header = build_frame(
            &mut self.frame,
            self.salt,
            stamp,
            &self.tables.runs,
            &self.tables.positions,
            records,
        )
        .map_err(|malformed| LogError::Encode {
            event_type: "frame".to_owned(),
            reason: malformed.0.to_owned(),
        })?;
        self.write_and_sync()?;
        let applied = self.shared.view.catalog_mut().apply(self.at, &header, &self.tables);
        applied.map_err(|reason| corrupt(&self.path, self.at, reason))?;
        self.at += header.frame_bytes();
        self.next_batch += 1;
        self.next_lsn = header.next_lsn();
        self.shared.view.publish_end(self.next_lsn);
        if self.frame.capacity() > FRAME_MEMORY_KEPT_BYTES {
            self.frame = Vec::new();
        }
        Ok(committed)
    }

    /// Gives every record its offset, and fills the frame's tables.
    fn assign(&mut self, group: &[Waiting<EncodedAppend>], now_ms: i64) -> Vec<Committed> {
        self.run_of.clear();
        self.tables.runs.clear();
        self.tables.positions.clear();
        let catalog = self.shared.view.catalog();
        let mut lsn = self.next_lsn;
        let mut committed = Vec::with_capacity(group.len());
        for waiting in group {
            let places = &waiting.append.places;
            let offsets: Vec<u64> = places
                .iter()
                .map(|at| next_offset(&mut self.tables.runs, &mut self.run_of, &catalog, *at))
                .collect();
            committed.push(Committed {
                follows: offsets.clone(),
                offsets,
                first_lsn: Lsn(lsn),
                frame: FrameId(self.next_batch),
                appended_at_ms: now_ms,
            });
            lsn += places.len() as u64;
        }
        if self.at == FIRST_FRAME_AT {
            // The whole table, so that the segments before this one can be deleted.
            let others = catalog.ends.iter().filter(|(at, _)| !self.run_of.contains_key(at));
            let standing = others.map(|(at, end)| Run { at: *at, first_offset: *end, count: 0 });
            self.tables.runs.extend(standing);
            self.tables.positions = catalog.positions();
        }
        // What the group says comes later, and so holds.
        let positions = group.iter().flat_map(|waiting| &waiting.append.positions);
        self.tables.positions.extend(positions.cloned());
        committed
    }

    fn write_and_sync(&self) -> Result<(), LogError> {
        let write_error = || LogError::io("write", &self.path);
        self.probe(Boundary::BeforeWrite).map_err(write_error())?;
        let half = if self.options.probe.is_some() { self.frame.len() / 2 } else { 0 };
        let (first, rest) = self.frame.split_at_checked(half).unwrap_or((&[], &self.frame));
        if !first.is_empty() {
            self.file.write_all_at(first, self.at).map_err(write_error())?;
            self.probe(Boundary::MidWrite).map_err(write_error())?;
        }
        self.file.write_all_at(rest, self.at + first.len() as u64).map_err(write_error())?;
        self.probe(Boundary::AfterWrite).map_err(LogError::io("sync", &self.path))?;
        self.file.sync_data().map_err(LogError::io("sync", &self.path))?;
        self.probe(Boundary::AfterSync).map_err(LogError::io("sync", &self.path))
    }

    /// Seals the active segment and begins the next. Every frame in it is synced by now.
    fn roll(&mut self) -> Result<(), LogError> {
        {
            let catalog = self.shared.view.catalog();
            if let Some(active) = &catalog.active {
                let path = segment::index_path(&active.path);
                index::write(&path, &catalog.summary(active), &active.index)?;
            }
        }
        sync_directory(&self.shared.directory)?;
        let header = SegmentHeader::new(self.next_batch, self.next_lsn);
        let (path, file) = segment::create(&self.shared.directory, &header)?;
        let active = Active::new(path, file, header);
        self.file = Arc::clone(&active.file);
        self.path = Arc::clone(&active.path);
        self.salt = header.salt;
        self.at = FIRST_FRAME_AT;
        self.shared.view.catalog_mut().roll(active);
        Ok(())
    }

    fn probe(&self, boundary: Boundary) -> io::Result<()> {
        self.options.probe.as_ref().map_or(Ok(()), |probe| probe(boundary))
    }
}

/// The offset of the next record of `at`, counted in its run of this frame.
fn next_offset(
    runs: &mut Vec<Run>,
    run_of: &mut HashMap<TopicPartition, usize>,
    catalog: &Catalog,
    at: TopicPartition,
) -> u64 {
    let place = *run_of.entry(at).or_insert_with(|| {
        runs.push(Run { at, first_offset: catalog.end_offset(at), count: 0 });
        runs.len() - 1
    });
    // The place was just looked up in the map beside the runs.
    runs.get_mut(place).map_or(0, |run| {
        run.count += 1;
        run.first_offset + u64::from(run.count) - 1
    })
}
