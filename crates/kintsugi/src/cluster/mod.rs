//! A node on a Kafka cluster: which lanes are its own, and who keeps them open.

mod opened;
pub(crate) mod security;
mod stage;
pub(crate) mod topics;
mod writer;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kintsugi_eventlog::kafka::{
    Change, Connection, Membership, MembershipOptions, Options, ReadOnly, topics as on_cluster,
};
use kintsugi_runtime::{Lanes, Node, StageName, Stages};

pub(crate) use self::opened::Away;
use self::opened::Opened;
pub(crate) use self::stage::StageCluster;
pub(crate) use self::writer::ClusterWriter;
use crate::failure::Failure;
use crate::settings::Settings;

/// How long a cluster may take to answer when a command begins.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster that a node works on.
pub(crate) struct Cluster {
    options: Options,
    member: Option<Arc<str>>,
    session_timeout: Duration,
    partitions: u32,
    reader: Arc<ReadOnly>,
    opened: Opened,
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
    /// Finds the cluster and checks its topics. `id` names this node where the settings do not; without one it has no
    /// name whatever they say.
    pub(crate) fn open(
        brokers: &Arc<str>,
        settings: &Settings,
        dir: &Path,
        id: Option<&str>,
    ) -> Result<Self, Failure> {
        let kafka = &settings.kafka;
        let connection: Connection = security::connection(brokers, kafka, dir)?;
        let mut options = Options::new(connection.clone(), [0]);
        share_stages(&mut options, settings.stages.inside());
        let partitions = on_cluster::check(&connection, options.append_bytes_max, PATIENCE)?;
        let reader = Arc::new(ReadOnly::open(connection, PATIENCE)?);
        Ok(Self {
            options,
            member: id.map(|id| kafka.node.as_deref().unwrap_or(id).into()),
            session_timeout: Duration::from_millis(kafka.session_timeout_ms),
            partitions,
            reader,
            opened: Opened::default(),
        })
    }

    /// Everything that the cluster holds.
    pub(crate) fn reader(&self) -> &Arc<ReadOnly> {
        &self.reader
    }

    /// What the node is made with.
    pub(crate) fn lanes(&self) -> Lanes {
        Lanes::Shared { partitions: self.partitions, open: self.opened.opener(self.options.clone()) }
    }

    /// That the cluster does not answer, where that is so: since when, and why.
    pub(crate) fn away(&self) -> Option<Away> {
        // Lanes notice it by what they write, and one that has nothing to write never.
        let of_reader = Away::of(self.reader.health());
        self.opened.away().into_iter().chain(of_reader).min_by_key(|away| away.since)
    }

    /// How the cluster is spoken to.
    pub(crate) fn connection(&self) -> &Connection {
        &self.options.connection
    }

    /// Takes part: from now on the group gives lanes to `node` and takes them away.
    pub(crate) fn join(&self, node: &Arc<Node>) -> Result<Membership, Failure> {
        let options = MembershipOptions {
            member: self.member.clone(),
            session_timeout: self.session_timeout,
            ..MembershipOptions::new(self.options.connection.clone())
        };
        let node = Arc::clone(node);
        let on_change = Box::new(move |change| match change {
            Change::Gained(lanes) => node.gain_lanes(&lanes),
            Change::Lost(lanes) => node.lose_lanes(&lanes),
        });
        Ok(Membership::join(options, on_change)?)
    }
}

/// A stage that runs elsewhere writes what the node takes note of; one that runs inside goes on where it came to
/// elsewhere.
fn share_stages(options: &mut Options, inside: Stages) {
    for stage in StageName::ALL {
        if inside.has(stage) {
            options.take_back(stage.name(), stage.inputs());
        } else {
            options.kept.retain(|kept| *kept != stage.output());
            options.followed.push(stage.output());
        }
    }
}
