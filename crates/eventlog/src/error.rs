//! What can go wrong with a log.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kintsugi_types::ErrorTier;

/// Why a log did not do what it was asked.
///
/// Cheap to clone, because one failed sync is the answer to many appends.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// The operating system refused: disk full, no permission, a read-only file system.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was tried, as a bare verb.
        what: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// Why it failed.
        source: Arc<io::Error>,
    },
    /// Another process has the log open for writing.
    #[error("log {} is in use by {}: stop it, or take another data directory", path.display(), holder(*pid))]
    Locked {
        /// The log's directory.
        path: PathBuf,
        /// The other process, where its id could be read.
        pid: Option<u32>,
    },
    /// Bytes that were once acknowledged are damaged. Nothing was changed.
    #[error("log segment {} is damaged at byte {offset}: {reason}", segment.display())]
    Corrupt {
        /// The damaged file.
        segment: PathBuf,
        /// Where the first damaged frame begins, in bytes.
        offset: u64,
        /// What is wrong there.
        reason: String,
    },
    /// A file was written by a version of this program that this one does not know.
    #[error("log segment {} has format {found}, this program reads format {supported}", segment.display())]
    Version {
        /// The file.
        segment: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format that is known here.
        supported: u32,
    },
    /// An earlier write or sync failed. What is on disk is unknown, so nothing more is written: restart.
    #[error("log takes no more appends after a failure: {reason}")]
    Poisoned {
        /// The failure.
        reason: Arc<str>,
    },
    /// Too much is waiting to become durable. Nothing of the append was taken; try again later.
    #[error("log queue is full with {appends} appends of {bytes} bytes")]
    Full {
        /// How many appends wait.
        appends: usize,
        /// How many bytes wait.
        bytes: usize,
    },
    /// One append is larger than the log takes.
    #[error("append of {bytes} bytes is larger than the {bytes_max} bytes that the log takes at once")]
    TooLarge {
        /// Its encoded size.
        bytes: usize,
        /// The most that is taken.
        bytes_max: usize,
    },
    /// What was asked for was deleted by retention.
    #[error("log begins at {oldest}, older records were deleted")]
    Trimmed {
        /// The oldest that is kept: an offset where an offset was asked for, an LSN where an LSN was.
        oldest: u64,
    },
    /// An event could not be encoded.
    #[error("encode {event_type}: {reason}")]
    Encode {
        /// The event's type.
        event_type: String,
        /// Why.
        reason: String,
    },
    /// The log was closed.
    #[error("log is closed")]
    Closed,
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

impl LogError {
    /// Whether the same call, unchanged, may succeed later.
    pub const fn is_retryable(&self) -> bool {
        self.tier().is_retryable()
    }

    /// How bad it is.
    pub const fn tier(&self) -> ErrorTier {
        match self {
            Self::Full { .. } => ErrorTier::Transient,
            Self::Io { .. }
            | Self::Locked { .. }
            | Self::TooLarge { .. }
            | Self::Trimmed { .. }
            | Self::Encode { .. } => ErrorTier::Recoverable,
            Self::Corrupt { .. } | Self::Version { .. } | Self::Poisoned { .. } | Self::Closed => {
                ErrorTier::Fatal
            }
        }
    }

    /// For `map_err`: names what was tried on which path.
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source: Arc::new(source) }
    }
}
