//! Reading a lane's records over all topics, in the order of commit.
//!
//! Each partition comes in order by itself. The lane's own records carry their LSN, and are merged by it; a record
//! of others comes right after its predecessor in its partition. A session stays open for a while, so that whoever
//! follows the lane goes on exactly where it stopped. Where there is none, the broker's index of times says where
//! to begin, because an LSN is made of time.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kintsugi_events::Topic;
use rdkafka::Offset;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::connection::Told;
use super::follower::list;
use super::headers::{self, Read};
use super::reading::{Epochs, Reading, position};
use super::view::{Ends, Snapshot, lsn_at, time_of};
use crate::error::LogError;
use crate::log::Lsn;
use crate::queue::locked;
use crate::record::{Record, TopicPartition};

/// Memory for what was fetched and not looked at yet, in KiB, of all partitions together.
const MEMORY_KIB: u32 = 16 * 1024;

/// Records of one transaction share a time, and their LSNs run ahead of it by no more than this.
const TIME_SLACK_MS: i64 = 1_000;

/// How long the client library is asked for the next record of a partition at once.
const POLL: Duration = Duration::from_millis(50);

/// Sessions that may be gone on with.
pub(super) struct Sessions {
    open: Mutex<Vec<Session>>,
    /// How many stay open.
    count_max: usize,
    /// How long one that nobody goes on with stays open.
    idle_max: Duration,
}

impl Sessions {
    pub(super) const fn new(count_max: usize, idle_max: Duration) -> Self {
        Self { open: Mutex::new(Vec::new()), count_max, idle_max }
    }

    /// Somebody is still there who may go on from here.
    fn touch(&self, from: Lsn, topics: &[Topic]) {
        let mut sessions = locked(&self.open);
        let at_it = sessions.iter_mut().filter(|session| session.cursor == from && session.topics == topics);
        at_it.for_each(|session| session.used = Instant::now());
    }

    fn take(&self, from: Lsn, topics: &[Topic]) -> Option<Session> {
        let mut sessions = locked(&self.open);
        let place = sessions.iter().position(|session| session.cursor == from && session.topics == topics)?;
        Some(sessions.swap_remove(place))
    }

    fn keep(&self, session: Session) {
        let mut sessions = locked(&self.open);
        if sessions.len() >= self.count_max {
            let oldest =
                sessions.iter().enumerate().min_by_key(|(_, session)| session.used).map(|(place, _)| place);
            if let Some(oldest) = oldest {
                sessions.swap_remove(oldest);
            }
        }
        sessions.push(session);
    }

    /// Ends sessions that nobody went on with.
    pub(super) fn prune(&self) {
        locked(&self.open).retain(|session| session.used.elapsed() < self.idle_max);
    }

    /// Ends all.
    pub(super) fn clear(&self) {
        locked(&self.open).clear();
    }
}

/// One reader of all partitions.
struct Session {
    /// The LSN that it goes on from.
    cursor: Lsn,
    topics: Vec<Topic>,
    /// Where it was begun: what lies below was not asked for.
    floor: Lsn,
    // Before the consumer, whose queues these are.
    streams: Vec<Stream>,
    consumer: Arc<BaseConsumer<Told>>,
    used: Instant,
}

/// One partition on its way through a session.
struct Stream {
    at: TopicPartition,
    queue: PartitionQueue<Told>,
    /// What comes next.
    head: Option<Read>,
    /// The offset after what was handed on or is the head.
    next: u64,
    /// The end of the partition was reached since this was begun: everything that was there then has come.
    has_ended: bool,
    epochs: Epochs,
}

impl Stream {
    /// Whether the head belongs to what the call covers.
    fn has_head(&self, ends: Ends) -> bool {
        self.head.as_ref().is_some_and(|head| head.record.offset < ends.end())
    }

    /// Whether there is nothing more to wait for.
    fn is_done(&self, ends: Ends) -> bool {
        self.head.is_some() || self.next >= ends.end() || (self.next >= ends.certain() && self.has_ended)
    }
}

/// Hands every committed record of `topics` from `from` on to `visit`.
pub(super) fn replay(
    shared: &Reading<'_>,
    topics: &[Topic],
    from: Lsn,
    visit: &mut dyn FnMut(Record) -> ControlFlow<()>,
) -> Result<Lsn, LogError> {
    let snapshot = shared.view.snapshot();
    if from >= snapshot.end {
        shared.sessions.touch(from, topics);
        return Ok(from);
    }
    let mut session = match shared.sessions.take(from, topics) {
        Some(session) => session,
        None => Session::begin(shared, topics, from, &snapshot)?,
    };
    session.run(shared, from, &snapshot, visit)?;
    let cursor = session.cursor;
    shared.view.came_to(cursor, &snapshot);
    session.used = Instant::now();
    shared.sessions.keep(session);
    Ok(cursor)
}

impl Session {
    fn begin(
        shared: &Reading<'_>,
        topics: &[Topic],
        from: Lsn,
        snapshot: &Snapshot,
    ) -> Result<Self, LogError> {
        let connection = shared.connection;
        let consumer = Arc::new(connection.reader(MEMORY_KIB)?);
        let wanted = |at: &TopicPartition| topics.contains(&at.topic);
        let mut starts: Vec<(TopicPartition, u64)> =
            snapshot.ends.iter().filter(|(at, _)| wanted(at)).map(|(at, ends)| (*at, ends.start)).collect();
        if from > Lsn(0) {
            seek_by_time(shared, &consumer, from, &mut starts, snapshot)?;
        }
        // Before anything is fetched: what comes earlier would lie in the consumer's own queue.
        let streams = starts.iter().copied().map(|(at, next)| {
            let queue =
                consumer.split_partition_queue(&connection.topic(at.topic), at.partition.cast_signed());
            let queue = queue.ok_or_else(|| super::topics::missing(connection, at.topic))?;
            Ok(Stream { at, queue, head: None, next, has_ended: false, epochs: Epochs::default() })
        });
        let streams = streams.collect::<Result<_, LogError>>()?;
        let failed = |error| connection.failed("replay", &error, consumer.context());
        consumer.assign(&list(connection, starts.into_iter())?).map_err(failed)?;
        let floor = begins_at(shared, from);
        Ok(Self { cursor: from, topics: topics.to_vec(), floor, streams, consumer, used: Instant::now() })
    }

    fn run(
        &mut self,
        shared: &Reading<'_>,
        from: Lsn,
        snapshot: &Snapshot,
        visit: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<(), LogError> {
        // One past the last that was handed on.
        let mut next_lsn = from;
        loop {
            self.fill(shared, snapshot)?;
            let Some((place, until)) = self.next(shared, snapshot) else { break };
            let Some(stream) = self.streams.get_mut(place) else { break };
            let Some(Read { mut record, place }) = stream.head.take() else { break };
            if shared.is_own(place.as_ref().map(|place| &*place.lane)) {
                if record.lsn < self.floor {
                    continue;
                }
                next_lsn = next_lsn.max(Lsn(record.lsn.0 + 1));
            } else {
                // Between what came before and what comes next, if there is room.
                record.lsn = next_lsn.min(until);
                next_lsn = Lsn(next_lsn.0 + 1).min(until).max(next_lsn);
            }
            if visit(record).is_break() {
                self.cursor = next_lsn;
                return Ok(());
            }
        }
        self.cursor = snapshot.end.max(next_lsn);
        Ok(())
    }

    /// Waits until it is known of each partition what comes next.
    fn fill(&mut self, shared: &Reading<'_>, snapshot: &Snapshot) -> Result<(), LogError> {
        for stream in &mut self.streams {
            let ends = snapshot.ends.get(&stream.at).copied().unwrap_or_default();
            let begun = Instant::now();
            while !stream.is_done(ends) {
                stream.poll(shared, &self.consumer)?;
                if !stream.is_done(ends) {
                    // Hands over what concerns no single partition.
                    drop(self.consumer.poll(Duration::ZERO));
                }
                if begun.elapsed() > shared.patience {
                    return Err(LogError::Kafka {
                        what: format!("replay {} from offset {} on", stream.at, stream.next),
                        brokers: Arc::clone(&shared.connection.brokers),
                        reason: format!("nothing came in {:?}", shared.patience),
                    });
                }
            }
        }
        Ok(())
    }

    /// The stream whose head comes next, and the LSN of the lane's own record that comes next at all.
    fn next(&self, shared: &Reading<'_>, snapshot: &Snapshot) -> Option<(usize, Lsn)> {
        let heads = || {
            self.streams.iter().enumerate().filter_map(|(place, stream)| {
                let ends = snapshot.ends.get(&stream.at).copied().unwrap_or_default();
                let head = stream.head.as_ref().filter(|_| stream.has_head(ends))?;
                let is_own = shared.is_own(head.place.as_ref().map(|place| &*place.lane));
                Some((place, is_own.then_some(head.record.lsn)))
            })
        };
        let own = heads().filter_map(|(place, lsn)| lsn.map(|lsn| (lsn, place))).min();
        let until = own.map_or(snapshot.end, |(lsn, _)| lsn);
        let other = heads().find(|(_, lsn)| lsn.is_none()).map(|(place, _)| place);
        other.or(own.map(|(_, place)| place)).map(|place| (place, until))
    }
}

/// From which LSN on a session is begun for who asks for `from`.
fn begins_at(shared: &Reading<'_>, from: Lsn) -> Lsn {
    let since_ms =
        time_of(from).saturating_sub(i64::try_from(shared.overlap.as_millis()).unwrap_or(i64::MAX));
    if shared.overlap.is_zero() { from } else { Lsn(lsn_at(since_ms)) }
}

impl Stream {
    fn poll(&mut self, shared: &Reading<'_>, consumer: &BaseConsumer<Told>) -> Result<(), LogError> {
        match self.queue.poll(POLL) {
            None => Ok(()),
            Some(Ok(message)) => {
                let read = headers::read(self.at.topic, &message);
                let offset = read.record.offset;
                if offset < self.next {
                    return Ok(());
                }
                self.next = offset + 1;
                if !self.epochs.is_stale(read.place.as_ref()) {
                    self.head = Some(read);
                }
                Ok(())
            }
            Some(Err(KafkaError::PartitionEOF(_))) => {
                // It may have been told before the newest records came: those are certain, and waited for.
                self.has_ended = true;
                self.next = position(shared.connection, consumer, self.at).unwrap_or(0).max(self.next);
                Ok(())
            }
            Some(Err(error)) => match error.rdkafka_error_code() {
                // Deleted between two looks: an LSN that was there is gone.
                Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                    shared.view.starts_at(self.at, self.next + 1);
                    Err(LogError::Trimmed { oldest: self.next + 1 })
                }
                Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownPartition) => {
                    Err(super::topics::missing(shared.connection, self.at.topic))
                }
                _ => Ok(()),
            },
        }
    }
}

/// Moves each start to the first record that is not older than `from`.
fn seek_by_time(
    shared: &Reading<'_>,
    consumer: &BaseConsumer<Told>,
    from: Lsn,
    starts: &mut [(TopicPartition, u64)],
    snapshot: &Snapshot,
) -> Result<(), LogError> {
    let connection = shared.connection;
    let since_ms = time_of(begins_at(shared, from)).saturating_sub(TIME_SLACK_MS).max(0).cast_unsigned();
    let asked = list(connection, starts.iter().map(|(at, _)| (*at, since_ms)))?;
    let found = consumer
        .offsets_for_times(asked, shared.patience)
        .map_err(|error| connection.failed("look for a time", &error, consumer.context()))?;
    for (at, start) in starts {
        let element = found.find_partition(&connection.topic(at.topic), at.partition.cast_signed());
        let ends = snapshot.ends.get(at).copied().unwrap_or_default();
        *start = match element.map(|element| element.offset()) {
            Some(Offset::Offset(offset)) => u64::try_from(offset).unwrap_or(0).max(*start),
            // Nothing is as new as that.
            _ => ends.end().max(*start),
        };
    }
    Ok(())
}
