//! Who works in a run and with what. It is kept with the run, so that others can ask without its configuration.

use std::collections::BTreeMap;

use kintsugi_events::{Goal, Subject};
use kintsugi_runtime::Population;
use kintsugi_tools::Registry;
use kintsugi_types::{AgentId, AgentKind, ToolName};
use serde::{Deserialize, Serialize};

use crate::goal_check::{GOAL_BYTES_MAX, Refusal};
use crate::hint::did_you_mean;

/// Who works and with what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Roster {
    /// How many agents there are of each kind.
    agents: BTreeMap<AgentKind, u32>,
    /// The tools, and whether a call of each changes something.
    tools: BTreeMap<ToolName, bool>,
}

impl Roster {
    /// The roster of a node.
    pub(crate) fn new(population: &[Population], tools: &Registry) -> Self {
        Self {
            agents: population.iter().map(|kind| (kind.kind.clone(), kind.count)).collect(),
            tools: tools.specs().map(|tool| (tool.name.clone(), tool.safety.is_write())).collect(),
        }
    }

    /// Whether a call of `tool` changes something.
    pub(crate) fn is_write(&self, tool: &ToolName) -> bool {
        self.tools.get(tool).copied().unwrap_or(false)
    }

    /// Whether `subject` is one of the agents, or something that they share.
    pub(crate) fn has(&self, subject: &Subject) -> bool {
        match subject {
            Subject::Agent(agent) => self.has_agent(agent),
            Subject::Tool(tool) => self.tools.contains_key(tool),
            Subject::Model(_) | Subject::Engine => true,
        }
    }

    /// The names of all agents and shared parts.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        let agents = self.agent_names();
        agents.chain(self.tools.keys().map(|tool| format!("tool:{tool}"))).chain(["engine".to_owned()])
    }

    fn agent_names(&self) -> impl Iterator<Item = String> {
        self.agents.iter().flat_map(|(kind, count)| (0..*count).map(move |number| format!("{kind}-{number}")))
    }

    fn has_agent(&self, agent: &AgentId) -> bool {
        let population = |(kind, count): (&AgentKind, &u32)| Population { kind: kind.clone(), count: *count };
        self.agents.iter().map(population).any(|population| population.contains(agent))
    }

    /// Whether somebody here can take `goal`.
    pub(crate) fn check(&self, goal: &Goal) -> Result<(), Refusal> {
        if let Some(kind) = goal.kind.as_ref().filter(|kind| !self.agents.contains_key(*kind)) {
            let kinds: Vec<&str> = self.agents.keys().map(AsRef::as_ref).collect();
            let hint = did_you_mean(kind.as_str(), kinds.iter().copied());
            let problem = format!("there is no kind of agent `{kind}`; there are {}{hint}", kinds.join(", "));
            return Err(Refusal::new("kind", problem));
        }
        if let Some(agent) = goal.agent.as_ref().filter(|agent| !self.has_agent(agent)) {
            let names: Vec<String> = self.agent_names().collect();
            let hint = did_you_mean(agent.as_str(), names.iter().map(String::as_str));
            let kinds: Vec<String> =
                self.agents.iter().map(|(kind, count)| format!("{kind}-0 to {kind}-{}", count - 1)).collect();
            let problem = format!("there is no agent `{agent}`; there are {}{hint}", kinds.join(", "));
            return Err(Refusal::new("agent", problem));
        }
        let bytes = serde_json::to_vec(goal).map_or(0, |text| text.len());
        if bytes > GOAL_BYTES_MAX {
            return Err(Refusal::new(
                "",
                format!("a goal has at most {GOAL_BYTES_MAX} bytes, this has {bytes}"),
            ));
        }
        Ok(())
    }
}
