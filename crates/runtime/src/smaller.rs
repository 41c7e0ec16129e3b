//! The second, smaller model of a node: an engine, a scheduler and a share of the budget of its own. Agents on lighter
//! work are sent to it; whatever breaks there leaves the main model alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use kintsugi_gpu_scheduler::{BackendFactory, Residence, SchedulerConfig, SchedulerHandle, SchedulerStats};
use kintsugi_types::{AgentId, ModelName};

use crate::context::NodeContext;

/// What the smaller model is made from.
pub struct SmallerParts {
    /// Its name, which the journal asks it by and which events about its engine bear: `model:NAME`.
    pub name: ModelName,
    /// Settings of its scheduler, whose budget is beside that of the main one.
    pub scheduler: SchedulerConfig,
    /// Makes its engine.
    pub backend: BackendFactory,
}

impl std::fmt::Debug for SmallerParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SmallerParts").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The way to the smaller model. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Smaller {
    /// Its name.
    pub name: ModelName,
    /// Its scheduler.
    pub scheduler: SchedulerHandle,
}

impl NodeContext {
    /// The smaller model, where it is the one that the journal asks. One that the node does not have is stood in for by
    /// the main one.
    pub(crate) fn smaller_asked(&self, asked: Option<&ModelName>) -> Option<&Smaller> {
        self.smaller.as_ref().filter(|smaller| Some(&smaller.name) == asked)
    }

    /// Lets both models forget what `agent` said, see [`SchedulerHandle::release_agent`].
    pub(crate) fn release_agent(&self, agent: &AgentId) {
        self.scheduler.release_agent(agent);
        if let Some(smaller) = &self.smaller {
            smaller.scheduler.release_agent(agent);
        }
    }

    /// What the schedulers and engines are at, taken together.
    pub(crate) fn scheduler_stats(&self) -> SchedulerStats {
        match &self.smaller {
            None => self.scheduler.stats(),
            Some(smaller) => self.scheduler.stats_with(&smaller.scheduler),
        }
    }

    /// Where the keys and values of each agent are that has any. Who has some of both models is where the nearer lie.
    pub(crate) fn residences(&self) -> Arc<BTreeMap<AgentId, Residence>> {
        let mut residences = self.scheduler.residences();
        let of_smaller = self.smaller.as_ref().map(|smaller| smaller.scheduler.residences());
        for (agent, residence) in of_smaller.iter().flat_map(|residences| residences.iter()) {
            let known = Arc::make_mut(&mut residences).entry(agent.clone()).or_insert(*residence);
            *known = (*known).max(*residence);
        }
        residences
    }
}
