//! What a running node's log says, kept up to date: folded once, then followed.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use kintsugi_eventlog::{LogError, LogReader, Lsn};
use kintsugi_events::Event;
use tokio::sync::watch;
use tracing::{error, warn};

use crate::failure::{Explain, Failure};
use crate::healing_metrics::HealingMetrics;
use crate::outsiders::event_of;
use crate::partitions_read::PartitionsRead;
use crate::view::{Keep, Origin, RunView};

/// What is kept of what is over: some tens of megabytes. Older goals are looked up in the log.
const KEEP: Keep = Keep { goals_ended: 10_000, healing: 4_000, metrics: 10_000, contradictions: 100 };

/// Records that are taken in at once: readers wait no longer than that takes.
const RECORDS_AT_ONCE: usize = 512;

/// How long the follower waits for news before it looks whether it shall stop.
const WAIT: Duration = Duration::from_millis(500);

/// How long an unreadable log is left alone.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A view that follows the log.
#[derive(Debug)]
pub(crate) struct Live {
    view: RwLock<RunView>,
    /// What the healing events add up to.
    pub(crate) healing: HealingMetrics,
    /// The next place in the log that is not yet in the view.
    seen: watch::Sender<Lsn>,
    is_stopping: AtomicBool,
}

/// The thread that follows the log. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Follower {
    live: Arc<Live>,
    thread: Option<JoinHandle<()>>,
}

impl Live {
    /// Begins to follow `log` from its oldest event on.
    pub(crate) fn follow(log: Arc<dyn LogReader>) -> Result<(Arc<Self>, Follower), Failure> {
        let (view, from) = (RunView::beginning(log.as_ref(), Some(KEEP))?, log.start_lsn());
        Self::follow_with(log, view, from)
    }

    /// Begins to follow `log` from `from` on, into `view`.
    pub(crate) fn follow_with(
        log: Arc<dyn LogReader>,
        view: RunView,
        from: Lsn,
    ) -> Result<(Arc<Self>, Follower), Failure> {
        let live = Arc::new(Self {
            view: RwLock::new(view),
            healing: HealingMetrics::new(),
            seen: watch::Sender::new(from),
            is_stopping: AtomicBool::new(false),
        });
        let follower = live.clone();
        let thread = std::thread::Builder::new()
            .name("log-follower".to_owned())
            .spawn(move || follower.run(log.as_ref()))
            .outside(|| "start thread".to_owned())?;
        Ok((live.clone(), Follower { live, thread: Some(thread) }))
    }

    /// The view as it is now. Hold it shortly: news wait for it.
    pub(crate) fn view(&self) -> RwLockReadGuard<'_, RunView> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next place in the log that is not yet in the view.
    pub(crate) fn seen(&self) -> Lsn {
        *self.seen.borrow()
    }

    /// Hears whenever the view has grown.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Lsn> {
        self.seen.subscribe()
    }

    fn run(&self, log: &dyn LogReader) {
        let mut next = self.seen();
        let mut read = PartitionsRead::default();
        while !self.is_stopping.load(Ordering::Relaxed) {
            match self.take_some(log, next, &mut read) {
                Ok(after) if after > next => {
                    next = after;
                    self.seen.send_replace(next);
                }
                Ok(_) => {
                    log.wait_past(next, WAIT);
                }
                Err(failure) => {
                    error!(%failure, at = next.0, "follow log");
                    std::thread::park_timeout(AGAIN_AFTER);
                }
            }
        }
    }

    /// Takes in the next records and returns where to go on. What came before a failure is taken in too.
    fn take_some(&self, log: &dyn LogReader, from: Lsn, read: &mut PartitionsRead) -> Result<Lsn, LogError> {
        let mut events: Vec<(Event, Origin)> = Vec::new();
        let mut records = 0;
        let next = log.replay(from, &mut |record| {
            if !read.note(&record) {
                return ControlFlow::Continue(());
            }
            records += 1;
            match event_of(&record) {
                Ok(Some(event)) => events.push((event, Origin::of(&record))),
                // Somebody else wrote it, and it is no event.
                Ok(None) => {}
                Err(failure) => {
                    warn!(topic = %record.topic, offset = record.offset, %failure, "passed over");
                }
            }
            if records < RECORDS_AT_ONCE { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        for (event, _) in &events {
            self.healing.take(event);
        }
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        for (event, origin) in events {
            view.take(event, origin);
        }
        next
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.live.is_stopping.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has nothing more to tell.
            let _ = thread.join();
        }
    }
}
