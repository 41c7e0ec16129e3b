//! The one thread that writes: takes what waits, commits it as one transaction, publishes, acknowledges.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdkafka::message::OwnedHeaders;

use super::Shared;
use super::headers::{Place, headers_of, with_place};
use super::health::Health;
use super::ledger::{GroupClient, LaneName, Ledger, Positions, offsets, store};
use super::options::Options;
use super::producer::{Outgoing, TopicNames, Transactor, Trouble};
use super::view::{epoch_at, time_of};
use crate::error::LogError;
use crate::log::{Append, Committed, FrameId, Lsn, Position};
use crate::queue::{Gather, Queued, Taken, Waiting, tell};
use crate::record::{NewRecord, TopicPartition};

/// What a record's headers take, about, and what a position does.
const RECORD_OVERHEAD_BYTES: usize = 400;
const POSITION_OVERHEAD_BYTES: usize = 40;

/// Brokers forget a group's positions when nobody stored them for a week. A lane without work stores them so often.
const STORE_ALL_EVERY: Duration = Duration::from_hours(1);

/// How long one try to reach the cluster takes while it is away.
const TRY: Duration = Duration::from_secs(5);

/// How often a group may answer that it is just handing out its partitions before that counts as a no.
const NOT_MEMBER_MAX: u32 = 5;

/// Who was just told of a commit has its next append ready in a moment. So long it is waited for, as a part of what the
/// last transaction took and at most: a transaction costs the same for few records as for many.
const GATHER_SHARE: u32 = 4;
const GATHER_MAX: Duration = Duration::from_millis(10);

/// An append as the lane takes it.
pub(super) struct Prepared {
    records: Vec<(NewRecord, Option<OwnedHeaders>)>,
    positions: Vec<Position>,
    size: usize,
}

impl Prepared {
    /// Prepares in the caller's thread: the lane has one for everybody.
    pub(super) fn new(append: &Append, bytes_max: usize) -> Result<Self, LogError> {
        let contents =
            append.records.iter().map(|record| record.value.len() + record.key.len() + RECORD_OVERHEAD_BYTES);
        let positions =
            append.positions.iter().map(|position| position.consumer.len() + POSITION_OVERHEAD_BYTES);
        let size = contents.sum::<usize>() + positions.sum::<usize>();
        if size > bytes_max {
            return Err(LogError::TooLarge { bytes: size, bytes_max });
        }
        let records = append.records.iter().map(|record| (record.clone(), Some(headers_of(record))));
        Ok(Self { records: records.collect(), positions: append.positions.clone(), size })
    }

    fn is_empty(&self) -> bool {
        self.records.is_empty() && self.positions.is_empty()
    }

    fn records(&self) -> impl Iterator<Item = &NewRecord> {
        self.records.iter().map(|(record, _)| record)
    }
}

impl Queued for Prepared {
    fn records(&self) -> usize {
        self.records.len()
    }

    fn size(&self) -> usize {
        self.size
    }
}

/// The writer's own state.
pub(super) struct Lane {
    shared: Arc<Shared>,
    group: GroupClient,
    topics: TopicNames,
    /// Take turns. None while nobody knows what became of the last transaction.
    transactors: VecDeque<Transactor>,
    ledger: Ledger,
    /// What consumers have stored, as of the last transaction.
    positions: Positions,
    stored_all: Instant,
}

impl Lane {
    /// Takes the lane over: fences whoever had it, and claims the next epoch.
    pub(super) fn open(
        shared: Arc<Shared>,
        group: GroupClient,
        transactors: Vec<Transactor>,
        ledger: Ledger,
        positions: Positions,
    ) -> Result<Self, LogError> {
        let now_ms = shared.options.clock.now().timestamp_millis();
        let topics = TopicNames::new(&shared.options.connection);
        let stored_all = Instant::now();
        let transactors = transactors.into();
        let mut lane = Self { shared, group, topics, transactors, ledger, positions, stored_all };
        lane.ledger.epoch = epoch_at(now_ms, ledger.epoch);
        // Seeded by the system, differently each time: it tells owners apart and decides nothing else.
        lane.ledger.owner = RandomState::new().hash_one(now_ms);
        lane.store_all(true)?;
        Ok(lane)
    }

    pub(super) fn epoch(&self) -> u64 {
        self.ledger.epoch
    }

    /// Works until the queue is closed and empty, or something fails for good.
    pub(super) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let mut group = Vec::new();
        let error = match catch_unwind(AssertUnwindSafe(|| self.work(&mut group))) {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error),
            Err(_) => Some(LogError::Poisoned { reason: "the log's writer panicked".into() }),
        };
        if let Some(error) = error {
            // Every append is told from here on; who handles that logs it.
            tracing::debug!(%error, lane = %shared.lane.name, "the lane takes no more appends");
            let reason: Arc<str> = match &error {
                LogError::Poisoned { reason } => Arc::clone(reason),
                other => other.to_string().into(),
            };
            let later = shared.queue.poison(&reason);
            for waiting in group {
                tell(waiting.on_commit, Err(error.clone()));
            }
            for waiting in later {
                tell(waiting.on_commit, Err(LogError::Poisoned { reason: Arc::clone(&reason) }));
            }
        }
        shared.view.close();
    }

    fn work(&mut self, group: &mut Vec<Waiting<Prepared>>) -> Result<(), LogError> {
        let mut gather = Gather::default();
        loop {
            let patience = STORE_ALL_EVERY.saturating_sub(self.stored_all.elapsed());
            match self.shared.queue.take_group(group, Some(patience), gather) {
                Taken::Over => return Ok(()),
                Taken::Nothing => self.store_all(false)?,
                Taken::Group => {
                    if self.shared.is_abandoned.load(Ordering::Acquire) {
                        return Err(LogError::Closed);
                    }
                    let begun = Instant::now();
                    let is_cut = self.shared.queue.waiting() > 0;
                    let committed = self.commit(group)?;
                    // Those who are told now, and those who came meanwhile. Who is alone waits for nobody, and what
                    // did not fit into a group makes the next one by itself.
                    gather = Gather {
                        count: if is_cut { 0 } else { group.len() + self.shared.queue.waiting() },
                        patience: (begun.elapsed() / GATHER_SHARE).min(GATHER_MAX),
                    };
                    for (waiting, committed) in group.drain(..).zip(committed) {
                        tell(waiting.on_commit, Ok(committed));
                    }
                }
            }
        }
    }

    /// Stores every position anew, with the ledger.
    fn store_all(&mut self, is_claim: bool) -> Result<(), LogError> {
        let changed: Vec<TopicPartition> = self.positions.keys().copied().collect();
        let positions = self.positions.clone();
        self.transact(&mut [], positions, &changed, is_claim)?;
        self.stored_all = Instant::now();
        Ok(())
    }

    /// Makes `group` durable and visible.
    fn commit(&mut self, group: &mut [Waiting<Prepared>]) -> Result<Vec<Committed>, LogError> {
        if group.iter().all(|waiting| waiting.append.is_empty()) {
            let nothing = Committed {
                offsets: Vec::new(),
                follows: Vec::new(),
                first_lsn: self.shared.view.end_lsn(),
                frame: FrameId(self.ledger.frame),
                appended_at_ms: self.shared.options.clock.now().timestamp_millis(),
            };
            return Ok(vec![nothing; group.len()]);
        }
        let mut positions = self.positions.clone();
        let changed = store(&mut positions, group.iter().flat_map(|waiting| &waiting.append.positions));
        let done = self.transact(group, positions, &changed, false)?;
        let (mut offsets, mut follows) = (done.offsets.into_iter(), done.follows.into_iter());
        let mut lsn = done.first_lsn;
        let committed = group.iter().map(|waiting| {
            let count = waiting.append.records.len();
            let first_lsn = Lsn(lsn);
            lsn += count as u64;
            Committed {
                offsets: offsets.by_ref().take(count).collect(),
                follows: follows.by_ref().take(count).collect(),
                first_lsn: if count == 0 { self.shared.view.end_lsn() } else { first_lsn },
                frame: FrameId(self.ledger.frame),
                appended_at_ms: done.time_ms,
            }
        });
        Ok(committed.collect())
    }

    /// One transaction with the records of `group` and `positions`, of which `changed` are to be stored. Tried again
    /// until its outcome is certain.
    fn transact(
        &mut self,
        group: &mut [Waiting<Prepared>],
        positions: Positions,
        changed: &[TopicPartition],
        is_claim: bool,
    ) -> Result<Done, LogError> {
        let shared = Arc::clone(&self.shared);
        let count = group.iter().map(|waiting| waiting.append.records.len()).sum::<usize>();
        let mut not_member = 0;
        loop {
            let now_ms = shared.options.clock.now().timestamp_millis();
            let first = shared.view.begin(now_ms);
            // Never behind the LSN, so that the broker finds it by its time.
            let time_ms = now_ms.max(time_of(Lsn(first)));
            let lsn = if count == 0 { shared.view.end_lsn().0 } else { first + count as u64 };
            let next = Ledger { lsn, frame: self.ledger.frame + 1, ..self.ledger };
            let stored = offsets(&shared.options.connection, &shared.lane, next, &positions, changed)?;
            let outcome = self.attempt(group, count, first, time_ms, &stored);
            let outcome = match outcome {
                Err(trouble) => self.find_out(trouble, next, is_claim, &mut not_member),
                Ok(offsets) => Ok(Some(offsets)),
            };
            match outcome {
                Ok(Some(offsets)) => {
                    self.ledger = next;
                    self.positions.clone_from(&positions);
                    let records = group.iter().flat_map(|waiting| waiting.append.records());
                    let records = records.zip(offsets.iter().copied());
                    let follows = shared.view.committed(first, time_ms, records, positions);
                    self.note_up();
                    return Ok(Done { offsets, follows, first_lsn: first, time_ms });
                }
                Ok(None) => shared.view.gave_up(),
                Err(error) => {
                    shared.view.gave_up();
                    return Err(error);
                }
            }
        }
    }

    fn attempt(
        &mut self,
        group: &mut [Waiting<Prepared>],
        count: usize,
        first: u64,
        time_ms: i64,
        stored: &rdkafka::TopicPartitionList,
    ) -> Result<Vec<u64>, Trouble> {
        // The broker still marks the end of the last one's transaction, and would refuse it another until that is done.
        self.transactors.rotate_left(1.min(self.transactors.len()));
        let Some(transactor) = self.transactors.front() else {
            return Err(Trouble::Unknown("there is no producer".to_owned()));
        };
        let member = self.group.metadata().map_err(Trouble::Fatal)?;
        let (lane, epoch) = (&*self.shared.lane.name, self.ledger.epoch);
        let records = group.iter_mut().flat_map(|waiting| waiting.append.records.iter_mut());
        let messages = records.zip(first..).map(|((record, headers), lsn)| {
            // Made again where an earlier try used them up.
            let headers = headers.take().unwrap_or_else(|| headers_of(record));
            Outgoing {
                topic: self.topics.of(record.topic),
                partition: record.partition,
                key: &record.key,
                value: &record.value,
                time_ms,
                headers: with_place(headers, Place { lane, epoch, lsn: Lsn(lsn) }),
            }
        });
        transactor.transact(count, messages, stored, &member, &self.shared.spent)
    }

    /// Replaces the producer, and finds out whether the transaction that would have written `next` was committed:
    /// with which offsets, or `None` where it was not.
    fn find_out(
        &mut self,
        trouble: Trouble,
        next: Ledger,
        is_claim: bool,
        not_member: &mut u32,
    ) -> Result<Option<Vec<u64>>, LogError> {
        let lane = Arc::clone(&self.shared.lane.name);
        let reason = match trouble {
            Trouble::Fatal(error) => return Err(error),
            Trouble::NotMember(reason) if *not_member >= NOT_MEMBER_MAX => {
                return Err(LogError::Fenced { lane, reason });
            }
            Trouble::NotMember(reason) => {
                *not_member += 1;
                reason
            }
            Trouble::Fenced(reason) | Trouble::Unknown(reason) => reason,
        };
        tracing::debug!(lane = %lane, %reason, "a transaction was not acknowledged");
        // What was delivered is asked for before the old producer is gone.
        let offsets = self.transactors.front().and_then(Transactor::offsets);
        self.transactors.clear();
        let begun = Instant::now();
        loop {
            match self.take_back(next, &reason) {
                Ok(Some(stored)) if stored.frame >= next.frame => {
                    return offsets.map(Some).ok_or_else(|| LogError::Kafka {
                        what: "learn the offsets of a transaction".to_owned(),
                        brokers: Arc::clone(&self.shared.options.connection.brokers),
                        reason: "it was committed, and not every record of it was acknowledged".to_owned(),
                    });
                }
                Ok(_) => return Ok(None),
                Err(Trouble::Fatal(error)) => return Err(error),
                Err(Trouble::Fenced(reason) | Trouble::NotMember(reason)) => {
                    return Err(LogError::Fenced { lane, reason });
                }
                Err(Trouble::Unknown(why)) => {
                    self.note_away(&why);
                    let is_closing = self.shared.queue.is_closed() || is_claim;
                    if is_closing && begun.elapsed() > self.shared.options.patience {
                        let brokers = Arc::clone(&self.shared.options.connection.brokers);
                        return Err(LogError::Unreachable { brokers, reason: why });
                    }
                }
            }
        }
    }

    /// Starts a producer in place of the last one, unless somebody else owns the lane by now, and returns the ledger
    /// as it is after that, where this owner wrote it.
    fn take_back(&mut self, next: Ledger, reason: &str) -> Result<Option<Ledger>, Trouble> {
        let options = &self.shared.options;
        let load = || {
            let loaded = self.group.load(&self.shared.lane, TRY).map_err(|error| match error {
                LogError::Refused { .. } => Trouble::Fatal(error),
                other => Trouble::Unknown(other.to_string()),
            });
            let stored = loaded?.0.filter(|stored| stored.epoch >= next.epoch);
            match stored {
                Some(stored) if stored.owner != next.owner => Err(Trouble::Fenced(reason.to_owned())),
                stored => Ok(stored),
            }
        };
        // Before: a producer that is started would fence the new owner.
        load()?;
        let transactors = start_producers(options, &self.shared.lane, TRY)?;
        // After: what was left open is over now.
        let stored = load()?;
        self.transactors = transactors.into();
        Ok(stored)
    }

    /// Tells once that the cluster is away.
    fn note_away(&self, reason: &str) {
        let since = match self.shared.view.health() {
            Health::Away { since, .. } => since,
            Health::Up => Instant::now(),
        };
        let before = self.shared.view.set_health(Health::Away { since, reason: reason.to_owned() });
        if before == Health::Up {
            let (lane, brokers) = (&self.shared.lane.name, &self.shared.options.connection.brokers);
            tracing::warn!(%lane, %brokers, reason, "Kafka does not answer; appends wait");
        }
    }

    /// Tells once that it is back.
    fn note_up(&self) {
        if let Health::Away { since, .. } = self.shared.view.set_health(Health::Up) {
            let (lane, away_s) = (&self.shared.lane.name, since.elapsed().as_secs());
            tracing::info!(%lane, away_s, "Kafka answers again");
        }
    }
}

/// The producers of a lane, in place of those that it had: they are fenced, and what they left open is ended.
pub(super) fn start_producers(
    options: &Options,
    lane: &LaneName,
    patience: Duration,
) -> Result<Vec<Transactor>, Trouble> {
    let start = |id: &String| Transactor::new(&options.connection, id, options.transaction_timeout, patience);
    lane.transactional_ids.iter().map(start).collect()
}

/// What a transaction came to.
struct Done {
    offsets: Vec<u64>,
    follows: Vec<u64>,
    first_lsn: u64,
    time_ms: i64,
}
