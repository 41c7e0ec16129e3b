//! Reading from any offset of one partition.

use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::Message as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use super::connection::{Connection, Told};
use super::follower::list;
use super::headers;
use super::reading::{Epochs, Reading, position};
use super::tail::{Room, bytes_of};
use super::view::Ends;
use crate::error::LogError;
use crate::record::{Record, TopicPartition};

/// Memory for what was fetched and not asked for yet, in KiB.
const MEMORY_KIB: u32 = 4 * 1024;

/// How much of what comes next is kept, in bytes.
const AHEAD_BYTES_MAX: usize = 1 << 20;

/// How long a broker that has just got a partition is left alone.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// How long the client library is asked for the next record at once.
const POLL: Duration = Duration::from_millis(100);

/// Of each partition the oldest offset that is kept, and the one past the newest record that is committed.
pub(super) fn watermarks(
    connection: &Connection,
    consumer: &BaseConsumer<Told>,
    of: &[TopicPartition],
    patience: Duration,
) -> Result<Vec<(u64, u64)>, LogError> {
    let begun = Instant::now();
    loop {
        let failure = match try_watermarks(connection, consumer, of, patience) {
            Ok(found) => return Ok(found),
            Err(failure) => failure,
        };
        // A topic that was just made, or whose broker is just gone, has leaders soon.
        let is_passing = failure.rdkafka_error_code().is_some_and(|code| {
            matches!(
                code,
                RDKafkaErrorCode::NotLeaderForPartition
                    | RDKafkaErrorCode::LeaderNotAvailable
                    | RDKafkaErrorCode::UnknownTopicOrPartition
                    | RDKafkaErrorCode::UnknownPartition
                    | RDKafkaErrorCode::FencedLeaderEpoch
                    | RDKafkaErrorCode::UnknownLeaderEpoch
            )
        });
        if !is_passing || begun.elapsed() > patience {
            return Err(connection.failed("ask for the ends of topics", &failure, consumer.context()));
        }
        thread::park_timeout(ASK_AGAIN_AFTER);
    }
}

fn try_watermarks(
    connection: &Connection,
    consumer: &BaseConsumer<Told>,
    of: &[TopicPartition],
    patience: Duration,
) -> Result<Vec<(u64, u64)>, KafkaError> {
    // The two places are times to the broker too, so that one request asks for all partitions.
    let ask = |place: Offset| -> Result<Vec<u64>, KafkaError> {
        let mut asked = TopicPartitionList::with_capacity(of.len());
        for at in of {
            asked.add_partition_offset(&connection.topic(at.topic), at.partition.cast_signed(), place)?;
        }
        let found = consumer.offsets_for_times(asked, patience)?;
        let offset = |at: &TopicPartition| {
            let element = found.find_partition(&connection.topic(at.topic), at.partition.cast_signed());
            let Some(element) = element else { return Ok(0) };
            element.error()?;
            match element.offset() {
                Offset::Offset(offset) => Ok(u64::try_from(offset).unwrap_or(0)),
                _ => Ok(0),
            }
        };
        of.iter().map(offset).collect()
    };
    let (starts, ends) = (ask(Offset::Beginning)?, ask(Offset::End)?);
    Ok(starts.into_iter().zip(ends).collect())
}

/// A reader of one partition at a time. It goes on where it stopped, if it is asked for that.
#[derive(Default)]
pub(super) struct Fetcher {
    open: Option<Open>,
}

struct Open {
    consumer: BaseConsumer<Told>,
    at: TopicPartition,
    /// The topic's name on the cluster.
    topic: String,
    /// What was fetched beyond what was asked for.
    ahead: VecDeque<Record>,
    ahead_bytes: usize,
    /// From here on `ahead` holds everything that is visible.
    from: u64,
    /// Up to here.
    next: u64,
    /// The end of the partition was reached since this was begun: everything that was there then has come.
    has_ended: bool,
    epochs: Epochs,
}

impl Fetcher {
    /// Committed records of `at` from `offset` on, up to what `ends` says is there.
    pub(super) fn read(
        &mut self,
        shared: &Reading<'_>,
        at: TopicPartition,
        offset: u64,
        ends: Ends,
        limits: (usize, usize),
    ) -> Result<Vec<Record>, LogError> {
        let outcome = self.try_read(shared, at, offset, ends, limits);
        if outcome.is_err() {
            // The next one starts afresh.
            self.open = None;
        }
        outcome
    }

    fn try_read(
        &mut self,
        shared: &Reading<'_>,
        at: TopicPartition,
        offset: u64,
        ends: Ends,
        limits: (usize, usize),
    ) -> Result<Vec<Record>, LogError> {
        if !self.open.as_ref().is_some_and(|open| open.at == at && open.from <= offset && offset <= open.next)
        {
            let consumer = self.open.take().map(|open| open.consumer);
            self.open = Some(Open::at(shared, consumer, at, offset)?);
        }
        let Some(open) = &mut self.open else { return Ok(Vec::new()) };
        open.drop_below(offset);
        let mut room = Room::new(limits.0, limits.1);
        let mut found = Vec::new();
        let begun = Instant::now();
        loop {
            while let Some(record) = open.ahead.front() {
                // The broker shows a transaction before it acknowledges it. What this lane does not know of yet is
                // not there, or another topic, read from memory right after this, would lack its other half.
                if record.offset >= ends.end() || !room.takes(record) {
                    return Ok(found);
                }
                found.extend(open.take_front());
            }
            if room.is_full() || open.next >= ends.end() || open.is_at_end(ends) {
                return Ok(found);
            }
            if begun.elapsed() > shared.patience {
                return Err(LogError::Kafka {
                    what: format!("read {at} from offset {} on", open.next),
                    brokers: shared.connection.brokers.clone(),
                    reason: format!("nothing came in {:?}", shared.patience),
                });
            }
            open.fetch(shared, ends)?;
        }
    }
}

impl Open {
    fn at(
        shared: &Reading<'_>,
        consumer: Option<BaseConsumer<Told>>,
        at: TopicPartition,
        offset: u64,
    ) -> Result<Self, LogError> {
        let connection = shared.connection;
        let consumer = match consumer {
            Some(consumer) => consumer,
            None => connection.reader(MEMORY_KIB)?,
        };
        consumer
            .assign(&list(connection, std::iter::once((at, offset)))?)
            .map_err(|error| connection.failed(&format!("read {at}"), &error, consumer.context()))?;
        Ok(Self {
            consumer,
            at,
            topic: connection.topic(at.topic),
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            from: offset,
            next: offset,
            has_ended: false,
            epochs: Epochs::default(),
        })
    }

    fn drop_below(&mut self, offset: u64) {
        while self.ahead.front().is_some_and(|record| record.offset < offset) {
            self.take_front();
        }
        self.from = self.from.max(offset);
    }

    fn take_front(&mut self) -> Option<Record> {
        let record = self.ahead.pop_front()?;
        self.from = record.offset + 1;
        self.ahead_bytes = self.ahead_bytes.saturating_sub(bytes_of(&record));
        Some(record)
    }

    /// Whether what is thought to lie ahead was looked for and is not there: marks of transactions take offsets too.
    fn is_at_end(&self, ends: Ends) -> bool {
        self.next >= ends.certain() && self.has_ended
    }

    /// Waits for the next record, and takes in what has come with it.
    fn fetch(&mut self, shared: &Reading<'_>, ends: Ends) -> Result<(), LogError> {
        let mut patience = POLL;
        while self.ahead_bytes < AHEAD_BYTES_MAX {
            match self.consumer.poll(patience) {
                None => return Ok(()),
                Some(Ok(message)) => {
                    let read = headers::read(self.at.topic, &message);
                    // What an earlier assignment had under way does not count, nor what was there before.
                    let is_here = message.topic() == self.topic && read.record.partition == self.at.partition;
                    if !is_here || read.record.offset < self.next {
                        continue;
                    }
                    self.next = read.record.offset + 1;
                    if !self.epochs.is_stale(read.place.as_ref()) {
                        self.ahead_bytes += bytes_of(&read.record);
                        self.ahead.push_back(read.record);
                    }
                    patience = Duration::ZERO;
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    // It may have been told before the newest records came: those are certain, and waited for.
                    self.has_ended = true;
                    if self.next >= ends.certain() {
                        shared.view.nothing_from(self.at, self.next);
                    }
                    let next = position(shared.connection, &self.consumer, self.at);
                    self.next = next.unwrap_or(0).max(self.next);
                    return Ok(());
                }
                Some(Err(error)) => return self.look_into(shared, &error),
            }
        }
        Ok(())
    }

    fn look_into(&mut self, shared: &Reading<'_>, error: &KafkaError) -> Result<(), LogError> {
        let connection = shared.connection;
        let told = self.consumer.context();
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                let found = watermarks(connection, &self.consumer, &[self.at], shared.patience)?;
                let start = found.first().map_or(0, |(start, _)| *start);
                shared.view.starts_at(self.at, start);
                Err(LogError::Trimmed { oldest: start })
            }
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownPartition) => {
                Err(super::topics::missing(connection, self.at.topic))
            }
            _ if told.is_refused() || self.consumer.client().fatal_error().is_some() => {
                Err(connection.failed(&format!("read {}", self.at), error, told))
            }
            // A lost connection: the library makes a new one.
            _ => Ok(()),
        }
    }
}
