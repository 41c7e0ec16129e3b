//! Reads a segment's frames one after the other and says what is wrong where one is bad.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use bytes::Bytes;

use super::frame::{FRAME_BYTES_MAX, FrameHeader, HEADER_BYTES, HEADER_BYTES_U64, MAGIC};
use crate::error::LogError;

const CHUNK_BYTES: usize = 256 * 1024;

/// What stands at a place in a segment.
#[derive(Debug)]
pub(super) enum Scanned {
    /// A whole, undamaged frame.
    Frame {
        /// Where it begins.
        at: u64,
        /// Its header.
        header: FrameHeader,
        /// Its payload.
        payload: Bytes,
    },
    /// Nothing more.
    End,
    /// Something that is no frame.
    Bad(BadFrame),
}

/// A place at which no frame can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BadFrame {
    /// Where it begins.
    pub(super) at: u64,
    /// Whether acknowledged bytes are damaged, as opposed to a write that never came to its end.
    pub(super) was_acknowledged: bool,
    /// What is wrong, in words.
    pub(super) reason: String,
    /// Where the next frame begins, if one is found.
    pub(super) next: Option<u64>,
}

/// Walks over the frames of one segment.
#[derive(Debug)]
pub(super) struct FrameScanner<'a> {
    file: &'a File,
    path: &'a Path,
    salt: u32,
    at: u64,
    /// Nothing behind this is looked at.
    limit: u64,
    expected_batch: u64,
    chunk: Bytes,
    chunk_at: u64,
}

impl<'a> FrameScanner<'a> {
    /// Begins at `at`, where frame `expected_batch` should stand, and ends at `limit`.
    pub(super) fn new(
        (file, path): (&'a File, &'a Path),
        salt: u32,
        at: u64,
        limit: u64,
        expected_batch: u64,
    ) -> Self {
        Self { file, path, salt, at, limit, expected_batch, chunk: Bytes::new(), chunk_at: 0 }
    }

    /// Reads what stands next. After a bad frame the scanner stays where it is; see [`Self::skip_to`].
    pub(super) fn next(&mut self) -> Result<Scanned, LogError> {
        let at = self.at;
        if at >= self.limit {
            return Ok(Scanned::End);
        }
        let Some(head) = self.bytes(at, HEADER_BYTES)? else {
            return Ok(self.torn("the file ends within a frame's header"));
        };
        let Some(header) = FrameHeader::decode(&head, self.salt) else {
            return self.damaged_header();
        };
        if header.batch != self.expected_batch {
            let reason = format!("frame {} stands where frame {} should", header.batch, self.expected_batch);
            return Ok(Scanned::Bad(BadFrame { at, was_acknowledged: true, reason, next: Some(at) }));
        }
        let end = at + header.frame_bytes();
        // A u32 that does not fit usize cannot be held in memory, nor can it have been written from there.
        let payload_bytes = usize::try_from(header.payload_bytes).unwrap_or(usize::MAX);
        let payload = if end > self.limit { None } else { self.bytes(at + HEADER_BYTES_U64, payload_bytes)? };
        let Some(payload) = payload else {
            return Ok(self.torn("the file ends within a frame"));
        };
        if !header.payload_is_intact(&payload, self.salt) {
            // The next frame is begun only after this one was synced, so anything behind it proves that it was.
            let was_acknowledged = end < self.limit;
            let reason = format!("the contents of frame {} do not match their checksum", header.batch);
            let next = was_acknowledged.then_some(end);
            return Ok(Scanned::Bad(BadFrame { at, was_acknowledged, reason, next }));
        }
        self.at = end;
        self.expected_batch += 1;
        Ok(Scanned::Frame { at, header, payload })
    }

    /// Goes on at `at`, whichever frame stands there.
    pub(super) fn skip_to(&mut self, at: u64) -> Result<(), LogError> {
        self.at = at;
        let header = self.bytes(at, HEADER_BYTES)?.and_then(|head| FrameHeader::decode(&head, self.salt));
        self.expected_batch = header.map_or(self.expected_batch + 1, |header| header.batch);
        Ok(())
    }

    /// Reads the same place from the file once more, for one that another process is writing.
    pub(super) fn reread(&mut self) -> Result<Scanned, LogError> {
        self.chunk = Bytes::new();
        self.next()
    }

    fn torn(&self, reason: &str) -> Scanned {
        Scanned::Bad(BadFrame { at: self.at, was_acknowledged: false, reason: reason.to_owned(), next: None })
    }

    /// A header that cannot be read is a torn write only if no later frame was begun behind it.
    fn damaged_header(&mut self) -> Result<Scanned, LogError> {
        let at = self.at;
        let rest_bytes = self.limit - at;
        let bad = |reason: String, next| Scanned::Bad(BadFrame { at, was_acknowledged: true, reason, next });
        if let Some((next, header)) = self.find_later_frame(at + 1)? {
            let reason = format!(
                "frame {} has no readable header, and frame {} follows at byte {next}",
                self.expected_batch, header.batch
            );
            return Ok(bad(reason, Some(next)));
        }
        if rest_bytes > FRAME_BYTES_MAX {
            return Ok(bad(format!("{rest_bytes} unreadable bytes are more than one frame"), None));
        }
        Ok(self.torn("the last frame's header is not whole"))
    }

    /// Looks at every byte from `from` on for the header of a frame that comes after the expected one.
    ///
    /// A frame that is a copy of an earlier one, inside somebody's value, has too low a number.
    fn find_later_frame(&mut self, from: u64) -> Result<Option<(u64, FrameHeader)>, LogError> {
        let mut base = from;
        while base + HEADER_BYTES_U64 <= self.limit {
            let rest = usize::try_from(self.limit - base).unwrap_or(usize::MAX);
            let Some(window) = self.bytes(base, rest.min(CHUNK_BYTES))? else { return Ok(None) };
            let mut searched = 0;
            while let Some(found) = find(&window, MAGIC, searched) {
                let candidate = base + found as u64;
                let head = self.bytes(candidate, HEADER_BYTES)?;
                if let Some(header) = head.and_then(|head| FrameHeader::decode(&head, self.salt))
                    && header.batch > self.expected_batch
                {
                    return Ok(Some((candidate, header)));
                }
                searched = found + 1;
            }
            // Windows overlap by what a magic number across their border needs.
            base += (window.len() - (MAGIC.len() - 1)) as u64;
        }
        Ok(None)
    }

    /// `count` bytes at `at`, or `None` where the file or the limit ends before.
    fn bytes(&mut self, at: u64, count: usize) -> Result<Option<Bytes>, LogError> {
        if at.saturating_add(count as u64) > self.limit {
            return Ok(None);
        }
        if let Some(found) = self.chunk_part(at, count) {
            return Ok(Some(found));
        }
        let rest = usize::try_from(self.limit - at).unwrap_or(usize::MAX);
        let mut chunk = vec![0; rest.min(count.max(CHUNK_BYTES))];
        let filled = read_up_to(self.file, &mut chunk, at).map_err(LogError::io("read", self.path))?;
        chunk.truncate(filled);
        self.chunk = chunk.into();
        self.chunk_at = at;
        // A file that another process cut meanwhile is shorter than it was.
        Ok(self.chunk_part(at, count))
    }

    fn chunk_part(&self, at: u64, count: usize) -> Option<Bytes> {
        let begin = usize::try_from(at.checked_sub(self.chunk_at)?).ok()?;
        let end = begin.checked_add(count)?;
        (end <= self.chunk.len()).then(|| self.chunk.slice(begin..end))
    }
}

fn find(haystack: &[u8], needle: [u8; 4], from: usize) -> Option<usize> {
    let [first, ..] = needle;
    let mut from = from;
    loop {
        let rest = haystack.get(from..)?;
        let found = from + rest.iter().position(|byte| *byte == first)?;
        if haystack.get(found..found + needle.len())? == needle.as_slice() {
            return Some(found);
        }
        from = found + 1;
    }
}

/// Fills `buffer` from `at` as far as the file goes; returns how many bytes that were.
pub(super) fn read_up_to(file: &File, buffer: &mut [u8], at: u64) -> std::io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
