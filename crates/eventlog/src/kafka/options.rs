//! How a lane of a Kafka log behaves.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kintsugi_events::Topic;
use kintsugi_types::{ByteCount, Clock, SystemClock};

use super::connection::Connection;

/// The healing stages that may run by themselves. The name of a stage's lane begins with the stage's; of anything else
/// it is known that no lane wrote it.
pub const STAGES: [&str; 3] = ["monitor", "diagnose", "recover"];

/// A consumer of the lane's that also works, or worked, elsewhere: a stage in a node and by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Predecessor {
    /// Its name.
    pub consumer: Arc<str>,
    /// The topics that it reads.
    pub topics: Vec<Topic>,
    /// The group in which it stores its positions there.
    pub group: Arc<str>,
}

/// How a lane behaves. The defaults are for a node.
#[derive(Clone)]
pub struct Options {
    /// Where the cluster is.
    pub connection: Connection,
    /// Tells when a transaction was written.
    pub clock: Arc<dyn Clock>,
    /// The consumer group that positions are stored for; the lanes' transactional ids begin with it.
    pub group: Arc<str>,
    /// The partition numbers of the lane, over all topics. Its name is the lowest, after the stage's where it is one's.
    pub partitions: Vec<u32>,
    /// The healing stage that the lane belongs to; nothing where it is a node's. A partition has one lane of the nodes
    /// and one of each stage that runs by itself, side by side: they share the topics and nothing else.
    pub stage: Option<Arc<str>>,
    /// Whose consumers may have come further: what they have settled, this lane takes for settled.
    pub predecessors: Vec<Predecessor>,
    /// Topics that others write to as well: what arrives there is noticed, and kept in memory for reading.
    ///
    /// Whoever lets others write to a topic, such as a stage outside of the node, has to name it here.
    pub followed: Vec<Topic>,
    /// Topics whose partitions only this lane writes: what it commits is kept in memory as it is committed, so that
    /// reading it asks no broker. A topic that is followed is not kept.
    ///
    /// What another writes there all the same would not be found by who reads right after a commit.
    pub kept: Vec<Topic>,
    /// The most records that one transaction takes, unless a single append has more.
    pub group_records_max: usize,
    /// The most bytes that one append, and one transaction, may have.
    pub append_bytes_max: ByteCount,
    /// How many appends may wait.
    pub queue_appends_max: usize,
    /// How many bytes of appends may wait.
    pub queue_bytes_max: ByteCount,
    /// How much of followed and kept topics is in memory at most; the oldest is dropped, and read from the broker.
    pub tail_bytes_max: ByteCount,
    /// After so long the broker ends a transaction whose owner has gone silent. Has to be shorter than the session
    /// timeout of the group, so that nobody owns a partition while its old owner's transaction is still open.
    pub transaction_timeout: Duration,
    /// How long opening and reading wait for a broker that does not answer. Appends wait for it without end, and
    /// closing waits so long for those that are queued.
    pub patience: Duration,
}

impl Options {
    /// The lane of `partitions` on the cluster of `connection`.
    pub fn new(connection: Connection, partitions: impl Into<Vec<u32>>) -> Self {
        Self {
            group: Arc::clone(&connection.prefix),
            connection,
            clock: Arc::new(SystemClock),
            partitions: partitions.into(),
            stage: None,
            predecessors: Vec::new(),
            followed: vec![Topic::Goals, Topic::Approvals],
            kept: vec![Topic::Metrics, Topic::Anomalies, Topic::Diagnoses, Topic::Recoveries],
            group_records_max: 4096,
            append_bytes_max: ByteCount::mib(8),
            queue_appends_max: 8192,
            queue_bytes_max: ByteCount::mib(64),
            tail_bytes_max: ByteCount::mib(16),
            transaction_timeout: Duration::from_secs(10),
            patience: Duration::from_secs(30),
        }
    }

    /// The lane of `partitions` of a stage that runs by itself and reads `inputs`; `stage` is one of [`STAGES`]. It
    /// begins where the nodes came to while they had the stage.
    pub fn of_stage(
        connection: Connection,
        partitions: impl Into<Vec<u32>>,
        stage: &str,
        inputs: &[Topic],
    ) -> Self {
        let predecessor =
            Predecessor { consumer: stage.into(), topics: inputs.to_vec(), group: connection.prefix.clone() };
        Self {
            group: stage_group(&connection, stage),
            stage: Some(stage.into()),
            predecessors: vec![predecessor],
            followed: inputs.to_vec(),
            // Of what it writes it reads nothing that others do not write too.
            kept: Vec::new(),
            ..Self::new(connection, partitions)
        }
    }

    /// Begins where `stage`, which is the lane's own consumer from now on, came to while it ran by itself.
    pub fn take_back(&mut self, stage: &str, inputs: &[Topic]) {
        let group = stage_group(&self.connection, stage);
        self.predecessors.push(Predecessor { consumer: stage.into(), topics: inputs.to_vec(), group });
    }
}

/// The group of a stage that runs by itself.
fn stage_group(connection: &Connection, stage: &str) -> Arc<str> {
    format!("{}-stage-{stage}", connection.prefix).into()
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("connection", &self.connection)
            .field("group", &self.group)
            .field("partitions", &self.partitions)
            .finish_non_exhaustive()
    }
}
