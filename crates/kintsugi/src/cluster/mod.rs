//! A node on a Kafka cluster: which lanes are its own, and who keeps them open.

pub(crate) mod security;
pub(crate) mod topics;
mod writer;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use kintsugi_eventlog::EventLog;
use kintsugi_eventlog::kafka::{
    Change, Connection, Health, KafkaLog, Membership, MembershipOptions, Options, ReadOnly,
    topics as on_cluster,
};
use kintsugi_events::Topic;
use kintsugi_runtime::{Lanes, Node, Stages};

pub(crate) use self::writer::ClusterWriter;
use crate::failure::Failure;
use crate::settings::Settings;

/// How long a cluster may take to answer when a command begins.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster that a node works on.
pub(crate) struct Cluster {
    options: Options,
    member: Arc<str>,
    session_timeout: Duration,
    partitions: u32,
    reader: Arc<ReadOnly>,
    /// The lanes that this node opened, by number.
    opened: Arc<Mutex<BTreeMap<u32, Weak<KafkaLog>>>>,
}

/// That the cluster does not answer.
#[derive(Debug, Clone)]
pub(crate) struct Away {
    /// Since when.
    pub(crate) since: Instant,
    reason: String,
}

impl fmt::Display for Away {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { since, reason } = self;
        write!(f, "Kafka has not answered for {} s, work waits: {reason}", since.elapsed().as_secs())
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("options", &self.options)
            .field("member", &self.member)
            .finish_non_exhaustive()
    }
}

/// Opens the cluster for reading alone.
pub(crate) fn read_only(brokers: &Arc<str>, settings: &Settings, dir: &Path) -> Result<ReadOnly, Failure> {
    let connection = security::connection(brokers, &settings.kafka, dir)?;
    Ok(ReadOnly::open(connection, PATIENCE)?)
}

impl Cluster {
    /// Finds the cluster and checks its topics. `id` names this node where the settings do not.
    pub(crate) fn open(
        brokers: &Arc<str>,
        settings: &Settings,
        dir: &Path,
        id: &str,
    ) -> Result<Self, Failure> {
        let kafka = &settings.kafka;
        let connection: Connection = security::connection(brokers, kafka, dir)?;
        let mut options = Options::new(connection.clone(), [0]);
        follow_outsiders(&mut options, settings.stages.inside());
        let partitions = on_cluster::check(&connection, options.append_bytes_max, PATIENCE)?;
        let reader = Arc::new(ReadOnly::open(connection, PATIENCE)?);
        Ok(Self {
            options,
            member: kafka.node.as_deref().unwrap_or(id).into(),
            session_timeout: Duration::from_millis(kafka.session_timeout_ms),
            partitions,
            reader,
            opened: Arc::default(),
        })
    }

    /// Everything that the cluster holds.
    pub(crate) fn reader(&self) -> &Arc<ReadOnly> {
        &self.reader
    }

    /// What the node is made with.
    pub(crate) fn lanes(&self) -> Lanes {
        let (options, opened) = (self.options.clone(), Arc::clone(&self.opened));
        let open = Arc::new(move |number| {
            let options = Options { partitions: vec![number], ..options.clone() };
            let log = Arc::new(KafkaLog::open(options)?);
            opened.lock().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::downgrade(&log));
            let log: Arc<dyn EventLog> = log;
            Ok(log)
        });
        Lanes::Shared { partitions: self.partitions, open }
    }

    /// That the cluster does not answer, where that is so: since when, and why.
    pub(crate) fn away(&self) -> Option<Away> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.retain(|_, log| log.strong_count() > 0);
        let away = opened.values().filter_map(Weak::upgrade).filter_map(|log| match log.health() {
            Health::Up => None,
            Health::Away { since, reason } => Some(Away { since, reason }),
        });
        away.min_by_key(|away| away.since)
    }

    /// Takes part: from now on the group gives lanes to `node` and takes them away.
    pub(crate) fn join(&self, node: &Arc<Node>) -> Result<Membership, Failure> {
        let options = MembershipOptions {
            connection: self.options.connection.clone(),
            member: Some(Arc::clone(&self.member)),
            session_timeout: self.session_timeout,
        };
        let node = Arc::clone(node);
        let on_change = Box::new(move |change| match change {
            Change::Gained(lanes) => node.gain_lanes(&lanes),
            Change::Lost(lanes) => node.lose_lanes(&lanes),
        });
        Ok(Membership::join(options, on_change)?)
    }
}

/// Takes note of what others write where a stage runs elsewhere.
fn follow_outsiders(options: &mut Options, inside: Stages) {
    let outside = [
        (inside.monitor, Topic::Anomalies),
        (inside.diagnose, Topic::Diagnoses),
        (inside.recover, Topic::Recoveries),
    ];
    for (_, topic) in outside.into_iter().filter(|(is_inside, _)| !is_inside) {
        options.kept.retain(|kept| *kept != topic);
        options.followed.push(topic);
    }
}
