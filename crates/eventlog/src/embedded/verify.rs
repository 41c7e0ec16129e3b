//! Reads every byte of a log and names every damaged place.

use std::fs::File;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::codec::BodyReader;
use super::frame::FrameHeader;
use super::reader::each_record;
use super::recovery::TornTail;
use super::scan::{FrameScanner, Scanned};
use super::segment::{self, FIRST_FRAME_AT, SegmentHeader};
use crate::error::LogError;

/// One damaged place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The segment.
    pub segment: PathBuf,
    /// Where it begins.
    pub offset: u64,
    /// What is wrong.
    pub reason: String,
}

/// What verifying a log found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verification {
    /// Segments read.
    pub segments: usize,
    /// Whole frames read.
    pub frames: u64,
    /// Whole records read.
    pub records: u64,
    /// Every damaged place, oldest first.
    pub damages: Vec<Damage>,
    /// A write that is under way, or that never came to its end. No damage: it was never acknowledged.
    pub torn: Option<TornTail>,
}

impl Verification {
    /// Whether every acknowledged byte is as it was written.
    pub fn is_intact(&self) -> bool {
        self.damages.is_empty()
    }
}

/// Reads the log in `directory`, which another process may be writing. Changes nothing and takes no lock.
pub fn verify(directory: impl AsRef<Path>) -> Result<Verification, LogError> {
    let directory = directory.as_ref();
    let listing = segment::list(directory)?;
    let mut verification = Verification::default();
    let mut expected: Option<Expected> = None;
    for (place, first_batch) in listing.segments.iter().enumerate() {
        let is_last = place + 1 == listing.segments.len();
        let path = segment::segment_path(directory, *first_batch);
        expected = match verify_segment(&mut verification, &path, expected, is_last) {
            Ok(next) => Some(next),
            // Retention deleted it, and with it all before, since they were listed.
            Err(LogError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => None,
            Err(other) => return Err(other),
        };
        verification.segments += usize::from(expected.is_some());
    }
    Ok(verification)
}

/// What the next frame has to begin with.
#[derive(Debug, Clone, Copy)]
struct Expected {
    batch: u64,
    lsn: u64,
}

fn verify_segment(
    verification: &mut Verification,
    path: &Path,
    expected: Option<Expected>,
    is_last: bool,
) -> Result<Expected, LogError> {
    let damage = |offset, reason: String| Damage { segment: path.to_owned(), offset, reason };
    let unknown = expected.unwrap_or(Expected { batch: 1, lsn: 0 });
    let header = match SegmentHeader::read(path) {
        Ok(Some(header)) => header,
        Ok(None) if is_last => return Ok(unknown),
        Ok(None) => {
            verification.damages.push(damage(0, "the segment has no header".to_owned()));
            return Ok(unknown);
        }
        // Without its header's salt no frame of the segment can be told from noise.
        Err(LogError::Corrupt { offset, reason, .. }) => {
            verification.damages.push(damage(offset, reason));
            return Ok(unknown);
        }
        Err(other) => return Err(other),
    };
    if let Some(expected) = expected
        && (expected.batch, expected.lsn) != (header.first_batch, header.first_lsn)
    {
        let reason = format!(
            "the segment begins with frame {} and LSN {}, the one before it ends before frame {} and LSN {}",
            header.first_batch, header.first_lsn, expected.batch, expected.lsn
        );
        verification.damages.push(damage(0, reason));
    }
    let file = File::open(path).map_err(LogError::io("open", path))?;
    let limit = file.metadata().map_err(LogError::io("inspect", path))?.len();
    let mut scanner =
        FrameScanner::new((&file, path), header.salt, FIRST_FRAME_AT, limit, header.first_batch);
    let mut bodies = BodyReader::default();
    let mut next = Expected { batch: header.first_batch, lsn: header.first_lsn };
    loop {
        let mut found = scanner.next()?;
        if is_last && matches!(&found, Scanned::Bad(bad) if bad.was_acknowledged) {
            // It may have been half written when it was read.
            found = scanner.reread()?;
        }
        match found {
            Scanned::Frame { at, header, payload } => {
                verification.frames += 1;
                verification.records += u64::from(header.record_count);
                next = Expected { batch: header.batch + 1, lsn: header.next_lsn() };
                if let Some(reason) = unreadable(&header, &payload, &mut bodies) {
                    verification.damages.push(damage(at, reason.to_owned()));
                }
            }
            Scanned::End => return Ok(next),
            Scanned::Bad(bad) if bad.was_acknowledged || !is_last => {
                verification.damages.push(damage(bad.at, bad.reason));
                let Some(again) = bad.next else { return Ok(next) };
                scanner.skip_to(again)?;
            }
            Scanned::Bad(bad) => {
                let bytes = limit - bad.at;
                verification.torn = Some(TornTail { segment: path.to_owned(), offset: bad.at, bytes });
                return Ok(next);
            }
        }
    }
}

/// Why the records of a frame whose checksum is right cannot be read, if so.
fn unreadable(header: &FrameHeader, payload: &Bytes, bodies: &mut BodyReader) -> Option<&'static str> {
    each_record(header, payload, |place| {
        bodies.read(payload, place.raw.body)?;
        Ok(ControlFlow::Continue(()))
    })
    .err()
    .map(|malformed| malformed.0)
}
