//! What every request may look at.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};

use kintsugi_eventlog::LogReader;
use kintsugi_gpu_scheduler::Residence;
use kintsugi_runtime::{Node, Population};
use kintsugi_types::{AgentId, TenantId};
use tokio::sync::watch;

use super::access::Access;
use super::intake::Intake;
use super::problem::Problem;
use crate::backbone::Backbone;
use crate::live::Live;
use crate::roster::Roster;
use crate::settings::HttpSettings;

/// What every request may look at.
pub(crate) struct Api {
    /// The log.
    pub(crate) log: Arc<dyn LogReader>,
    /// The log as the node works on it.
    pub(crate) backbone: Arc<Backbone>,
    /// What the log says.
    pub(crate) live: Arc<Live>,
    /// The node, once it runs.
    pub(crate) node: OnceLock<Arc<Node>>,
    /// Who may ask.
    pub(crate) access: Access,
    /// Goals on their way into the log.
    pub(crate) intake: Intake,
    /// Settings.
    pub(crate) settings: HttpSettings,
    /// Whose goals the node takes.
    pub(crate) tenant: TenantId,
    /// Who works here and with what.
    pub(crate) roster: Roster,
    /// How many agents of each kind.
    pub(crate) population: Vec<Population>,
    /// Event streams that are open.
    pub(crate) streams: AtomicUsize,
    /// Turns true when the node stops: event streams end then.
    pub(crate) is_closing: watch::Sender<bool>,
    /// Lets one goal at a time be looked up in the log.
    pub(crate) look_up: tokio::sync::Semaphore,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Api {
    /// Where the keys and values of agents are; of none before the node runs.
    pub(crate) fn residences(&self) -> Arc<BTreeMap<AgentId, Residence>> {
        self.node.get().map(|node| node.residences()).unwrap_or_default()
    }

    /// The node, where it takes goals.
    pub(crate) fn node(&self) -> Result<&Arc<Node>, Problem> {
        if *self.is_closing.borrow() {
            return Err(Problem::unavailable("the node is stopping; ask again when it is back"));
        }
        self.node.get().ok_or_else(|| Problem::unavailable("the node is starting; ask again in a moment"))
    }
}
