//! A healing stage: it reads topics, keeps a state, and appends what it finds. It knows the system only through
//! events.
//!
//! Its position rides on what it writes. Its state is snapshotted together with the position that it belongs to;
//! after a restart what lies between snapshot and position is taken in again without writing, and since ids derive
//! from the events that caused them, the state comes out the same.
//!
//! A stage may have to hear something from outside before it takes an event in. Its actor goes on meanwhile, and stays
//! in front of that event: what comes after it lies in the log.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use kintsugi_eventlog::{Append, Committed, LogError, Lsn, NewRecord, Position, TopicPartition};
use kintsugi_events::{Envelope, Event, Payload, Snapshot, Subject, Topic};
use kintsugi_types::{DerivedIds, SystemIds, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tracing::{error, warn};

use crate::agent_actor::DeathGuard;
use crate::config::StageName;
use crate::feed::FeedBatch;
use crate::lane::Order;
use crate::lane_core::LaneCore;

/// How often a stage looks at the time, and at topics that the feed may have skipped.
const TICK_EVERY: Duration = Duration::from_millis(100);

/// Ticks between two snapshots of a stage that took something in: five seconds.
const SNAPSHOT_TICKS: u32 = 50;

/// A larger snapshot is taken more rarely: another tick for each of so many bytes, 200 KiB a second.
const SNAPSHOT_BYTES_A_TICK: usize = 20 << 10;

/// Records that are read from the log at once.
const READ_RECORDS_MAX: usize = 512;

/// Bytes that are read from the log at once.
const READ_BYTES_MAX: usize = 4 << 20;

/// Version of the form of a stage's snapshot.
const STATE_VERSION: u32 = 1;

/// Others have written to what the stage reads.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub(crate) struct InputsGrown;

/// Ends with what tells the stage what was heard outside. It has to end, within a time that the stage bounds.
pub(crate) type Waiting<S> = Pin<Box<dyn Future<Output = Box<dyn FnOnce(&mut S)>>>>;

/// What makes one stage differ from another.
pub(crate) trait Stage: Sized + Unpin + 'static {
    /// Which it is.
    const NAME: StageName;
    /// Those of its inputs that its state follows from: after a restart they are taken in again.
    const FOLDED: &'static [Topic] = Self::NAME.inputs();

    /// What has to be heard before `event` is taken in, where that is so. It is asked again when the stage was told,
    /// and after a restart. Changes nothing that is saved.
    fn awaits(&mut self, _event: &Event, _now: Timestamp) -> Option<Waiting<Self>> {
        None
    }

    /// Takes an event in and returns what follows from it.
    fn consume(&mut self, event: &Event, ids: &mut DerivedIds) -> Vec<Payload>;

    /// Looks at the time and returns what follows from it.
    fn tick(&mut self, now: Timestamp) -> Vec<Payload>;

    /// The state as JSON.
    fn save(&self) -> serde_json::Result<Box<RawValue>>;

    /// Takes over a state that was saved.
    fn load(&mut self, state: &RawValue) -> serde_json::Result<()>;
}

/// A stage's snapshot: its state and the offsets that it had taken in.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    next: BTreeMap<Topic, u64>,
    state: Box<RawValue>,
}

/// The actor around a stage.
pub(crate) struct StageActor<S: Stage> {
    lane: Arc<LaneCore>,
    source: Arc<str>,
    stage: S,
    /// The next offset to take in, by topic.
    next: BTreeMap<Topic, u64>,
    /// Up to here what follows was written before a restart.
    written: BTreeMap<Topic, u64>,
    /// Whether it waits for something before it takes in what is next.
    is_waiting: bool,
    is_changed: bool,
    ticks: u32,
    /// After how many ticks the next snapshot is due.
    snapshot_ticks: u32,
    /// Up to where a snapshot was wanted when one was last written.
    renewed: Lsn,
    _guard: DeathGuard,
}

impl<S: Stage> StageActor<S> {
    /// A stage as it was before a restart, or a new one.
    pub(crate) fn new(lane: Arc<LaneCore>, mut stage: S, guard: DeathGuard) -> Self {
        // What an earlier life of the stage still had queued comes before what is read here.
        if let Err(failure) = lane.log.flush() {
            error!(stage = %S::NAME, %failure, "flush log");
        }
        let mut next = BTreeMap::new();
        let key = format!("stage:{}", S::NAME);
        match lane.store.stage(&key) {
            Ok(Some(json)) => match restore(&mut stage, &json) {
                Ok(saved) => next = saved,
                Err(failure) => warn!(stage = %S::NAME, %failure, "snapshot is unreadable: starting afresh"),
            },
            Ok(None) => {}
            Err(failure) => warn!(stage = %S::NAME, %failure, "snapshot is unreadable: starting afresh"),
        }
        let mut written = BTreeMap::new();
        for topic in S::NAME.inputs() {
            let of = TopicPartition::new(*topic, lane.place.number);
            let start = lane.log.start_offset(of);
            let position = lane.log.position(S::NAME.name(), of).unwrap_or(start).max(start);
            written.insert(*topic, position);
            let taken = next.entry(*topic).or_insert(start);
            *taken = (*taken).clamp(start, position);
        }
        Self {
            source: format!("/kintsugi/{}", S::NAME).into(),
            lane,
            stage,
            next,
            written,
            is_waiting: false,
            is_changed: false,
            ticks: 0,
            snapshot_ticks: SNAPSHOT_TICKS,
            renewed: Lsn::default(),
            _guard: guard,
        }
    }

    /// Waits, and goes on where it stands once the stage was told.
    fn wait(&mut self, waiting: Waiting<S>, ctx: &mut Context<Self>) {
        self.is_waiting = true;
        let told = waiting.into_actor(self).map(|tell, stage, ctx| {
            stage.is_waiting = false;
            tell(&mut stage.stage);
            // Whatever the feed brought meanwhile was left to the log.
            stage.catch_up(ctx);
        });
        ctx.spawn(told);
    }

    /// Takes in what the log holds and the feed did not bring.
    fn catch_up(&mut self, ctx: &mut Context<Self>) {
        if self.is_waiting {
            return;
        }
        for topic in S::NAME.inputs() {
            let of = TopicPartition::new(*topic, self.lane.place.number);
            loop {
                let next = self.next.get(topic).copied().unwrap_or(0);
                let records = match self.lane.log.read(of, next, READ_RECORDS_MAX, READ_BYTES_MAX) {
                    Ok(records) => records,
                    Err(failure) => {
                        error!(stage = %S::NAME, %topic, %failure, "read");
                        return;
                    }
                };
                if records.is_empty() {
                    break;
                }
                let mut found = Vec::new();
                for record in records {
                    match record.to_event() {
                        Ok(event) => {
                            if self.take(*topic, record.offset, &event, &mut found, ctx).is_break() {
                                self.append(found);
                                return;
                            }
                        }
                        Err(failure) => {
                            warn!(stage = %S::NAME, %topic, offset = record.offset, %failure, "skipped");
                            self.next.insert(*topic, record.offset + 1);
                        }
                    }
                }
                self.append(found);
            }
        }
    }

    /// Takes an event in, or breaks off in front of it where the stage has to wait.
    fn take(
        &mut self,
        topic: Topic,
        offset: u64,
        event: &Event,
        found: &mut Vec<Event>,
        ctx: &mut Context<Self>,
    ) -> ControlFlow<()> {
        let now = self.lane.clock.now();
        let is_written = self.written.get(&topic).is_some_and(|written| offset < *written);
        if !is_written && let Some(waiting) = self.stage.awaits(event, now) {
            self.wait(waiting, ctx);
            return ControlFlow::Break(());
        }
        self.next.insert(topic, offset + 1);
        self.is_changed = true;
        if is_written && !S::FOLDED.contains(&topic) {
            return ControlFlow::Continue(());
        }
        let mut ids = DerivedIds::new(event.envelope.id.as_uuid(), S::NAME.name());
        let payloads = self.stage.consume(event, &mut ids);
        if is_written {
            return ControlFlow::Continue(());
        }
        for payload in payloads {
            let subject = subject_of(&payload).unwrap_or_else(|| event.envelope.subject.clone());
            let mut envelope = Envelope::new(&mut ids, self.source.clone(), subject, now);
            envelope.goal.clone_from(&event.envelope.goal);
            envelope.causation = Some(event.envelope.id);
            envelope.tenant.clone_from(&event.envelope.tenant);
            found.push(Event { envelope, payload });
        }
        ControlFlow::Continue(())
    }

    fn positions(&self) -> Vec<Position> {
        S::NAME
            .inputs()
            .iter()
            .map(|topic| Position {
                consumer: S::NAME.name().into(),
                topic: *topic,
                partition: self.lane.place.number,
                next_offset: self.next.get(topic).copied().unwrap_or(0),
            })
            .collect()
    }

    /// Appends what was found, with the positions that it follows from.
    fn append(&self, found: Vec<Event>) {
        if !found.is_empty() {
            self.append_always(found);
        }
    }

    fn append_always(&self, events: Vec<Event>) {
        let records = events.iter().map(|event| NewRecord::from_event(event, self.lane.place.number));
        let records = match records.collect::<Result<Vec<_>, _>>() {
            Ok(records) => records,
            Err(failure) => {
                error!(stage = %S::NAME, %failure, "encode events");
                return;
            }
        };
        let append = Append { records, positions: self.positions() };
        // The stage is behind anyway when the log has no room: waiting for it slows nobody else down.
        self.lane.append_own(&append, events);
    }

    fn on_tick(&mut self, ctx: &mut Context<Self>) {
        self.catch_up(ctx);
        let now = self.lane.clock.now();
        let found: Vec<Event> = self
            .stage
            .tick(now)
            .into_iter()
            .map(|payload| {
                let subject = subject_of(&payload).unwrap_or(Subject::Engine);
                Event { envelope: Envelope::new(&mut SystemIds, self.source.clone(), subject, now), payload }
            })
            .collect();
        self.append(found);
        self.ticks = self.ticks.saturating_add(1);
        let wanted = self.lane.snapshots_wanted();
        let is_due = self.is_changed && self.ticks >= self.snapshot_ticks;
        if is_due || wanted > self.renewed {
            (self.ticks, self.is_changed, self.renewed) = (0, false, wanted);
            self.snapshot();
        }
    }

    fn snapshot(&mut self) {
        let name = format!("stage:{}", S::NAME);
        let saved = self.stage.save().and_then(|state| {
            let json = serde_json::to_string(&Saved { next: self.next.clone(), state })?;
            RawValue::from_string(json)
        });
        let state = match saved {
            Ok(state) => state,
            Err(failure) => {
                error!(stage = %S::NAME, %failure, "save state");
                return;
            }
        };
        let ticks = u32::try_from(state.get().len() / SNAPSHOT_BYTES_A_TICK).unwrap_or(u32::MAX);
        self.snapshot_ticks = SNAPSHOT_TICKS.max(ticks);
        let snapshot =
            Snapshot { of: name.clone(), version: STATE_VERSION, sequence: 0, state: state.clone() };
        let payload = Payload::Snapshot(Box::new(snapshot));
        let now = self.lane.clock.now();
        let envelope = Envelope::new(&mut SystemIds, self.source.clone(), Subject::Engine, now);
        let event = Event { envelope, payload };
        let record = match NewRecord::from_event(&event, self.lane.place.number) {
            // A log that is compacted keeps the newest of each key: no stage may take another's place.
            Ok(record) => NewRecord { key: name.clone(), ..record },
            Err(failure) => {
                error!(stage = %S::NAME, %failure, "encode snapshot");
                return;
            }
        };
        let append = Append { records: vec![record], positions: self.positions() };
        let lane = self.lane.clone();
        // The cache must not run ahead of the log: the state holds what was found, and that is durable only now.
        let keep = move |outcome: Result<Committed, LogError>| match outcome {
            Ok(_) => {
                let mut batch = lane.store.batch();
                batch.put_stage(&name, state.get().as_bytes());
                if let Err(failure) = batch.commit() {
                    error!(stage = %S::NAME, %failure, "write cache");
                }
            }
            Err(failure) => lane.log_failed(&failure),
        };
        if let Err(failure) = self.lane.append(&append, [event].into(), Box::new(keep)) {
            // The next one tries again; until then more is taken in again after a restart.
            warn!(stage = %S::NAME, %failure, "snapshot left out");
            self.is_changed = true;
        }
    }
}

fn restore<S: Stage>(stage: &mut S, json: &[u8]) -> serde_json::Result<BTreeMap<Topic, u64>> {
    let saved: Saved = serde_json::from_slice(json)?;
    stage.load(&saved.state)?;
    Ok(saved.next)
}

/// What a stage's finding is about.
fn subject_of(payload: &Payload) -> Option<Subject> {
    match payload {
        Payload::Anomaly(anomaly) => Some(anomaly.agent.clone()),
        Payload::Diagnosis(diagnosis) => Some(diagnosis.agent.clone()),
        Payload::Recovery(recovery) => Some(recovery.agent.clone()),
        _ => None,
    }
}

impl<S: Stage> Actor for StageActor<S> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.lane.feed.subscribe(S::NAME.name(), S::NAME.inputs(), ctx.address().recipient());
        self.catch_up(ctx);
        ctx.run_interval(TICK_EVERY, Self::on_tick);
    }
}

impl<S: Stage> Handler<FeedBatch> for StageActor<S> {
    type Result = ();

    fn handle(&mut self, batch: FeedBatch, ctx: &mut Context<Self>) {
        if self.is_waiting {
            return;
        }
        let mut found = Vec::new();
        for fed in batch.committed().filter(|fed| S::NAME.inputs().contains(&fed.topic)) {
            let next = self.next.get(&fed.topic).copied().unwrap_or(0);
            if (fed.follows..=fed.offset).contains(&next) {
                if self.take(fed.topic, fed.offset, fed.event, &mut found, ctx).is_break() {
                    break;
                }
            } else if fed.offset > next {
                // What was found so far goes first: positions must not run ahead of it.
                self.append(std::mem::take(&mut found));
                self.catch_up(ctx);
                if self.is_waiting {
                    break;
                }
            }
        }
        self.append(found);
    }
}

impl<S: Stage> Handler<InputsGrown> for StageActor<S> {
    type Result = ();

    fn handle(&mut self, _: InputsGrown, ctx: &mut Context<Self>) {
        self.catch_up(ctx);
    }
}

impl<S: Stage> Handler<Order> for StageActor<S> {
    type Result = ();

    fn handle(&mut self, order: Order, ctx: &mut Context<Self>) {
        order.carry_out(ctx);
    }
}
