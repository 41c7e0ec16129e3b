//! The log on a Kafka cluster: the same contract, kept by transactions.
//!
//! A [`KafkaLog`] is one *lane*: one or a few partition numbers over all topics, with two producers that take turns. Every
//! group commit is one transaction: all appends that queued up while the one before was being committed, over all
//! their topics, with the positions of consumers and the lane's ledger. A transaction costs by the partitions that
//! it touches, not by its records, and that is why a lane holds few.
//!
//! Whoever opens a lane owns it: the owner before is fenced, its open transaction is ended, and the next epoch is
//! claimed. What this process commits it knows, and of the topics of [`Options::kept`] it has it in memory; what others
//! write to the topics of [`Options::followed`] a thread notices; everything else is read from the broker when it is
//! asked for.
//!
//! Modules in reading order: `options`, `connection`, `topics`, `headers` (a record as a message), `health`, `ledger`
//! (positions and how far the lane is), `membership` (which partitions a node has), `view` (what is known in memory),
//! `tail`, `wakeup` (waiting for a producer), `producer` (one transaction), `spent` (what it took), `lane` (the thread
//! that writes), `follower`, `reading`, `fetch`, `replay`; without a lane `read_only` and `publisher`.
//!
//! Nothing here aborts a transaction or trusts a producer after a failure, and no lane joins a group.

mod connection;
mod fetch;
mod follower;
mod group;
mod headers;
mod health;
mod lane;
mod ledger;
mod membership;
mod options;
mod producer;
mod publisher;
mod read_only;
mod reading;
mod replay;
mod spent;
mod tail;
pub mod topics;
mod view;
mod wakeup;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kintsugi_events::Topic;

pub use self::connection::Connection;
pub use self::health::Health;
pub use self::membership::{Change, Membership, MembershipOptions};
pub use self::options::{Options, Predecessor, STAGES};
pub use self::publisher::Publisher;
pub use self::read_only::ReadOnly;
pub use self::spent::Transactions;

use self::fetch::{Fetcher, watermarks};
use self::lane::{Lane, Prepared, start_producers};
use self::ledger::{GroupClient, LaneName, Ledger, go_on_from};
use self::producer::Trouble;
use self::reading::Reading;
use self::replay::Sessions;
use self::spent::Spent;
use self::view::{Ends, Source, View, lsn_at};
use crate::error::LogError;
use crate::log::{Append, EventLog, LogReader, Lsn, OnCommit, Position};
use crate::queue::{Limits, Queue, Waiting, locked};
use crate::record::{Record, TopicPartition};

/// How many who follow a lane may go on exactly where they stopped, and for how long they may pause.
const SESSIONS_MAX: usize = 2;
const SESSION_IDLE_MAX: Duration = Duration::from_secs(10);

/// What the log and its threads share.
struct Shared {
    options: Options,
    lane: LaneName,
    view: View,
    queue: Queue<Prepared>,
    sessions: Sessions,
    spent: Spent,
    /// Ends the follower.
    is_stopping: AtomicBool,
    /// Ends the writer without committing what is queued.
    is_abandoned: AtomicBool,
}

impl Shared {
    fn reading(&self) -> Reading<'_> {
        Reading {
            connection: &self.options.connection,
            patience: self.options.patience,
            lane: Some(&self.lane.name),
            view: &self.view,
            sessions: &self.sessions,
            overlap: Duration::ZERO,
        }
    }
}

/// One lane of a log on a Kafka cluster.
pub struct KafkaLog {
    shared: Arc<Shared>,
    append_bytes_max: usize,
    epoch: u64,
    partitions: u32,
    fetcher: Mutex<Fetcher>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl fmt::Debug for KafkaLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaLog")
            .field("connection", &self.shared.options.connection)
            .field("lane", &self.shared.lane.name)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

impl KafkaLog {
    /// Takes the lane over, from whoever had it.
    ///
    /// Fails with [`LogError::Unreachable`] where no broker answers, [`LogError::Refused`] where the cluster does
    /// not let this client in, [`LogError::Topic`] where a topic is missing or has another form, and
    /// [`LogError::Fenced`] where somebody else takes it over at the same time.
    pub fn open(options: Options) -> Result<Self, LogError> {
        let connection = &options.connection;
        let lane = LaneName::new(&options);
        let group = GroupClient::new(connection, &options.group)?;
        let patience = options.patience;
        let partitions =
            topics::check_with(connection, group.consumer(), options.append_bytes_max, patience)?;
        if let Some(partition) = lane.partitions.iter().copied().find(|partition| *partition >= partitions) {
            return Err(LogError::OtherLane {
                at: TopicPartition::new(Topic::Agents, partition),
                lane: lane.name,
            });
        }
        // From here on nobody else writes for this lane, and nothing that somebody wrote is undecided.
        let transactors = start_producers(&options, &lane, patience).map_err(|trouble| match trouble {
            Trouble::Fatal(error) => error,
            Trouble::Unknown(reason) => LogError::Unreachable { brokers: connection.brokers.clone(), reason },
            Trouble::Fenced(reason) | Trouble::NotMember(reason) => {
                LogError::Fenced { lane: lane.name.clone(), reason }
            }
        })?;
        let (ledger, mut positions) = group.load(&lane, patience)?;
        go_on_from(&options.predecessors, connection, &lane, &mut positions, patience)?;
        let reader = connection.reader(1024)?;
        let places: Vec<TopicPartition> = lane.places().collect();
        let found = watermarks(connection, &reader, &places, patience)?;
        let ends = places.into_iter().zip(found);
        let ends = ends.map(|(at, (start, opened))| (at, Ends { start, opened, ..Ends::default() }));
        let ends: BTreeMap<_, _> = ends.collect();
        drop(reader);
        // A stage's lane may be new where a node has worked for long.
        let has_worked = options.stage.is_none()
            && ends.iter().any(|(at, ends)| at.topic == Topic::Agents && ends.opened > 0);
        let is_forgotten = ledger.is_none() && has_worked;
        let ledger = ledger.unwrap_or_else(|| {
            // Everything that is there was committed before now.
            let lsn = if is_forgotten { lsn_at(options.clock.now().timestamp_millis()) } else { 0 };
            Ledger { lsn, ..Ledger::default() }
        });
        let bytes = |limit: kintsugi_types::ByteCount| usize::try_from(limit.bytes()).unwrap_or(usize::MAX);
        let append_bytes_max = bytes(options.append_bytes_max);
        let tail_bytes_max = bytes(options.tail_bytes_max);
        let shared = Arc::new(Shared {
            view: View::new(
                ends,
                &options.followed,
                &options.kept,
                positions.clone(),
                ledger.lsn,
                tail_bytes_max,
            ),
            queue: Queue::new(Limits {
                appends: options.queue_appends_max.max(1),
                bytes: bytes(options.queue_bytes_max),
                group_records: options.group_records_max.max(1),
                group_bytes: append_bytes_max,
            }),
            sessions: Sessions::new(SESSIONS_MAX, SESSION_IDLE_MAX),
            spent: Spent::default(),
            is_stopping: AtomicBool::new(false),
            is_abandoned: AtomicBool::new(false),
            lane,
            options,
        });
        if is_forgotten {
            tracing::warn!(
                lane = %shared.lane.name, group = %shared.options.group,
                "Kafka has forgotten how far this lane had come, as it does where nobody runs for longer than \
                 `offsets.retention.minutes`: goals are read from the beginning, and known ones passed over; what \
                 stages had not looked at stays so"
            );
            shared.view.forget_positions();
        }
        let lane = Lane::open(Arc::clone(&shared), group, transactors, ledger, positions)?;
        let epoch = lane.epoch();
        let log = Self {
            append_bytes_max,
            epoch,
            partitions,
            fetcher: Mutex::default(),
            threads: Mutex::default(),
            shared: Arc::clone(&shared),
        };
        log.start("kafka-lane", move || lane.run())?;
        log.start("kafka-follower", move || follower::run(&shared))?;
        Ok(log)
    }

    fn start(&self, role: &str, work: impl FnOnce() + Send + 'static) -> Result<(), LogError> {
        let thread = thread::Builder::new()
            .name(format!("{role}-{}", self.shared.lane.name))
            .spawn(work)
            .map_err(|error| LogError::Kafka {
                what: format!("start the {role} thread"),
                brokers: Arc::clone(&self.shared.options.connection.brokers),
                reason: error.to_string(),
            })?;
        locked(&self.threads).push(thread);
        Ok(())
    }

    /// The number of this owner of the lane: later ones have higher numbers.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How many partitions each topic has on the cluster.
    pub const fn partition_count(&self) -> u32 {
        self.partitions
    }

    /// What its transactions took so far.
    pub fn transactions(&self) -> Transactions {
        self.shared.spent.take()
    }

    /// Whether the cluster can be reached.
    pub fn health(&self) -> Health {
        self.shared.view.health()
    }

    /// Lets the lane go as a process does that is killed: what is queued is not committed, and nothing is ended on
    /// the cluster.
    pub fn abandon(&self) {
        self.shared.is_abandoned.store(true, Ordering::Release);
        // Whoever drops the log after this waits for nothing.
        self.shared.queue.close();
        self.shared.is_stopping.store(true, Ordering::Release);
    }

    fn check_lane(&self, at: TopicPartition) -> Result<(), LogError> {
        if self.shared.lane.holds(at) {
            return Ok(());
        }
        Err(LogError::OtherLane { at, lane: Arc::clone(&self.shared.lane.name) })
    }
}

impl LogReader for KafkaLog {
    fn read(
        &self,
        from: TopicPartition,
        offset: u64,
        records_max: usize,
        bytes_max: usize,
    ) -> Result<Vec<Record>, LogError> {
        self.check_lane(from)?;
        if records_max == 0 {
            return Ok(Vec::new());
        }
        let view = &self.shared.view;
        let ends = match view.read(from, offset, records_max, bytes_max, self.shared.options.patience) {
            Source::Memory(records) => return Ok(records),
            Source::Broker(ends) => ends,
        };
        if offset < ends.start {
            return Err(LogError::Trimmed { oldest: ends.start });
        }
        locked(&self.fetcher).read(&self.shared.reading(), from, offset, ends, (records_max, bytes_max))
    }

    fn replay(&self, from: Lsn, visit: &mut dyn FnMut(Record) -> ControlFlow<()>) -> Result<Lsn, LogError> {
        self.replay_topics(Topic::ALL, from, visit)
    }

    fn replay_topics(
        &self,
        topics: &[Topic],
        from: Lsn,
        visit: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<Lsn, LogError> {
        replay::replay(&self.shared.reading(), topics, from, visit)
    }

    fn start_offset(&self, of: TopicPartition) -> u64 {
        self.shared.view.ends(of).start
    }

    fn end_offset(&self, of: TopicPartition) -> u64 {
        self.shared.view.ends(of).end()
    }

    fn start_lsn(&self) -> Lsn {
        // Topics lose their oldest records one by one: there is no one place from which on all is kept.
        Lsn(0)
    }

    fn end_lsn(&self) -> Lsn {
        self.shared.view.end_lsn()
    }

    fn partitions(&self) -> Vec<TopicPartition> {
        self.shared.view.partitions()
    }

    fn position(&self, consumer: &str, of: TopicPartition) -> Option<u64> {
        self.shared.view.position(consumer, of)
    }

    fn positions(&self) -> Vec<Position> {
        self.shared.view.list_positions()
    }

    fn wait_past(&self, seen: Lsn, timeout: Duration) -> Lsn {
        self.shared.view.wait_past(seen, timeout)
    }
}

impl EventLog for KafkaLog {
    fn append(&self, append: &Append, on_commit: OnCommit) -> Result<(), LogError> {
        let positions =
            append.positions.iter().map(|position| TopicPartition::new(position.topic, position.partition));
        // A record may go to another lane's partition, a position may not.
        for at in positions {
            self.check_lane(at)?;
        }
        if let Some(lost) = append.records.iter().find(|record| record.partition >= self.partitions) {
            let lane = Arc::clone(&self.shared.lane.name);
            return Err(LogError::OtherLane { at: lost.topic_partition(), lane });
        }
        let append = Prepared::new(append, self.append_bytes_max)?;
        self.shared.queue.push(Waiting { append, on_commit })
    }

    fn wait_for_room(&self) {
        self.shared.queue.wait_for_room();
    }

    fn close(&self) -> Result<(), LogError> {
        self.shared.queue.close();
        let threads = std::mem::take(&mut *locked(&self.threads));
        let here = thread::current().id();
        // The last handle may be dropped by an appender that the writer is just telling.
        for thread in threads.into_iter().filter(|thread| thread.thread().id() != here) {
            if thread.thread().name().is_some_and(|name| name.starts_with("kafka-follower")) {
                // Reading goes on without it, from the broker.
                self.shared.is_stopping.store(true, Ordering::Release);
            }
            // The writer turns its own panics into poison, and the follower's only slow readers down.
            let _ = thread.join();
        }
        self.shared.sessions.clear();
        self.shared.queue.poisoned().map_or(Ok(()), Err)
    }
}

impl Drop for KafkaLog {
    fn drop(&mut self) {
        // Nobody is left to be told; a failure was logged by the writer.
        let _ = self.close();
    }
}
