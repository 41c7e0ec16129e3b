//! A thread that lets go of what the log of a long-lived node need not keep.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use kintsugi_runtime::{Keep, Node};
use tracing::warn;

use crate::failure::{Explain as _, Failure};
use crate::live::Live;
use crate::settings::LogSettings;

/// How often it looks. Where nothing is old enough that costs next to nothing.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The thread. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Upkeep {
    is_stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Upkeep {
    /// Looks after the log of `node` from now on. What is not in `live` yet is kept.
    pub(crate) fn start(settings: LogSettings, node: Arc<Node>, live: Arc<Live>) -> Result<Self, Failure> {
        let is_stopping = Arc::new(AtomicBool::new(false));
        let is_over = is_stopping.clone();
        let thread = std::thread::Builder::new()
            .name("log-retention".to_owned())
            .spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let keep = Keep {
                        age_min: Duration::from_secs(settings.retention_hours.saturating_mul(3600)),
                        bytes_min: settings.retention_bytes,
                        from: live.seen(),
                    };
                    // Whatever fails is tried again; a log that takes no more appends ends the node by itself.
                    if let Err(failure) = node.retain(&keep) {
                        warn!(%failure, "delete the oldest of the log");
                    }
                    std::thread::park_timeout(LOOK_EVERY);
                }
            })
            .outside(|| "start thread".to_owned())?;
        Ok(Self { is_stopping, thread: Some(thread) })
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A thread that panicked has nothing more to tell.
            let _ = thread.join();
        }
    }
}
