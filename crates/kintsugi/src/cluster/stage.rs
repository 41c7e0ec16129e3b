//! A healing stage by itself on a Kafka cluster: which partitions are its own, and who keeps its lanes open.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kintsugi_eventlog::kafka::{Change, Membership, MembershipOptions, Options, topics as on_cluster};
use kintsugi_runtime::node::OpenLane;
use kintsugi_runtime::{StageName, StageNode};

use super::opened::Opened;
use super::{Away, PATIENCE, security};
use crate::failure::Failure;
use crate::settings::Settings;

/// A cluster that a stage works on by itself.
pub(crate) struct StageCluster {
    options: Options,
    stage: StageName,
    /// The name that the settings give this process.
    member: Option<Arc<str>>,
    session_timeout: Duration,
    /// How many partitions every topic has.
    pub(crate) partitions: u32,
    opened: Opened,
}

impl StageCluster {
    /// Finds the cluster and checks its topics.
    pub(crate) fn open(
        brokers: &Arc<str>,
        settings: &Settings,
        dir: &Path,
        stage: StageName,
    ) -> Result<Self, Failure> {
        let kafka = &settings.kafka;
        let connection = security::connection(brokers, kafka, dir)?;
        let options = Options::of_stage(connection.clone(), [0], stage.name(), stage.inputs());
        let partitions = on_cluster::check(&connection, options.append_bytes_max, PATIENCE)?;
        Ok(Self {
            options,
            stage,
            member: kafka.node.as_deref().map(Into::into),
            session_timeout: Duration::from_millis(kafka.session_timeout_ms),
            partitions,
            opened: Opened::default(),
        })
    }

    /// Opens the stage's lane of a partition.
    pub(crate) fn opener(&self) -> OpenLane {
        self.opened.opener(self.options.clone())
    }

    /// That the cluster does not answer, where that is so: since when, and why.
    pub(crate) fn away(&self) -> Option<Away> {
        self.opened.away()
    }

    /// Takes part: from now on the stage's group gives partitions to `node` and takes them away. `id` names this
    /// process where the settings do not.
    pub(crate) fn join(&self, node: &Arc<StageNode>, id: &str) -> Result<Membership, Failure> {
        let options = MembershipOptions {
            member: Some(self.member.clone().unwrap_or_else(|| id.into())),
            session_timeout: self.session_timeout,
            ..MembershipOptions::of_stage(self.options.connection.clone(), self.stage.name())
        };
        let node = Arc::clone(node);
        let on_change = Box::new(move |change| match change {
            Change::Gained(partitions) => node.gain_lanes(&partitions),
            Change::Lost(partitions) => node.lose_lanes(&partitions),
        });
        Ok(Membership::join(options, on_change)?)
    }
}

#[cfg(test)]
mod tests {
    use kintsugi_eventlog::kafka::STAGES;
    use kintsugi_runtime::StageName;

    #[test]
    fn the_lanes_of_every_stage_are_known_by_their_names() {
        assert_eq!(StageName::ALL.map(StageName::name), STAGES);
    }
}
