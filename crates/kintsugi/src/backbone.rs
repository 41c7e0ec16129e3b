//! The log that a node works on, whichever it is.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kintsugi_eventlog::embedded::{LogSize, Options};
use kintsugi_eventlog::kafka::Membership;
use kintsugi_eventlog::{EmbeddedLog, LogReader};
use kintsugi_runtime::{Lanes, Node};

use crate::cluster::{Away, Cluster};
use crate::failure::{Explain as _, Failure};
use crate::file_lock;
use crate::log_choice::LogChoice;
use crate::resolved::Resolved;
use crate::run_folder::RunFolder;

/// The log that a node works on.
pub(crate) enum Backbone {
    /// The one in its folder, whose lock keeps other processes out.
    Embedded(Arc<EmbeddedLog>),
    /// A cluster. The lock keeps other processes out of the folder.
    Kafka { cluster: Box<Cluster>, _lock: File },
}

/// How the log is.
#[derive(Debug)]
pub(crate) enum Standing {
    /// So large it is.
    Embedded(LogSize),
    /// Whether the cluster is away.
    Kafka {
        /// Nothing where it answers.
        away: Option<Away>,
    },
}

impl Backbone {
    /// How the log is now.
    pub(crate) fn standing(&self) -> Standing {
        match self {
            Self::Embedded(log) => Standing::Embedded(log.size()),
            Self::Kafka { cluster, .. } => Standing::Kafka { away: cluster.away() },
        }
    }

    /// Opens the log for a node in `folder`. From here on every other process is kept out of the folder.
    pub(crate) fn open(
        choice: &LogChoice,
        resolved: &Resolved,
        dir: &Path,
        folder: &RunFolder,
    ) -> Result<Self, Failure> {
        match choice {
            LogChoice::Embedded => {
                let segment_bytes = resolved.settings.log.segment_bytes;
                let options = Options { segment_bytes, ..Options::default() };
                let log = EmbeddedLog::open(RunFolder::log(&folder.path), options)?;
                Ok(Self::Embedded(Arc::new(log)))
            }
            LogChoice::Kafka(brokers) => {
                let id = folder.manifest.run.to_string();
                // Before anything is written: a start that is refused leaves no folder behind.
                let cluster = Cluster::open(brokers, &resolved.settings, dir, Some(&id))?;
                let lock = lock(&folder.path)?;
                Ok(Self::Kafka { cluster: Box::new(cluster), _lock: lock })
            }
        }
    }

    /// Everything that the log holds, whoever works on it.
    pub(crate) fn reader(&self) -> Arc<dyn LogReader> {
        match self {
            Self::Embedded(log) => log.clone(),
            Self::Kafka { cluster, .. } => cluster.reader().clone(),
        }
    }

    /// What the node is made with.
    pub(crate) fn lanes(&self) -> Lanes {
        match self {
            Self::Embedded(log) => Lanes::Only(log.clone()),
            Self::Kafka { cluster, .. } => cluster.lanes(),
        }
    }

    /// Takes part in a cluster, where the log is one.
    pub(crate) fn join(&self, node: &Arc<Node>) -> Result<Option<Membership>, Failure> {
        match self {
            Self::Embedded(_) => Ok(None),
            Self::Kafka { cluster, .. } => cluster.join(node).map(Some),
        }
    }
}

/// Keeps other processes out of `folder` for as long as the file is open.
pub(crate) fn lock(folder: &Path) -> Result<File, Failure> {
    let path = lock_file(folder);
    let what = || format!("lock {}", path.display());
    let busy = || {
        Failure::outside(format_args!(
            "{} is in use by another process: stop it, or name another folder with --data-dir",
            folder.display()
        ))
    };
    let file = File::options().create(true).append(true).open(&path).outside(what)?;
    // A start that was refused may take the file away meanwhile.
    file_lock::lock(&file, &path, busy)?;
    Ok(file)
}

/// The file whose lock keeps other processes out of `folder`.
pub(crate) fn lock_file(folder: &Path) -> PathBuf {
    folder.join("lock")
}
