//! Brings a run's goals onto a cluster, each once, however often the broker goes away meanwhile.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kintsugi_eventlog::kafka::{Connection, Publisher, ReadOnly};
use kintsugi_eventlog::{LogError, NewRecord, partition_of};
use kintsugi_events::Goal;
use kintsugi_runtime::publish::{PublishError, goal_event};
use kintsugi_types::SystemClock;

use crate::failure::{Explain as _, Failure};
use crate::live::Live;
use crate::run::GOALS_AT_ONCE;

/// How long a broker may be silent before that is told. A goal may take as long as it likes.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a cluster is left alone that did not answer.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// How often it is looked how far the view is.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How far the feed is.
#[derive(Debug, Clone)]
pub(crate) enum Fed {
    /// It is at it.
    Feeding,
    /// It waits for the cluster, for this reason.
    Waiting(String),
    /// Every goal is on the topic.
    All,
    /// It cannot go on.
    Failed(String),
}

/// The thread that publishes. It ends when everything is published, or soon after this is dropped: it may wait for a
/// broker just then, and nothing waits for it.
#[derive(Debug)]
pub(crate) struct GoalFeed {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    fed: Mutex<Fed>,
    is_stopping: AtomicBool,
}

impl GoalFeed {
    /// Begins to publish what of `goals` is not on the topic yet. `live` is a view of them. With `are_new` nobody can
    /// have published any of them before.
    pub(crate) fn start(
        goals: &[Goal],
        are_new: bool,
        connection: Connection,
        reader: Arc<ReadOnly>,
        live: Arc<Live>,
    ) -> Result<Self, Failure> {
        let shared = Arc::new(Shared { fed: Mutex::new(Fed::Feeding), is_stopping: AtomicBool::new(false) });
        let feeding = Feeding {
            goals: goals.iter().cloned().collect(),
            is_unsure: !are_new,
            connection,
            publisher: None,
            reader,
            live,
            shared: shared.clone(),
        };
        std::thread::Builder::new()
            .name("goal-feed".to_owned())
            .spawn(move || feeding.run())
            .outside(|| "start thread".to_owned())?;
        Ok(Self { shared })
    }

    /// How far it is.
    pub(crate) fn fed(&self) -> Fed {
        self.shared.fed().clone()
    }
}

impl Drop for GoalFeed {
    fn drop(&mut self) {
        self.shared.is_stopping.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn fed(&self) -> MutexGuard<'_, Fed> {
        self.fed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the thread works with.
struct Feeding {
    /// Goals that are not known to be on the topic, in order.
    goals: VecDeque<Goal>,
    /// Whether some of them may be there all the same.
    is_unsure: bool,
    connection: Connection,
    publisher: Option<Publisher>,
    reader: Arc<ReadOnly>,
    live: Arc<Live>,
    shared: Arc<Shared>,
}

impl Feeding {
    fn run(mut self) {
        while !self.goals.is_empty() && !self.is_stopping() {
            match self.feed_some() {
                Ok(()) => *self.shared.fed() = Fed::Feeding,
                Err(PublishError::Log(
                    failure @ (LogError::Unreachable { .. }
                    | LogError::Kafka { .. }
                    | LogError::Trimmed { .. }),
                )) => {
                    *self.shared.fed() = Fed::Waiting(failure.to_string());
                    std::thread::park_timeout(AGAIN_AFTER);
                }
                Err(failure) => {
                    *self.shared.fed() = Fed::Failed(failure.to_string());
                    return;
                }
            }
        }
        *self.shared.fed() = Fed::All;
    }

    fn is_stopping(&self) -> bool {
        self.shared.is_stopping.load(Ordering::Relaxed)
    }

    /// Publishes the next goals, or finds out which of them are there already.
    fn feed_some(&mut self) -> Result<(), PublishError> {
        if self.is_unsure {
            let end = self.reader.refresh()?;
            while self.live.seen() < end {
                if self.is_stopping() {
                    return Ok(());
                }
                std::thread::park_timeout(LOOK_EVERY);
            }
            let view = self.live.view();
            self.goals.retain(|goal| !goal.id.as_ref().is_some_and(|id| view.is_published(id)));
            self.is_unsure = false;
            return Ok(());
        }
        let publisher = match &self.publisher {
            Some(publisher) => publisher,
            None => self.publisher.insert(Publisher::open(self.connection.clone(), PATIENCE)?),
        };
        let some = self.goals.iter().take(GOALS_AT_ONCE);
        let records = some.map(|goal| record(goal, publisher.partition_count()));
        let records = records.collect::<Result<Vec<_>, PublishError>>()?;
        // Some may be there after an error.
        self.is_unsure = true;
        if let Err(failure) = publisher.publish(&records) {
            // One that cannot publish any more never can again, and does not say so: the next try has another.
            self.publisher = None;
            return Err(failure.into());
        }
        self.is_unsure = false;
        self.goals.drain(..records.len());
        Ok(())
    }
}

fn record(goal: &Goal, partitions: u32) -> Result<NewRecord, PublishError> {
    let event = goal_event(goal, &SystemClock)?;
    let partition = partition_of(event.envelope.subject.to_string().as_bytes(), partitions);
    Ok(NewRecord::from_event(&event, partition)?)
}
