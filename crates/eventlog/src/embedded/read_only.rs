//! A log that another process may be writing, or that nobody writes any more: takes no lock, changes nothing.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use super::catalog::{Active, Catalog};
use super::options::VerifyOnOpen;
use super::reader::View;
use super::recovery::{self, Access, corrupt, take_in};
use super::segment::{self, SegmentHeader};
use super::{LogSize, Options};
use crate::error::LogError;
use crate::log::{LogReader, Lsn, Position};
use crate::queue::locked;
use crate::record::{Record, TopicPartition};

/// How often a waiting reader looks at the files: nothing tells one process that another has written.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A log opened for reading only.
///
/// It shows what was there at the last [`ReadOnlyLog::refresh`]; waiting refreshes by itself. A frame may be seen
/// here in the moment before the writer's sync is over. A torn last frame is left out, and left alone.
#[derive(Debug)]
pub struct ReadOnlyLog {
    directory: PathBuf,
    view: View,
    refreshing: Mutex<()>,
}

impl ReadOnlyLog {
    /// Opens the log in `directory`. A directory without segments is an empty log; none at all is an error.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, LogError> {
        let directory = directory.as_ref().to_owned();
        let catalog = load(&directory)?;
        let view = View::new(catalog, Options::default().open_segments_max);
        Ok(Self { directory, view, refreshing: Mutex::default() })
    }

    /// Takes in what was written and deleted since. Returns the new end.
    pub fn refresh(&self) -> Result<Lsn, LogError> {
        let _one_at_a_time = locked(&self.refreshing);
        let listing = segment::list(&self.directory)?;
        let mut catalog = self.view.catalog_mut();
        if follow(&mut catalog, &self.directory, &listing.segments)? == Followed::LostTrack {
            drop(catalog);
            let fresh = load(&self.directory)?;
            catalog = self.view.catalog_mut();
            *catalog = fresh;
        }
        let end = catalog.next_lsn;
        drop(catalog);
        self.view.publish_end(end);
        Ok(Lsn(end))
    }

    /// How large the log is.
    pub fn size(&self) -> LogSize {
        self.view.size()
    }

    /// Runs `read`, and once more with a fresh view where retention in the other process was faster.
    fn with_fresh_view<T>(&self, read: impl Fn() -> Result<T, LogError>) -> Result<T, LogError> {
        match read() {
            Err(LogError::Trimmed { .. }) => {
                self.refresh()?;
                read()
            }
            outcome => outcome,
        }
    }
}

/// Retention may delete a segment between its listing and its opening.
fn load(directory: &Path) -> Result<Catalog, LogError> {
    const TRIES_MAX: usize = 5;
    let mut tries = 0;
    loop {
        tries += 1;
        match recovery::load(directory, Access::Read, VerifyOnOpen::Active) {
            Err(LogError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound
                    && tries < TRIES_MAX
                    && directory.is_dir() => {}
            outcome => return outcome.map(|(catalog, _)| catalog),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Followed {
    UpToDate,
    /// What is known does not lead to what is there: everything has to be read again.
    LostTrack,
}

/// Goes from what `catalog` knows to what `segments`, listed just now, hold.
fn follow(catalog: &mut Catalog, directory: &Path, segments: &[u64]) -> Result<Followed, LogError> {
    while let (Some(known), Some(oldest)) = (catalog.sealed.front(), segments.first())
        && known.summary.first_batch < *oldest
    {
        catalog.sealed.pop_front();
    }
    loop {
        let Some(active) = catalog.active.as_ref() else { return Ok(Followed::LostTrack) };
        let Ok(place) = segments.binary_search(&active.header.first_batch) else {
            return Ok(Followed::LostTrack);
        };
        // An empty segment may have been read before its header was whole.
        if active.is_empty() && SegmentHeader::read(&active.path)? != Some(active.header) {
            return Ok(Followed::LostTrack);
        }
        let path = active.path.clone();
        let limit = active.file.metadata().map_err(LogError::io("inspect", &path))?.len();
        let bad = take_in(catalog, limit, Access::Read)?;
        let Some(next) = segments.get(place + 1) else {
            return match bad {
                Some(bad) if bad.was_acknowledged => Err(corrupt(&path, bad.at, bad.reason)),
                _ => Ok(Followed::UpToDate),
            };
        };
        if let Some(bad) = bad {
            return Err(corrupt(&path, bad.at, bad.reason));
        }
        let next_path = segment::segment_path(directory, *next);
        // Just being made: there is nothing in it yet.
        let Some(header) = SegmentHeader::read(&next_path)? else { return Ok(Followed::UpToDate) };
        if (header.first_batch, header.first_lsn) != (catalog.next_batch, catalog.next_lsn) {
            return Ok(Followed::LostTrack);
        }
        let file = std::fs::File::open(&next_path).map_err(LogError::io("open", &next_path))?;
        catalog.roll(Active::new(next_path, file, header));
    }
}

impl LogReader for ReadOnlyLog {
    fn read(
        &self,
        from: TopicPartition,
        offset: u64,
        records_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Record>, LogError> {
        self.with_fresh_view(|| self.view.read(from, offset, records_max, bytes_max))
    }

    fn replay(&self, from: Lsn, visit: &mut dyn FnMut(Record) -> ControlFlow<()>) -> Result<Lsn, LogError> {
        self.view.replay(from, visit)
    }

    fn start_offset(&self, of: TopicPartition) -> u64 {
        self.view.catalog().start_offset(of)
    }

    fn end_offset(&self, of: TopicPartition) -> u64 {
        self.view.catalog().end_offset(of)
    }

    fn start_lsn(&self) -> Lsn {
        Lsn(self.view.catalog().start_lsn())
    }

    fn end_lsn(&self) -> Lsn {
        Lsn(self.view.catalog().next_lsn)
    }

    fn partitions(&self) -> Vec<TopicPartition> {
        self.view.catalog().partitions()
    }

    fn position(&self, consumer: &str, of: TopicPartition) -> Option<u64> {
        self.view.catalog().position(consumer, of)
    }

    fn positions(&self) -> Vec<Position> {
        self.view.catalog().positions()
    }

    fn wait_past(&self, seen: Lsn, timeout: Duration) -> Lsn {
        let begun = Instant::now();
        loop {
            // An error shows itself again, with words, when the caller refreshes or reads.
            let end = self.refresh().unwrap_or_else(|_| self.end_lsn());
            let waited = begun.elapsed();
            if end > seen || waited >= timeout {
                return end;
            }
            thread::sleep(LOOK_EVERY.min(timeout.saturating_sub(waited)));
        }
    }
}
