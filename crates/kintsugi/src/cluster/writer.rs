//! Goals onto a cluster, without a node.

use std::path::Path;
use std::sync::Arc;

use kintsugi_eventlog::kafka::Publisher;
use kintsugi_eventlog::{NewRecord, partition_of};
use kintsugi_runtime::publish::goal_event;
use kintsugi_types::SystemClock;

use super::{PATIENCE, security};
use crate::failure::Failure;
use crate::goal_check::{self, Refusal};
use crate::publish::Published;
use crate::resolved;

/// Publishes goals on a cluster.
pub(crate) struct ClusterWriter {
    publisher: Publisher,
}

impl ClusterWriter {
    /// Finds the cluster. `dir` is the folder whose `kintsugi.toml` says how it is spoken to.
    pub(crate) fn open(brokers: &Arc<str>, dir: &Path) -> Result<Self, Failure> {
        let settings = resolved::of_cluster(dir)?;
        let connection = security::connection(brokers, &settings.kafka, dir)?;
        Ok(Self { publisher: Publisher::open(connection, PATIENCE)? })
    }

    /// Publishes one goal; it is durable when this returns. Whether the cluster knows it already, the node that takes
    /// it finds out.
    pub(crate) fn publish(&self, text: &str) -> Result<Published, Failure> {
        let members = serde_json::from_str(text).map_err(|error| {
            Failure::usage(format_args!("no goal: {error}; write one JSON object a line"))
        })?;
        let goal = goal_check::read(&members).map_err(|refusal: Refusal| Failure::usage(refusal.problem))?;
        let event = goal_event(&goal, &SystemClock).map_err(Failure::usage)?;
        let key = event.envelope.subject.to_string();
        let partition = partition_of(key.as_bytes(), self.publisher.partition_count());
        self.publisher.publish(&[NewRecord::from_event(&event, partition)?])?;
        let id = event.envelope.goal.ok_or_else(|| Failure::job("a published goal has no id"))?;
        Ok(Published { id: id.to_string(), is_known: false })
    }
}
