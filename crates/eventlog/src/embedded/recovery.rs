//! Reads what a directory holds, and mends what a crash may leave behind: a torn last frame, a segment whose creation
//! was interrupted, a missing index. Anything else that is wrong is reported and left as it is.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::catalog::{Active, Catalog, Sealed};
use super::frame::Tables;
use super::index::{self, Summary};
use super::lock::sync_directory;
use super::options::VerifyOnOpen;
use super::scan::{BadFrame, FrameScanner, Scanned};
use super::segment::{self, FIRST_FRAME_AT, SegmentHeader};
use super::wire::Cursor;
use crate::error::LogError;

/// A write that never came to its end, and was never acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// The segment.
    pub segment: PathBuf,
    /// Where the frame begins.
    pub offset: u64,
    /// How many bytes of it there are.
    pub bytes: u64,
}

/// What opening a log found and mended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The torn frame that was cut, if there was one.
    pub torn: Option<TornTail>,
    /// How many segments there are.
    pub segments: usize,
    /// For how many sealed segments the index was built again.
    pub indexes_rebuilt: usize,
}

/// Whether what is found may be mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// The directory is locked by this process.
    Write,
    /// Another process may be writing.
    Read,
}

/// Reads the log in `directory`.
pub(super) fn load(
    directory: &Path,
    access: Access,
    verify: VerifyOnOpen,
) -> Result<(Catalog, Recovery), LogError> {
    let listing = segment::list(directory)?;
    let mut recovery = Recovery::default();
    if access == Access::Write {
        listing.leftovers.iter().try_for_each(|path| segment::remove(path))?;
    }
    let Some((last, before_last)) = listing.segments.split_last() else {
        return Ok((begin(directory, access)?, recovery));
    };
    recovery.segments = listing.segments.len();
    let mut sealed: Vec<Arc<Sealed>> = Vec::with_capacity(before_last.len());
    for first_batch in before_last {
        let path = segment::segment_path(directory, *first_batch);
        let (summary, is_rebuilt) = load_sealed(&path, access, verify)?;
        follows(sealed.last(), &path, summary.first_batch, summary.first_lsn)?;
        recovery.indexes_rebuilt += usize::from(is_rebuilt);
        sealed.push(Arc::new(Sealed { path: path.into(), summary }));
    }
    let path = segment::segment_path(directory, *last);
    let mut catalog = load_active(directory, &path, *last, access, sealed.last(), &mut recovery)?;
    catalog.sealed = sealed.into();
    if access == Access::Write {
        if recovery.indexes_rebuilt > 0 {
            sync_directory(directory)?;
        }
        make_durable(&catalog)?;
    }
    Ok((catalog, recovery))
}

/// A log without a segment.
fn begin(directory: &Path, access: Access) -> Result<Catalog, LogError> {
    let header = SegmentHeader::new(1, 0);
    let mut catalog = Catalog::at(&header);
    if access == Access::Write {
        let (path, file) = segment::create(directory, &header)?;
        catalog.active = Some(Active::new(path, file, header));
    }
    Ok(catalog)
}

/// What a process that was killed wrote but had not synced is read as committed from now on, so it has to be.
fn make_durable(catalog: &Catalog) -> Result<(), LogError> {
    catalog
        .active
        .as_ref()
        .map_or(Ok(()), |active| active.file.sync_all().map_err(LogError::io("sync", &active.path)))
}

/// Refuses a segment that does not go on where the one before it ended.
fn follows(
    previous: Option<&Arc<Sealed>>,
    path: &Path,
    first_batch: u64,
    first_lsn: u64,
) -> Result<(), LogError> {
    let Some(previous) = previous else { return Ok(()) };
    let (next_batch, next_lsn) = (previous.summary.next_batch, previous.summary.next_lsn);
    if (next_batch, next_lsn) == (first_batch, first_lsn) {
        return Ok(());
    }
    Err(corrupt(
        path,
        0,
        format!(
            "the segment begins with frame {first_batch} and LSN {first_lsn}, the one before it ends before frame \
             {next_batch} and LSN {next_lsn}"
        ),
    ))
}

pub(super) fn corrupt(path: &Path, offset: u64, reason: impl Into<String>) -> LogError {
    LogError::Corrupt { segment: path.to_owned(), offset, reason: reason.into() }
}

fn length(file: &File, path: &Path) -> Result<u64, LogError> {
    file.metadata().map(|metadata| metadata.len()).map_err(LogError::io("inspect", path))
}

/// The summary of a sealed segment, from its index or, where that is no good, from the segment.
fn load_sealed(path: &Path, access: Access, verify: VerifyOnOpen) -> Result<(Summary, bool), LogError> {
    let header = SegmentHeader::read(path)?
        .ok_or_else(|| corrupt(path, 0, "the segment has no header, and later segments exist"))?;
    let file = File::open(path).map_err(LogError::io("open", path))?;
    let bytes = length(&file, path)?;
    let index_path = segment::index_path(path);
    let known = index::read_summary(&index_path).filter(|summary| {
        (summary.salt, summary.first_batch, summary.first_lsn)
            == (header.salt, header.first_batch, header.first_lsn)
    });
    if let Some(summary) = &known
        && summary.bytes != bytes
    {
        let reason = format!("the sealed segment had {} bytes and now has {bytes}", summary.bytes);
        return Err(corrupt(path, bytes.min(summary.bytes), reason));
    }
    if let Some(summary) = known
        && verify == VerifyOnOpen::Active
    {
        return Ok((summary, false));
    }
    let catalog = read_sealed(path, file, header)?;
    let Some(active) = &catalog.active else { return Err(corrupt(path, 0, "the segment is gone")) };
    let summary = catalog.summary(active);
    let is_current = index::read(&index_path).is_some_and(|index| index == active.index)
        && index::read_summary(&index_path).as_ref() == Some(&summary);
    if !is_current && access == Access::Write {
        index::write(&index_path, &summary, &active.index)?;
        tracing::info!(segment = %path.display(), "rebuilt the index of a sealed log segment");
    }
    Ok((summary, !is_current))
}

/// Reads all of a sealed segment, in which every byte has to be right.
pub(super) fn read_sealed(path: &Path, file: File, header: SegmentHeader) -> Result<Catalog, LogError> {
    let bytes = length(&file, path)?;
    let mut catalog = Catalog::at(&header);
    catalog.active = Some(Active::new(path.to_owned(), file, header));
    match take_in(&mut catalog, bytes, Access::Write)? {
        Some(bad) => Err(corrupt(path, bad.at, bad.reason)),
        None => Ok(catalog),
    }
}

fn load_active(
    directory: &Path,
    path: &Path,
    first_batch: u64,
    access: Access,
    previous: Option<&Arc<Sealed>>,
    recovery: &mut Recovery,
) -> Result<Catalog, LogError> {
    let header = match SegmentHeader::read(path)? {
        Some(header) => header,
        None => interrupted_creation(directory, path, first_batch, access, previous)?,
    };
    follows(previous, path, header.first_batch, header.first_lsn)?;
    let file = OpenOptions::new()
        .read(true)
        .write(access == Access::Write)
        .open(path)
        .map_err(LogError::io("open", path))?;
    let bytes = length(&file, path)?;
    let mut catalog = Catalog::at(&header);
    catalog.active = Some(Active::new(path.to_owned(), file, header));
    if let Some(bad) = take_in(&mut catalog, bytes, access)? {
        if bad.was_acknowledged {
            return Err(corrupt(path, bad.at, bad.reason));
        }
        if access == Access::Write {
            recovery.torn = Some(cut(&catalog, path, bytes, &bad)?);
        }
    }
    match previous {
        // Nothing in it yet says where partitions and consumers stand: the segment before it does.
        Some(previous) if catalog.active.as_ref().is_some_and(Active::is_empty) => {
            carry_over(&mut catalog, previous)?;
        }
        None if header.first_batch > 1 && catalog.active.as_ref().is_some_and(Active::is_empty) => {
            let reason = "the segment is empty, and those before it are gone";
            return Err(corrupt(path, FIRST_FRAME_AT, reason));
        }
        _ => {}
    }
    Ok(catalog)
}

/// A file without a whole header and with nothing behind it: the process died while it made the segment.
fn interrupted_creation(
    directory: &Path,
    path: &Path,
    first_batch: u64,
    access: Access,
    previous: Option<&Arc<Sealed>>,
) -> Result<SegmentHeader, LogError> {
    let (next_batch, next_lsn) =
        previous.map_or((1, 0), |sealed| (sealed.summary.next_batch, sealed.summary.next_lsn));
    if first_batch != next_batch {
        return Err(corrupt(
            path,
            0,
            format!("the segment has no header, and frame {next_batch} is missing"),
        ));
    }
    let header = SegmentHeader::new(next_batch, next_lsn);
    if access == Access::Write {
        segment::create(directory, &header)?;
        tracing::info!(segment = %path.display(), "finished the interrupted creation of a log segment");
    }
    Ok(header)
}

fn carry_over(catalog: &mut Catalog, previous: &Sealed) -> Result<(), LogError> {
    let path = &previous.path;
    let header = SegmentHeader::read(path)?.ok_or_else(|| corrupt(path, 0, "the segment has no header"))?;
    let file = File::open(path).map_err(LogError::io("open", path))?;
    let before = read_sealed(path, file, header)?;
    catalog.ends = before.ends;
    catalog.positions = before.positions;
    catalog.epoch = before.epoch;
    Ok(())
}

/// Cuts what follows the last whole frame.
fn cut(catalog: &Catalog, path: &Path, bytes: u64, bad: &BadFrame) -> Result<TornTail, LogError> {
    if let Some(active) = &catalog.active {
        active.file.set_len(bad.at).map_err(LogError::io("truncate", path))?;
    }
    let torn = TornTail { segment: path.to_owned(), offset: bad.at, bytes: bytes - bad.at };
    tracing::info!(
        segment = %path.display(),
        offset = torn.offset,
        bytes = torn.bytes,
        reason = bad.reason,
        "cut a torn frame that was never acknowledged off the log"
    );
    Ok(torn)
}

/// Takes the frames behind the active segment's last one in, up to `limit`. Returns the bad one that it met.
pub(super) fn take_in(
    catalog: &mut Catalog,
    limit: u64,
    access: Access,
) -> Result<Option<BadFrame>, LogError> {
    let Some(active) = &catalog.active else { return Ok(None) };
    let (file, path, salt) = (Arc::clone(&active.file), Arc::clone(&active.path), active.header.salt);
    let mut scanner = FrameScanner::new((&file, &path), salt, active.bytes, limit, catalog.next_batch);
    loop {
        let mut found = scanner.next()?;
        if access == Access::Read && matches!(&found, Scanned::Bad(bad) if bad.was_acknowledged) {
            // A frame may have been half written when it was read and followed when its follower was looked for.
            found = scanner.reread()?;
        }
        match found {
            Scanned::Frame { at, header, payload } => {
                let mut cursor = Cursor::new(&payload);
                let tables = Tables::decode(&header, &mut cursor)
                    .map_err(|malformed| corrupt(&path, at, malformed.0))?;
                catalog.apply(at, &header, &tables).map_err(|reason| corrupt(&path, at, reason))?;
            }
            Scanned::End => return Ok(None),
            Scanned::Bad(bad) => return Ok(Some(bad)),
        }
    }
}
