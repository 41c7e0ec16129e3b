//! What can go wrong with a log.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kintsugi_types::ErrorTier;

use crate::record::TopicPartition;

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
    /// No broker of a Kafka cluster answers.
    #[error("no Kafka broker answers at {brokers}: {reason}; check the address, and that the broker runs")]
    Unreachable {
        /// The addresses that were tried.
        brokers: Arc<str>,
        /// Why, as far as it is known.
        reason: String,
    },
    /// A Kafka cluster does not let this client do what it has to.
    #[error(
        "Kafka at {brokers} refuses this client: {reason}; check user, password, certificates and rights"
    )]
    Refused {
        /// The addresses of the cluster.
        brokers: Arc<str>,
        /// Why, as far as it is known.
        reason: String,
    },
    /// A topic on a Kafka cluster is missing or not as it has to be.
    #[error("topic {topic} at {brokers} {problem}; {remedy}")]
    Topic {
        /// The topic's name there.
        topic: String,
        /// The addresses of the cluster.
        brokers: Arc<str>,
        /// What is wrong with it.
        problem: String,
        /// What mends it.
        remedy: String,
    },
    /// Another owner has taken the lane over. What this one had under way was not committed.
    #[error("lane {lane} was taken over by another owner: {reason}; this process has to let go of it")]
    Fenced {
        /// The lane's name.
        lane: Arc<str>,
        /// How that showed.
        reason: String,
    },
    /// A partition that this log does not hold was named.
    #[error("partition {at} does not belong to lane {lane}")]
    OtherLane {
        /// What was named.
        at: TopicPartition,
        /// The lane's name.
        lane: Arc<str>,
    },
    /// A Kafka cluster answered something that leaves no way to go on, or nothing for too long.
    #[error("{what} at {brokers}: {reason}")]
    Kafka {
        /// What was tried, as a bare verb with its object.
        what: String,
        /// The addresses of the cluster.
        brokers: Arc<str>,
        /// Why it failed.
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
            | Self::Encode { .. }
            | Self::OtherLane { .. } => ErrorTier::Recoverable,
            Self::Corrupt { .. }
            | Self::Version { .. }
            | Self::Poisoned { .. }
            | Self::Unreachable { .. }
            | Self::Refused { .. }
            | Self::Topic { .. }
            | Self::Fenced { .. }
            | Self::Kafka { .. }
            | Self::Closed => ErrorTier::Fatal,
        }
    }

    /// For `map_err`: names what was tried on which path.
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source: Arc::new(source) }
    }
}
