//! What is known of a lane in memory, shared by its threads and its readers.
//!
//! Records get their LSN here. Those of the lane's own get it when their transaction begins, and it is written with
//! them; those of others when they are noticed. An LSN is made of time: the milliseconds since 2026, times 1024, or
//! one more than the last. So it grows over restarts and changes of owner without being counted through, and the
//! broker's index of times finds it.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use kintsugi_events::Topic;

use super::headers::{self, Read};
use super::health::Health;
use super::ledger::Positions;
use super::tail::{Tail, bytes_of};
use crate::log::{Lsn, Position};
use crate::queue::locked;
use crate::record::{NewRecord, Record, TopicPartition};

/// Where LSNs begin: 2026, in milliseconds since 1970. A number below 2^53 lasts for 278 years.
const LSN_EPOCH_MS: i64 = 1_767_225_600_000;
/// LSNs in a millisecond before they run ahead of the clock.
const LSNS_PER_MS: u64 = 1024;

/// The lowest LSN of this time.
pub(super) fn lsn_at(now_ms: i64) -> u64 {
    u64::try_from(now_ms.saturating_sub(LSN_EPOCH_MS)).unwrap_or(0).saturating_mul(LSNS_PER_MS)
}

/// The time at which `lsn` was given, or one before it.
pub(super) fn time_of(lsn: Lsn) -> i64 {
    i64::try_from(lsn.0 / LSNS_PER_MS).unwrap_or(i64::MAX).saturating_add(LSN_EPOCH_MS)
}

/// How far one partition goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Ends {
    /// The oldest offset that is kept, as far as it is known.
    pub(super) start: u64,
    /// One past the last record that this lane committed since it was opened.
    pub(super) acked: u64,
    /// One past the last record that was noticed since then.
    pub(super) arrived: u64,
    /// Where the partition ended when the lane was opened. Marks of transactions may be all that is there.
    pub(super) opened: u64,
}

impl Ends {
    /// A record that lies right below is certain to be there, unless the broker has deleted it since.
    pub(super) fn certain(&self) -> u64 {
        self.acked.max(self.arrived)
    }

    /// No record is known to lie here or above.
    pub(super) fn end(&self) -> u64 {
        self.certain().max(self.opened)
    }
}

#[derive(Debug, Default)]
struct State {
    ends: BTreeMap<TopicPartition, Ends>,
    /// Of followed partitions, as far as they were read.
    tails: BTreeMap<TopicPartition, Tail>,
    /// Of kept partitions, as far as they were committed.
    kept: BTreeMap<TopicPartition, Tail>,
    tail_bytes: usize,
    positions: Positions,
    /// Where a consumer without a position begins, if that is not the beginning.
    begins: BTreeMap<TopicPartition, u64>,
    /// Everything below is visible.
    end_lsn: u64,
    /// The first LSN of the transaction that is under way.
    in_flight: Option<u64>,
    /// Records of others that came while there was no LSN left below the one under way.
    unnumbered: u64,
    is_closed: bool,
    health: Health,
}

/// What is known of a lane.
#[derive(Debug, Default)]
pub(super) struct View {
    state: Mutex<State>,
    changed: Condvar,
    /// The topics of the state's kept partitions.
    kept: Vec<Topic>,
    tail_bytes_max: usize,
}

/// The epoch that an owner claims at `now_ms` after one with `last`: higher than any earlier one, also where the
/// broker has forgotten which that was.
pub(super) fn epoch_at(now_ms: i64, last: u64) -> u64 {
    (last + 1).max(lsn_at(now_ms) / (LSNS_PER_MS * 1000))
}

/// What was visible at one moment.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    pub(super) end: Lsn,
    pub(super) ends: BTreeMap<TopicPartition, Ends>,
}

/// Where a read may be answered from.
#[derive(Debug)]
pub(super) enum Source {
    /// From memory.
    Memory(Vec<Record>),
    /// From the broker.
    Broker(Ends),
}

impl View {
    /// A lane that was opened with this much in it. Partitions of `followed` and `kept` topics are in memory from
    /// their end on.
    pub(super) fn new(
        ends: BTreeMap<TopicPartition, Ends>,
        followed: &[Topic],
        kept: &[Topic],
        positions: Positions,
        end_lsn: u64,
        tail_bytes_max: usize,
    ) -> Self {
        let kept: Vec<Topic> = kept.iter().copied().filter(|topic| !followed.contains(topic)).collect();
        let tails_of = |topics: &[Topic]| -> BTreeMap<TopicPartition, Tail> {
            let of_these = ends.iter().filter(|(at, _)| topics.contains(&at.topic));
            of_these.map(|(at, ends)| (*at, Tail::new(ends.opened))).collect()
        };
        let (tails, kept_tails) = (tails_of(followed), tails_of(&kept));
        let state = State { tails, kept: kept_tails, ends, positions, end_lsn, ..State::default() };
        Self { state: Mutex::new(state), changed: Condvar::new(), kept, tail_bytes_max }
    }

    /// Begins a transaction at `now_ms` and returns the LSN of its first record.
    pub(super) fn begin(&self, now_ms: i64) -> u64 {
        let mut state = locked(&self.state);
        let first = state.end_lsn.max(lsn_at(now_ms));
        state.in_flight = Some(first);
        first
    }

    /// The transaction that began with `first` was committed: `records` with their offsets and the time that they
    /// bear, and `positions`. Returns what each record follows.
    pub(super) fn committed<'a>(
        &self,
        first: u64,
        time_ms: i64,
        records: impl Iterator<Item = (&'a NewRecord, u64)>,
        positions: Positions,
    ) -> Vec<u64> {
        // Copied before anybody has to wait for it.
        let records: Vec<_> = records
            .zip(first..)
            .map(|((record, offset), lsn)| {
                let is_kept = self.kept.contains(&record.topic);
                let kept = is_kept.then(|| headers::written(record, offset, Lsn(lsn), time_ms));
                (record.topic_partition(), offset, kept)
            })
            .collect();
        let mut state = locked(&self.state);
        let mut follows = Vec::with_capacity(records.len());
        for (at, offset, kept) in records {
            if let Some(record) = kept {
                state.keep(record);
            }
            // Only what nobody else writes to has nothing but marks of transactions in its gaps.
            let is_ours = !state.tails.contains_key(&at);
            let end = state.ends.get(&at).map_or(offset, Ends::end);
            follows.push(if is_ours { end.min(offset) } else { offset });
            // What went to another lane's partition is that lane's to know.
            if let Some(ends) = state.ends.get_mut(&at) {
                ends.acked = ends.acked.max(offset + 1);
            }
        }
        state.shrink(self.tail_bytes_max);
        state.positions = positions;
        if !follows.is_empty() {
            state.end_lsn = first + follows.len() as u64;
        }
        state.number_the_rest();
        drop(state);
        self.changed.notify_all();
        follows
    }

    /// The transaction under way was not committed.
    pub(super) fn gave_up(&self) {
        locked(&self.state).number_the_rest();
        self.changed.notify_all();
    }

    /// Takes in what was read at the end of a followed partition.
    pub(super) fn arrived(&self, read: Read, is_own: bool) {
        let Read { mut record, place } = read;
        let (at, offset) = (record.topic_partition(), record.offset);
        let mut state = locked(&self.state);
        let Some(tail) = state.tails.get_mut(&at) else { return };
        if offset < tail.next() {
            return;
        }
        let is_stale = tail.is_stale(place.as_ref());
        if is_stale {
            tail.push(offset, None);
            tracing::warn!(%at, offset, "passed over a record of an owner of the past");
        } else {
            if !is_own {
                record.lsn = Lsn(state.number_one());
            }
            state.tail_bytes += bytes_of(&record);
            if let Some(tail) = state.tails.get_mut(&at) {
                tail.push(offset, Some(record));
            }
        }
        let ends = state.ends.entry(at).or_default();
        if !is_stale {
            ends.arrived = ends.arrived.max(offset + 1);
        }
        state.shrink(self.tail_bytes_max);
        drop(state);
        self.changed.notify_all();
    }

    /// Begins the tail of `at` anew, where the broker deleted what came next.
    pub(super) fn restart_tail(&self, at: TopicPartition, from: u64) {
        let mut state = locked(&self.state);
        if let Some(tail) = state.tails.insert(at, Tail::new(from)) {
            let freed: usize = tail.read(0, usize::MAX, usize::MAX).iter().map(bytes_of).sum();
            state.tail_bytes = state.tail_bytes.saturating_sub(freed);
        }
        let ends = state.ends.entry(at).or_default();
        ends.start = ends.start.max(from);
        ends.opened = ends.opened.max(from);
    }

    /// Where each followed partition is read next, and whether what this lane committed lies ahead of it.
    pub(super) fn followed(&self) -> Vec<(TopicPartition, u64, bool)> {
        let state = locked(&self.state);
        let acked = |at| state.ends.get(at).map_or(0, |ends| ends.acked);
        state.tails.iter().map(|(at, tail)| (*at, tail.next(), acked(at) > tail.next())).collect()
    }

    /// Answers a read from memory where it can, waiting at most for `patience` for what was committed but has not
    /// come back yet.
    pub(super) fn read(
        &self,
        at: TopicPartition,
        offset: u64,
        records_max: usize,
        bytes_max: usize,
        patience: Duration,
    ) -> Source {
        let state = locked(&self.state);
        let lags = |state: &mut State| {
            let acked = state.ends.get(&at).map_or(0, |ends| ends.acked);
            let lags = |tail: &Tail| tail.from() <= offset && offset < acked && tail.next() < acked;
            !state.is_closed && state.tails.get(&at).is_some_and(lags)
        };
        let (state, _) =
            self.changed.wait_timeout_while(state, patience, lags).unwrap_or_else(PoisonError::into_inner);
        let ends = state.ends.get(&at).copied().unwrap_or_default();
        if offset >= ends.end() {
            return Source::Memory(Vec::new());
        }
        match state.tails.get(&at).or_else(|| state.kept.get(&at)) {
            Some(tail) if tail.from() <= offset && tail.next() >= ends.acked => {
                Source::Memory(tail.read(offset, records_max, bytes_max))
            }
            _ => Source::Broker(ends),
        }
    }

    /// Nothing visible lies between `next` and where the partition ended when the lane was opened.
    pub(super) fn nothing_from(&self, at: TopicPartition, next: u64) {
        if let Some(ends) = locked(&self.state).ends.get_mut(&at) {
            ends.opened = ends.opened.min(next);
        }
    }

    /// The broker keeps nothing below `start`.
    pub(super) fn starts_at(&self, at: TopicPartition, start: u64) {
        let mut state = locked(&self.state);
        let ends = state.ends.entry(at).or_default();
        ends.start = ends.start.max(start);
    }

    pub(super) fn ends(&self, at: TopicPartition) -> Ends {
        locked(&self.state).ends.get(&at).copied().unwrap_or_default()
    }

    pub(super) fn end_lsn(&self) -> Lsn {
        Lsn(locked(&self.state).end_lsn)
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let state = locked(&self.state);
        Snapshot { end: Lsn(state.end_lsn), ends: state.ends.clone() }
    }

    /// Every partition that is held.
    pub(super) fn places(&self) -> Vec<TopicPartition> {
        locked(&self.state).ends.keys().copied().collect()
    }

    /// Takes in where partitions that others write begin and end, as it was at `now_ms`.
    pub(super) fn refresh(&self, found: impl Iterator<Item = (TopicPartition, (u64, u64))>, now_ms: i64) {
        let mut state = locked(&self.state);
        let mut has_news = false;
        for (at, (start, end)) in found {
            let ends = state.ends.entry(at).or_default();
            has_news |= ends.arrived != end;
            // Marks of transactions may be the last there is: a reader comes to the end all the same.
            *ends = Ends { start, acked: 0, arrived: end, opened: end };
        }
        if has_news {
            state.end_lsn = (state.end_lsn + 1).max(lsn_at(now_ms));
            drop(state);
            self.changed.notify_all();
        }
    }

    /// A reader who has seen `snapshot` goes on from `cursor`, which is above the end where the clock of whoever wrote
    /// is ahead: what comes next has to lie above it.
    pub(super) fn came_to(&self, cursor: Lsn, snapshot: &Snapshot) {
        let mut state = locked(&self.state);
        if cursor > snapshot.end && cursor.0 >= state.end_lsn {
            let has_news = state.end_lsn > snapshot.end.0;
            state.end_lsn = cursor.0 + u64::from(has_news);
        }
    }

    pub(super) fn partitions(&self) -> Vec<TopicPartition> {
        let state = locked(&self.state);
        state.ends.iter().filter(|(_, ends)| ends.end() > 0).map(|(at, _)| *at).collect()
    }

    pub(super) fn position(&self, consumer: &str, of: TopicPartition) -> Option<u64> {
        let state = locked(&self.state);
        let stored = state.positions.get(&of).and_then(|by_name| by_name.get(consumer));
        stored.or_else(|| state.begins.get(&of)).copied()
    }

    /// The broker has lost positions that were stored. Goals are read from their beginning, since some may not have
    /// been taken yet, and each is known by its id; everything else from here on: what follows from a measurement
    /// would follow from it once more, and is about agents as they were long ago.
    pub(super) fn forget_positions(&self) {
        let mut state = locked(&self.state);
        let others = state.ends.iter().filter(|(at, _)| at.topic != Topic::Goals);
        state.begins = others.map(|(at, ends)| (*at, ends.opened)).collect();
    }

    /// All positions, in no order.
    pub(super) fn list_positions(&self) -> Vec<Position> {
        let state = locked(&self.state);
        let of = |(at, by_name): (&TopicPartition, &BTreeMap<_, u64>)| -> Vec<Position> {
            let position = |(consumer, next_offset): (&std::sync::Arc<str>, &u64)| Position {
                consumer: std::sync::Arc::clone(consumer),
                topic: at.topic,
                partition: at.partition,
                next_offset: *next_offset,
            };
            by_name.iter().map(position).collect()
        };
        state.positions.iter().flat_map(of).collect()
    }

    pub(super) fn wait_past(&self, seen: Lsn, timeout: Duration) -> Lsn {
        let waits = |state: &mut State| state.end_lsn <= seen.0 && !state.is_closed;
        let waited = self.changed.wait_timeout_while(locked(&self.state), timeout, waits);
        Lsn(waited.unwrap_or_else(PoisonError::into_inner).0.end_lsn)
    }

    /// Lets everybody go who waits.
    pub(super) fn close(&self) {
        locked(&self.state).is_closed = true;
        self.changed.notify_all();
    }

    pub(super) fn health(&self) -> Health {
        locked(&self.state).health.clone()
    }

    /// Notes whether the cluster can be reached. Returns what was known before.
    pub(super) fn set_health(&self, health: Health) -> Health {
        std::mem::replace(&mut locked(&self.state).health, health)
    }
}

impl State {
    /// The next LSN, for a record of others.
    fn number_one(&mut self) -> u64 {
        let lsn = self.end_lsn;
        if self.in_flight.is_some_and(|first| lsn >= first) {
            // What is under way has these numbers: this one counts when that is over.
            self.unnumbered += 1;
        } else {
            self.end_lsn += 1;
        }
        lsn
    }

    /// No transaction is under way any more.
    fn number_the_rest(&mut self) {
        self.in_flight = None;
        self.end_lsn += std::mem::take(&mut self.unnumbered);
    }

    /// Takes a committed record in, where its partition is kept.
    fn keep(&mut self, record: Record) {
        if let Some(tail) = self.kept.get_mut(&record.topic_partition()) {
            self.tail_bytes += bytes_of(&record);
            tail.push(record.offset, Some(record));
        }
    }

    /// Drops the oldest of what is kept in memory until it fits.
    fn shrink(&mut self, bytes_max: usize) {
        while self.tail_bytes > bytes_max {
            let tails = self.tails.values_mut().chain(self.kept.values_mut());
            let oldest = tails
                .filter(|tail| tail.oldest().is_some())
                .min_by_key(|tail| tail.oldest().map(|record| record.lsn));
            let Some(oldest) = oldest else { return };
            self.tail_bytes = self.tail_bytes.saturating_sub(oldest.drop_oldest());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: TopicPartition = TopicPartition::new(Topic::Metrics, 0);

    fn view(followed: &[Topic], tail_bytes_max: usize) -> View {
        let ends = [Topic::Goals, Topic::Metrics]
            .map(|topic| (TopicPartition::new(topic, 0), Ends { opened: 5, ..Ends::default() }));
        View::new(ends.into(), followed, &[Topic::Metrics], Positions::new(), 0, tail_bytes_max)
    }

    /// Commits one record of metrics at each of `offsets`, as transactions do: marks lie between them.
    fn commit(view: &View, offsets: &[u64]) {
        for offset in offsets {
            let first = view.begin(0);
            let record = NewRecord::bare(Topic::Metrics, 0, "key", b"a value".to_vec());
            view.committed(first, 7, std::iter::once((&record, *offset)), Positions::new());
        }
    }

    /// The offsets that memory answers with, or `None` where the broker has to be asked.
    fn read(view: &View, offset: u64) -> Option<Vec<u64>> {
        match view.read(METRICS, offset, usize::MAX, usize::MAX, Duration::ZERO) {
            Source::Memory(records) => Some(records.iter().map(|record| record.offset).collect()),
            Source::Broker(_) => None,
        }
    }

    #[test]
    fn what_was_committed_to_a_kept_topic_is_read_from_memory() {
        let view = view(&[Topic::Goals], 1 << 20);
        assert_eq!((read(&view, 0), read(&view, 5)), (None, Some(vec![])));
        commit(&view, &[5, 7, 9]);
        assert_eq!(read(&view, 5), Some(vec![5, 7, 9]));
        assert_eq!(read(&view, 6), Some(vec![7, 9]));
        assert_eq!(read(&view, 10), Some(vec![]));
        assert_eq!(read(&view, 4), None, "what was there before is the broker's");
        let Source::Memory(records) = view.read(METRICS, 7, 1, usize::MAX, Duration::ZERO) else {
            panic!("from memory")
        };
        let told: Vec<_> = records.iter().map(|record| (record.lsn, record.appended_at_ms)).collect();
        assert_eq!(told, [(Lsn(1), 7)]);
    }

    #[test]
    fn the_oldest_of_what_is_kept_goes_first_and_is_the_brokers_again() {
        let record = NewRecord::bare(Topic::Metrics, 0, "key", b"a value".to_vec());
        let size = bytes_of(&headers::written(&record, 0, Lsn(0), 0));
        let view = view(&[Topic::Goals], 2 * size);
        commit(&view, &[5, 7, 9]);
        assert_eq!((read(&view, 5), read(&view, 6)), (None, Some(vec![7, 9])));
    }

    #[test]
    fn a_followed_topic_is_not_kept() {
        let view = view(&[Topic::Metrics], 1 << 20);
        commit(&view, &[5]);
        assert_eq!(read(&view, 5), None, "it has not come back");
    }
}
