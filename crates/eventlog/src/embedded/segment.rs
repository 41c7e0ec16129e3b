//! Segment files: their names, their header, and which ones a directory holds.
//!
//! ```text
//! header (40 bytes): magic [8] | format u32 | salt u32 | first batch u64 | first LSN u64 | reserved u32 | crc u32
//! ```

use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher as _, RandomState};
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

use super::lock::sync_directory;
use super::wire::Cursor;
use crate::error::LogError;

pub(super) const SEGMENT_HEADER_BYTES: usize = 40;
/// The header's length as a distance in a file: where the first frame begins.
pub(super) const FIRST_FRAME_AT: u64 = SEGMENT_HEADER_BYTES as u64;

const MAGIC: [u8; 8] = *b"KINTSEG\n";
const FORMAT: u32 = 1;
const SEGMENT_SUFFIX: &str = ".segment";
const INDEX_SUFFIX: &str = ".index";
const UNFINISHED_SUFFIX: &str = ".unfinished";

/// What a segment says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// Mixed into every CRC in the segment.
    pub(super) salt: u32,
    /// The number of its first frame; also its name.
    pub(super) first_batch: u64,
    /// The LSN of its first record.
    pub(super) first_lsn: u64,
}

/// Why a file does not begin with a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderError {
    /// It is damaged.
    Damaged,
    /// It is of a later format.
    Format(u32),
}

impl SegmentHeader {
    /// A header with a salt that nobody can guess.
    pub(super) fn new(first_batch: u64, first_lsn: u64) -> Self {
        let [a, b, c, d, ..] = RandomState::new().hash_one(first_batch).to_le_bytes();
        Self { salt: u32::from_le_bytes([a, b, c, d]), first_batch, first_lsn }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&self.salt.to_le_bytes());
        out.extend_from_slice(&self.first_batch.to_le_bytes());
        out.extend_from_slice(&self.first_lsn.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let damaged = |_| HeaderError::Damaged;
        let (body, crc) = bytes
            .get(..SEGMENT_HEADER_BYTES)
            .and_then(|header| header.split_last_chunk::<4>())
            .ok_or(HeaderError::Damaged)?;
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return Err(HeaderError::Damaged);
        }
        let mut cursor = Cursor::new(body.strip_prefix(&MAGIC).ok_or(HeaderError::Damaged)?);
        let format = cursor.u32("format").map_err(damaged)?;
        if format != FORMAT {
            return Err(HeaderError::Format(format));
        }
        Ok(Self {
            salt: cursor.u32("salt").map_err(damaged)?,
            first_batch: cursor.u64("first batch").map_err(damaged)?,
            first_lsn: cursor.u64("first LSN").map_err(damaged)?,
        })
    }

    /// Reads the header of the segment at `path`. `Ok(None)` where the file is no longer than a header and holds no
    /// whole one: its creation was interrupted, and no frame was ever written behind it.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, LogError> {
        let file = File::open(path).map_err(LogError::io("open", path))?;
        let mut bytes = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        (&file).take(FIRST_FRAME_AT).read_to_end(&mut bytes).map_err(LogError::io("read", path))?;
        let length = file.metadata().map_err(LogError::io("inspect", path))?.len();
        let corrupt = |reason: &str| LogError::Corrupt {
            segment: path.to_owned(),
            offset: 0,
            reason: reason.to_owned(),
        };
        match Self::decode(&bytes) {
            Ok(header) if segment_number(path) == Some(header.first_batch) => Ok(Some(header)),
            Ok(_) => Err(corrupt("the segment's header belongs to another name")),
            Err(HeaderError::Format(found)) => {
                Err(LogError::Version { segment: path.to_owned(), found, supported: FORMAT })
            }
            Err(HeaderError::Damaged) if length <= FIRST_FRAME_AT => Ok(None),
            Err(HeaderError::Damaged) => Err(corrupt("the segment's header is damaged")),
        }
    }
}

/// The path of the segment whose first frame is `first_batch`.
pub(super) fn segment_path(directory: &Path, first_batch: u64) -> PathBuf {
    directory.join(format!("{first_batch:020}{SEGMENT_SUFFIX}"))
}

/// The path of the index that belongs to `segment`.
pub(super) fn index_path(segment: &Path) -> PathBuf {
    segment.with_extension(INDEX_SUFFIX.trim_start_matches('.'))
}

fn segment_number(path: &Path) -> Option<u64> {
    number_before(path.file_name()?.to_str()?, SEGMENT_SUFFIX)
}

fn number_before(name: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_suffix(suffix)?;
    (digits.len() == 20).then(|| digits.parse().ok()).flatten()
}

/// What a directory holds of a log.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// First frames of the segments, ascending.
    pub(super) segments: Vec<u64>,
    /// Indexes without a segment, and files whose writing was interrupted.
    pub(super) leftovers: Vec<PathBuf>,
}

/// Lists `directory`. Files that no log writes are left out.
pub(super) fn list(directory: &Path) -> Result<Listing, LogError> {
    let mut listing = Listing::default();
    let mut indexes = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(LogError::io("list", directory))? {
        let path = entry.map_err(LogError::io("list", directory))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if let Some(first_batch) = number_before(name, SEGMENT_SUFFIX) {
            listing.segments.push(first_batch);
        } else if let Some(first_batch) = number_before(name, INDEX_SUFFIX) {
            indexes.push((first_batch, path));
        } else if name.ends_with(UNFINISHED_SUFFIX) {
            listing.leftovers.push(path);
        }
    }
    listing.segments.sort_unstable();
    let orphans = indexes.into_iter().filter(|(first, _)| listing.segments.binary_search(first).is_err());
    listing.leftovers.extend(orphans.map(|(_, path)| path));
    Ok(listing)
}

/// Creates a segment, or makes one anew whose creation was interrupted, and makes it durable.
pub(super) fn create(directory: &Path, header: &SegmentHeader) -> Result<(PathBuf, File), LogError> {
    let path = segment_path(directory, header.first_batch);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(LogError::io("create", &path))?;
    // Only a file without frames is ever made anew: see `SegmentHeader::read`.
    file.set_len(0).map_err(LogError::io("truncate", &path))?;
    (&file).write_all(&header.encode()).map_err(LogError::io("write", &path))?;
    file.sync_all().map_err(LogError::io("sync", &path))?;
    sync_directory(directory)?;
    Ok((path, file))
}

/// Writes `bytes` so that after a crash the file is whole or not there. The caller syncs the directory.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), LogError> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(UNFINISHED_SUFFIX);
    let unfinished = PathBuf::from(unfinished);
    let mut file = File::create(&unfinished).map_err(LogError::io("create", &unfinished))?;
    file.write_all(bytes).map_err(LogError::io("write", &unfinished))?;
    file.sync_data().map_err(LogError::io("sync", &unfinished))?;
    std::fs::rename(&unfinished, path).map_err(LogError::io("rename", &unfinished))
}

/// Deletes a file that may already be gone.
pub(super) fn remove(path: &Path) -> Result<(), LogError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(LogError::io("delete", path)(error)),
        _ => Ok(()),
    }
}
