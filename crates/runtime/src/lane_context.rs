//! What the actors of one of a node's lanes share.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use kintsugi_eventlog::EventLog;
use kintsugi_types::AgentId;

use crate::context::NodeContext;
use crate::effects::RunningEffects;
use crate::lane_core::{LaneCore, LanePlace, OnLaneFailure};
use crate::node::NodeError;

/// What the actors of one lane share: the lane itself, its node, and what runs for its agents.
pub struct LaneContext {
    /// What all lanes share.
    pub node: Arc<NodeContext>,
    /// Log, cache and feed: all that the healing stages know of.
    pub core: Arc<LaneCore>,
    /// What runs outside for the agents.
    pub(crate) effects: RunningEffects,
}

impl std::fmt::Debug for LaneContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LaneContext").field("place", &self.core.place).finish_non_exhaustive()
    }
}

impl LaneContext {
    /// Opens the cache in `store_dir`. The log has to be open. Whoever listens learns that nobody holds the lane any
    /// more when the receiver is disconnected.
    pub fn open(
        node: Arc<NodeContext>,
        place: LanePlace,
        log: Arc<dyn EventLog>,
        store_dir: &Path,
        on_failure: OnLaneFailure,
    ) -> Result<(Arc<Self>, Receiver<()>), NodeError> {
        let shown = (node.clock.clone(), node.status.clone());
        let (core, ended) = LaneCore::open(place, log, store_dir, shown, on_failure)?;
        Ok((Arc::new(Self { node, core, effects: RunningEffects::default() }), ended))
    }

    /// Whether the agent lives in this lane.
    pub(crate) fn holds(&self, agent: &AgentId) -> bool {
        self.core.place.holds(agent.as_str())
    }
}
