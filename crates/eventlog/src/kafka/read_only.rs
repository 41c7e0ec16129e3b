//! All lanes of a cluster at once, for whoever only looks: nothing is owned, stored or fenced.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kintsugi_events::Topic;
use kintsugi_types::{ByteCount, Clock as _, SystemClock};
use rdkafka::consumer::BaseConsumer;

use super::connection::{Connection, Told};
use super::fetch::{Fetcher, watermarks};
use super::health::{Answers, Health};
use super::ledger::Positions;
use super::reading::Reading;
use super::replay::{self, Sessions};
use super::topics;
use super::view::{Ends, View};
use crate::error::LogError;
use crate::log::{LogReader, Lsn, Position};
use crate::queue::locked;
use crate::record::{Record, TopicPartition};

/// How often the ends of all partitions are asked for while somebody looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long one question waits for its answer. The next is asked all the same.
const ASK_MAX: Duration = Duration::from_secs(5);

/// When nobody looked for so long, nothing is asked for any more.
const IDLE_AFTER: Duration = Duration::from_secs(10);

/// How many who follow the cluster may go on exactly where they stopped, and for how long they may pause.
const SESSIONS_MAX: usize = 8;
const SESSION_IDLE_MAX: Duration = Duration::from_mins(1);

/// The longest that a transaction of a lane stays open, and what the clocks of nodes may differ by.
const OVERLAP: Duration = Duration::from_secs(15);

struct Shared {
    connection: Connection,
    patience: Duration,
    partitions: u32,
    view: View,
    sessions: Sessions,
    /// Asks for the ends of partitions.
    asker: Mutex<BaseConsumer<Told>>,
    /// When somebody looked last; `None` while nothing is asked for.
    looked: Mutex<Option<Instant>>,
    answers: Answers,
    is_stopping: AtomicBool,
}

/// A view of everything that is committed on a cluster.
///
/// Records of lanes are merged by their LSN. Those of different lanes may bear the same, and be handed on with a lower
/// one after a higher one, because a lane commits when it is done: who follows sees each record once all the same.
pub struct ReadOnly {
    shared: Arc<Shared>,
    fetcher: Mutex<Fetcher>,
    watcher: Option<JoinHandle<()>>,
}

impl fmt::Debug for ReadOnly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadOnly").field("connection", &self.shared.connection).finish_non_exhaustive()
    }
}

impl ReadOnly {
    /// Opens all topics of the cluster. Opening and reading wait for a broker that does not answer for `patience`.
    ///
    /// Fails with [`LogError::Unreachable`] where no broker answers, [`LogError::Refused`] where the cluster does not
    /// let this client in, and [`LogError::Topic`] where a topic is missing or has another number of partitions.
    pub fn open(connection: Connection, patience: Duration) -> Result<Self, LogError> {
        let asker = connection.reader(1024)?;
        let partitions = topics::check_with(&connection, &asker, ByteCount(0), patience)?;
        let places = Topic::ALL.iter().flat_map(|topic| {
            (0..partitions).map(|partition| (TopicPartition::new(*topic, partition), Ends::default()))
        });
        let ends: BTreeMap<_, _> = places.collect();
        let shared = Arc::new(Shared {
            view: View::new(ends, &[], &[], Positions::new(), 0, 0),
            sessions: Sessions::new(SESSIONS_MAX, SESSION_IDLE_MAX),
            asker: Mutex::new(asker),
            looked: Mutex::new(Some(Instant::now())),
            answers: Answers::new(Instant::now()),
            is_stopping: AtomicBool::new(false),
            connection,
            patience,
            partitions,
        });
        shared.refresh(patience)?;
        let of_thread = Arc::clone(&shared);
        let watcher = thread::Builder::new()
            .name("kafka-watcher".to_owned())
            .spawn(move || watch(&of_thread))
            .map_err(|error| LogError::Kafka {
                what: "start the kafka-watcher thread".to_owned(),
                brokers: Arc::clone(&shared.connection.brokers),
                reason: error.to_string(),
            })?;
        Ok(Self { shared, fetcher: Mutex::default(), watcher: Some(watcher) })
    }

    /// How many partitions each topic has on the cluster.
    pub fn partition_count(&self) -> u32 {
        self.shared.partitions
    }

    /// Asks the cluster for what was committed since, and returns the new end. Waiting does so by itself.
    pub fn refresh(&self) -> Result<Lsn, LogError> {
        self.shared.refresh(self.shared.patience)?;
        Ok(self.shared.view.end_lsn())
    }

    /// Whether the cluster answers, as far as somebody looks.
    pub fn health(&self) -> Health {
        let is_asked = locked(&self.shared.looked).is_some();
        if is_asked { self.shared.answers.health(Instant::now()) } else { Health::Up }
    }

    /// Notes that somebody looks. What was not asked for meanwhile is asked for now.
    fn look(&self) {
        let before = locked(&self.shared.looked).replace(Instant::now());
        if before.is_none() {
            if let Some(watcher) = &self.watcher {
                watcher.thread().unpark();
            }
            self.shared.answers.begin_anew(Instant::now());
            self.shared.ask();
        }
    }
}

impl Shared {
    /// Asks, and notes whether an answer came.
    fn ask(&self) {
        if let Err(error) = self.refresh(ASK_MAX.min(self.patience)) {
            tracing::debug!(%error, "ask for the ends of topics");
            self.answers.failed(error.to_string());
        }
    }

    fn refresh(&self, patience: Duration) -> Result<(), LogError> {
        let places = self.view.places();
        let found = watermarks(&self.connection, &locked(&self.asker), &places, patience)?;
        self.answers.begin_anew(Instant::now());
        let now_ms = SystemClock.now().timestamp_millis();
        self.view.refresh(places.into_iter().zip(found), now_ms);
        Ok(())
    }

    fn reading(&self) -> Reading<'_> {
        Reading {
            connection: &self.connection,
            patience: self.patience,
            lane: None,
            view: &self.view,
            sessions: &self.sessions,
            overlap: OVERLAP,
        }
    }
}

/// Asks for the ends of all partitions as long as somebody looks.
fn watch(shared: &Shared) {
    while !shared.is_stopping.load(Ordering::Acquire) {
        let is_idle = {
            let mut looked = locked(&shared.looked);
            if looked.is_some_and(|looked| looked.elapsed() > IDLE_AFTER) {
                *looked = None;
            }
            looked.is_none()
        };
        shared.sessions.prune();
        if is_idle {
            thread::park_timeout(IDLE_AFTER);
            continue;
        }
        shared.ask();
        thread::park_timeout(LOOK_EVERY);
    }
}

impl LogReader for ReadOnly {
    fn read(
        &self,
        from: TopicPartition,
        offset: u64,
        records_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Record>, LogError> {
        self.look();
        let ends = self.shared.view.ends(from);
        if records_max == 0 || offset >= ends.end() {
            return Ok(Vec::new());
        }
        if offset < ends.start {
            return Err(LogError::Trimmed { oldest: ends.start });
        }
        let limits = (records_max, bytes_max);
        locked(&self.fetcher).read(&self.shared.reading(), from, offset, ends, limits)
    }

    /// Whoever goes on where an earlier call of this process stopped, within a minute, sees every record of every
    /// lane once. Who begins elsewhere misses none from there on, and sees those of the last seconds before it too.
    fn replay(&self, from: Lsn, visit: &mut dyn FnMut(Record) -> ControlFlow<()>) -> Result<Lsn, LogError> {
        self.replay_topics(Topic::ALL, from, visit)
    }

    fn replay_topics(
        &self,
        topics: &[Topic],
        from: Lsn,
        visit: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<Lsn, LogError> {
        self.look();
        replay::replay(&self.shared.reading(), topics, from, visit)
    }

    fn start_offset(&self, of: TopicPartition) -> u64 {
        self.shared.view.ends(of).start
    }

    fn end_offset(&self, of: TopicPartition) -> u64 {
        self.look();
        self.shared.view.ends(of).end()
    }

    fn start_lsn(&self) -> Lsn {
        Lsn(0)
    }

    fn end_lsn(&self) -> Lsn {
        self.look();
        self.shared.view.end_lsn()
    }

    fn partitions(&self) -> Vec<TopicPartition> {
        self.shared.view.partitions()
    }

    /// Not known: positions are their lanes' own.
    fn position(&self, _: &str, _: TopicPartition) -> Option<u64> {
        None
    }

    /// Not known: positions are their lanes' own.
    fn positions(&self) -> Vec<Position> {
        Vec::new()
    }

    fn wait_past(&self, seen: Lsn, timeout: Duration) -> Lsn {
        self.look();
        let until = Instant::now() + timeout;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let end = self.shared.view.wait_past(seen, left.min(IDLE_AFTER / 2));
            if end > seen || left.is_zero() {
                return end;
            }
            self.look();
        }
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        self.shared.is_stopping.store(true, Ordering::Release);
        if let Some(watcher) = self.watcher.take() {
            watcher.thread().unpark();
            let _ = watcher.join();
        }
        self.shared.sessions.clear();
    }
}
