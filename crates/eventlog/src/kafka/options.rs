//! How a lane of a Kafka log behaves.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kintsugi_events::Topic;
use kintsugi_types::{ByteCount, Clock, SystemClock};

use super::connection::Connection;

/// How a lane behaves. The defaults are for a node.
#[derive(Clone)]
pub struct Options {
    /// Where the cluster is.
    pub connection: Connection,
    /// Tells when a transaction was written.
    pub clock: Arc<dyn Clock>,
    /// The consumer group that positions are stored for; the lanes' transactional ids begin with it.
    pub group: Arc<str>,
    /// The partition numbers of the lane, over all topics. Its name is the lowest.
    pub partitions: Vec<u32>,
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
