//! The group of nodes: which partitions this one has. Processes that run a stage by themselves have a group of the same
//! form for each stage.
//!
//! A member of the group `<prefix>-nodes` is subscribed to the goals, and never fetches one: the group hands out
//! partition numbers, and lanes read for themselves. Partitions move one by one: who joins or leaves interrupts only
//! the lanes that change hands.
//!
//! Two things are told apart. A partition that the group takes away is told before it is given back, so that its lane
//! is closed when the next owner opens it. A membership that was lost, because no broker answered for longer than the
//! session lasts, is not told: nothing could be written meanwhile, and a lane that another node has opened is fenced
//! by that. When the group has this node again, the difference is told.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kintsugi_events::Topic;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};

use super::connection::{Connection, Told};
use super::{group, topics};
use crate::error::LogError;
use crate::queue::locked;

/// How long the member waits for the group before it looks whether it shall leave.
const WAIT: Duration = Duration::from_millis(100);

/// How long it may take to close lanes before the group goes on without this node. Nobody else is handed anything
/// until then.
const CLOSE_MAX: Duration = Duration::from_mins(2);

/// The longest time between two signs of life.
const HEARTBEAT_MAX: Duration = Duration::from_secs(3);

/// How long a member that was turned out waits before it joins anew: doubled each time, up to the most. Two processes
/// with one name turn each other out for ever.
const REJOIN_AFTER: Duration = Duration::from_millis(200);
const REJOIN_AFTER_MAX: Duration = Duration::from_secs(30);

/// How often the members look whether the group has handed out everything.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How long one look may take, and how long a nudge.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// After how many looks in a row at which something was missing the first member nudges the group; the second waits
/// for one more, and so on.
const LOOKS: usize = 2;

/// How a node is a member.
#[derive(Debug, Clone)]
pub struct MembershipOptions {
    /// Where the cluster is.
    pub connection: Connection,
    /// The group: all members of one share the partitions.
    pub group: Arc<str>,
    /// A name that is this node's over restarts, and nobody else's. A node with one that ends is waited for until the
    /// session is over, and has its partitions again when it is back by then; those of a node without a name move as
    /// soon as it ends.
    pub member: Option<Arc<str>>,
    /// A node that is silent for so long has lost its partitions.
    pub session_timeout: Duration,
}

impl MembershipOptions {
    /// A node without a name on the cluster of `connection`.
    pub fn new(connection: Connection) -> Self {
        let group = format!("{}-nodes", connection.prefix).into();
        Self { connection, group, member: None, session_timeout: Duration::from_secs(30) }
    }

    /// A process without a name that runs a stage by itself.
    pub fn of_stage(connection: Connection, stage: &str) -> Self {
        let group = format!("{}-stage-{stage}-nodes", connection.prefix).into();
        Self { group, ..Self::new(connection) }
    }
}

/// What changed for this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// These partitions are this node's now. Whoever had them has let go of them, or is fenced when their lanes are
    /// opened.
    Gained(Vec<u32>),
    /// These are to be let go of: they are given back when this was taken in.
    Lost(Vec<u32>),
}

/// What a node has, as it was told.
struct Ownership {
    topic: String,
    /// What was told.
    owned: Mutex<BTreeSet<u32>>,
    /// What the group has handed to the member as it is now.
    assigned: Mutex<BTreeSet<u32>>,
    /// Whether the group has handed the member as it is now its share, which may be nothing.
    has_share: AtomicBool,
    on_change: Mutex<Box<dyn FnMut(Change) + Send>>,
    is_leaving: AtomicBool,
}

impl Ownership {
    fn new(topic: String, on_change: Box<dyn FnMut(Change) + Send>) -> Arc<Self> {
        Arc::new(Self {
            topic,
            owned: Mutex::default(),
            assigned: Mutex::default(),
            has_share: AtomicBool::new(false),
            on_change: Mutex::new(on_change),
            is_leaving: AtomicBool::new(false),
        })
    }

    fn tell(&self, change: Change) {
        (locked(&self.on_change))(change);
    }

    /// The group hands `new` over, after which this is all that the member has.
    fn assigned(&self, new: BTreeSet<u32>) {
        let assigned = {
            let mut assigned = locked(&self.assigned);
            assigned.extend(new);
            assigned.clone()
        };
        self.has_share.store(true, Ordering::Release);
        if self.is_leaving.load(Ordering::Acquire) {
            // It goes back at once.
            return;
        }
        let before = std::mem::replace(&mut *locked(&self.owned), assigned.clone());
        // What was lost with an earlier membership and did not come back.
        let lost: Vec<u32> = before.difference(&assigned).copied().collect();
        let gained: Vec<u32> = assigned.difference(&before).copied().collect();
        if !lost.is_empty() {
            self.tell(Change::Lost(lost));
        }
        if !gained.is_empty() {
            self.tell(Change::Gained(gained));
        }
    }

    /// The group takes `old` back, or has `lost` this member altogether.
    fn revoked(&self, old: &BTreeSet<u32>, is_lost: bool) {
        locked(&self.assigned).retain(|partition| !old.contains(partition));
        if is_lost && !self.is_leaving.load(Ordering::Acquire) {
            tracing::warn!(partitions = ?old, "the group has lost this node; its lanes go on until it is back");
            return;
        }
        let lost: Vec<u32> =
            locked(&self.owned).extract_if(.., |partition| old.contains(partition)).collect();
        if !lost.is_empty() {
            self.tell(Change::Lost(lost));
        }
    }

    fn partitions_of(&self, list: &TopicPartitionList) -> BTreeSet<u32> {
        list.elements_for_topic(&self.topic).iter().map(|one| one.partition().cast_unsigned()).collect()
    }
}

/// Hears of what the group hands out, on the thread that polls.
struct Member {
    told: Told,
    ownership: Arc<Ownership>,
}

impl ClientContext for Member {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.told.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.told.error(error, reason);
    }
}

impl ConsumerContext for Member {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, err: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions = self.ownership.partitions_of(list);
        let outcome = if err == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            // Paused before the library has found out where the end is: nothing is fetched.
            let outcome = list
                .set_all_offsets(Offset::End)
                .and_then(|()| consumer.incremental_assign(list))
                .and_then(|()| consumer.pause(list));
            self.ownership.assigned(partitions);
            outcome
        } else {
            let is_lost = consumer.assignment_lost() || consumer.client().fatal_error().is_some();
            self.ownership.revoked(&partitions, is_lost);
            consumer.incremental_unassign(list)
        };
        if let Err(error) = outcome {
            // A member that was turned out is refused; it joins anew.
            tracing::debug!(%error, "take over what the group hands out");
        }
    }
}

/// A node's place in the group. It leaves when this is dropped.
pub struct Membership {
    ownership: Arc<Ownership>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership").field("partitions", &self.partitions()).finish_non_exhaustive()
    }
}

impl Membership {
    /// Joins the group, and tells `on_change` what it hands out, from a thread of its own.
    ///
    /// [`Change::Lost`] is told before the partitions are given back: `on_change` returns when their lanes are closed.
    /// Until then the group waits, for two minutes at most; opening lanes is better left to other threads.
    ///
    /// Fails with [`LogError::Unreachable`] where no broker answers for as long as a session lasts,
    /// [`LogError::Refused`] where the cluster does not let this client in, and [`LogError::Topic`] where there is no
    /// topic for goals.
    pub fn join(
        options: MembershipOptions,
        on_change: Box<dyn FnMut(Change) + Send>,
    ) -> Result<Self, LogError> {
        let connection = &options.connection;
        let reader = connection.reader(1024)?;
        let metadata = connection.ask(&reader, options.session_timeout)?;
        topics::count(connection, &metadata, Topic::Goals)
            .ok_or_else(|| topics::missing(connection, Topic::Goals))?;
        drop(reader);
        let ownership = Ownership::new(connection.topic(Topic::Goals), on_change);
        let consumer = subscribe(&options, &ownership)?;
        let brokers = Arc::clone(&connection.brokers);
        let shared = Arc::clone(&ownership);
        let thread = thread::Builder::new()
            .name("kafka-member".to_owned())
            .spawn(move || run(&options, &shared, consumer))
            .map_err(|error| LogError::Kafka {
                what: "start the kafka-member thread".to_owned(),
                brokers,
                reason: error.to_string(),
            })?;
        Ok(Self { ownership, thread: Some(thread) })
    }

    /// The partitions that are this node's, ascending: what was told as gained and not as lost since.
    pub fn partitions(&self) -> Vec<u32> {
        locked(&self.ownership.owned).iter().copied().collect()
    }

    /// Tells [`Change::Lost`] of every partition, and leaves the group. Partitions of a member without a name move to
    /// others at once; those of one with a name when its session is over, unless it is back by then.
    pub fn leave(self) {
        drop(self);
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.ownership.is_leaving.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A panic of whoever is told was logged where it happened.
            let _ = thread.join();
        }
    }
}

fn subscribe(
    options: &MembershipOptions,
    ownership: &Arc<Ownership>,
) -> Result<BaseConsumer<Member>, LogError> {
    let connection = &options.connection;
    let session = options.session_timeout;
    let heartbeat = (session / 3).min(HEARTBEAT_MAX);
    let mut config = connection.config();
    config
        .set("group.id", &*options.group)
        // The newer protocol loses members in this version of the library.
        .set("group.protocol", "classic")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", session.as_millis().to_string())
        .set("heartbeat.interval.ms", heartbeat.as_millis().to_string())
        .set("max.poll.interval.ms", session.max(CLOSE_MAX).as_millis().to_string())
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // Nothing is fetched, and should something come before that is known, it is little.
        .set("queued.min.messages", "1")
        .set("queued.max.messages.kbytes", "64");
    if let Some(member) = &options.member {
        config.set("group.instance.id", &**member);
    }
    let told = Told::default();
    let member = Member { told: told.clone(), ownership: Arc::clone(ownership) };
    let failed = |error: KafkaError| connection.failed("join the group of nodes", &error, &told);
    let consumer: BaseConsumer<Member> = config.create_with_context(member).map_err(failed)?;
    consumer.subscribe(&[&ownership.topic]).map_err(failed)?;
    Ok(consumer)
}

/// Is a member until it shall leave.
fn run(options: &MembershipOptions, ownership: &Arc<Ownership>, consumer: BaseConsumer<Member>) {
    let mut consumer = Some(consumer);
    let mut rejoin_after = REJOIN_AFTER;
    let mut watch = Watch { looked: Instant::now(), missing: 0 };
    while !ownership.is_leaving.load(Ordering::Acquire) {
        let Some(member) = consumer.take() else {
            thread::park_timeout(rejoin_after);
            rejoin_after = (rejoin_after * 2).min(REJOIN_AFTER_MAX);
            match subscribe(options, ownership) {
                Ok(member) => consumer = Some(member),
                Err(error) => tracing::warn!(%error, "join the group of nodes anew"),
            }
            continue;
        };
        // Messages are not asked for.
        if let Some(Err(error)) = member.poll(WAIT) {
            tracing::debug!(%error, "member of the group of nodes");
        }
        if let Some((code, reason)) = member.client().fatal_error() {
            tracing::warn!(%code, reason, member = ?options.member, "turned out of the group of nodes: joining anew");
            drop(member);
            locked(&ownership.assigned).clear();
            ownership.has_share.store(false, Ordering::Release);
            continue;
        }
        if !locked(&ownership.assigned).is_empty() {
            rejoin_after = REJOIN_AFTER;
        }
        watch.look(options, ownership, &member);
        consumer = Some(member);
    }
    match consumer {
        Some(member) if options.member.is_none() => leave(options, ownership, member),
        other => drop(other),
    }
    // What an earlier membership left, where there was none to give it back.
    let rest = std::mem::take(&mut *locked(&ownership.owned));
    if !rest.is_empty() {
        ownership.tell(Change::Lost(rest.into_iter().collect()));
    }
}

/// Looks whether the group has handed out every partition.
///
/// A member with a name that ends between giving partitions back and joining again for their next owner leaves them with
/// nobody: when it is back the group takes it for the same, and hands out nothing anew. A member that comes and goes
/// makes it do so.
struct Watch {
    looked: Instant,
    /// At how many looks in a row something was missing.
    missing: usize,
}

impl Watch {
    fn look(
        &mut self,
        options: &MembershipOptions,
        ownership: &Arc<Ownership>,
        consumer: &BaseConsumer<Member>,
    ) {
        if self.looked.elapsed() < LOOK_EVERY {
            return;
        }
        self.looked = Instant::now();
        let Some(turn) = missed_by(options, ownership, consumer) else {
            self.missing = 0;
            return;
        };
        self.missing += 1;
        if self.missing < LOOKS + turn {
            return;
        }
        self.missing = 0;
        tracing::warn!("the group has left partitions with nobody: making it hand them out");
        if let Err(error) = nudge(options, &ownership.topic, consumer) {
            tracing::warn!(%error, "make the group hand out what is missing");
        }
    }
}

/// Where something is missing, how many members come before this one.
fn missed_by(
    options: &MembershipOptions,
    ownership: &Ownership,
    consumer: &BaseConsumer<Member>,
) -> Option<usize> {
    let connection = &options.connection;
    let settled = group::settled(consumer, &options.group, &ownership.topic, LOOK_MAX);
    let settled = settled.unwrap_or_else(|error| {
        tracing::debug!(%error, "look at the group of nodes");
        None
    })?;
    let metadata = consumer.fetch_metadata(Some(&ownership.topic), LOOK_MAX).ok()?;
    let count = topics::count(connection, &metadata, Topic::Goals)?;
    let is_missing = (0..count).any(|partition| !settled.partitions.contains(&partition));
    // The id of a member begins with its name.
    let name = options.member.as_deref().unwrap_or(&connection.client);
    let turn = settled.members.iter().position(|member| member.starts_with(name));
    is_missing.then(|| turn.unwrap_or(settled.members.len()))
}

/// Joins the group as somebody else, and leaves it as soon as it has handed something out.
fn nudge(options: &MembershipOptions, topic: &str, member: &BaseConsumer<Member>) -> Result<(), LogError> {
    let passing = Ownership::new(topic.to_owned(), Box::new(|_| {}));
    let nameless = MembershipOptions { member: None, ..options.clone() };
    let consumer = subscribe(&nameless, &passing)?;
    let begun = Instant::now();
    while locked(&passing.assigned).is_empty() && begun.elapsed() < LOOK_MAX {
        if let Some(Err(error)) = consumer.poll(WAIT) {
            tracing::debug!(%error, "passing member of the group of nodes");
        }
        // It takes part too.
        drop(member.poll(Duration::ZERO));
    }
    leave(&nameless, &passing, consumer);
    Ok(())
}

/// Leaves the group, as a member without a name does.
///
/// Closing a member says that it leaves only where it has something to give back (librdkafka 2.12,
/// `rd_kafka_cgrp_revoke_all_rejoin`): of one that has nothing the group would wait for the end of its session. Such a
/// member ends its subscription first, which says so too where no handing out is under way.
fn leave(options: &MembershipOptions, ownership: &Ownership, member: BaseConsumer<Member>) {
    let begun = Instant::now();
    let has_nothing = || locked(&ownership.assigned).is_empty();
    let has_settled = || {
        let settled = group::settled(&member, &options.group, &ownership.topic, LOOK_MAX);
        ownership.has_share.load(Ordering::Acquire) && matches!(settled, Ok(Some(_)))
    };
    while has_nothing() && !has_settled() && begun.elapsed() < LOOK_MAX {
        if let Some(Err(error)) = member.poll(WAIT) {
            tracing::debug!(%error, "member of the group of nodes that leaves");
        }
    }
    if has_nothing() {
        member.unsubscribe();
    }
    drop(member);
}
