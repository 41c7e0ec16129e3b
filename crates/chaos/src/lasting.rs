//! Faults that go on after they struck: until so many tries have met them, or until what they spoiled is made anew.

use std::collections::HashMap;

use kintsugi_events::FaultKind;
use kintsugi_types::{AgentId, ToolName};

/// A tool that does not answer an agent for a few more tries.
#[derive(Debug)]
struct Outage {
    tool: ToolName,
    kind: FaultKind,
    tries_left: u32,
}

/// What still goes on, by agent: at most one outage and one altered digit each, until the agent's goal ends.
#[derive(Debug, Default)]
pub struct Lasting {
    outages: HashMap<AgentId, Outage>,
    altered: HashMap<AgentId, usize>,
}

impl Lasting {
    /// A fault of `kind` keeps `tool` from `agent` for `tries` more calls, in place of an earlier one.
    pub fn begin_outage(&mut self, agent: AgentId, tool: ToolName, kind: FaultKind, tries: u32) {
        if tries > 0 {
            self.outages.insert(agent, Outage { tool, kind, tries_left: tries });
        }
    }

    /// The fault that this call of `tool` still meets, if it does; counts the call.
    pub fn meet_outage(&mut self, agent: &AgentId, tool: &ToolName) -> Option<FaultKind> {
        let outage = self.outages.get_mut(agent).filter(|outage| outage.tool == *tool)?;
        let kind = outage.kind;
        outage.tries_left -= 1;
        if outage.tries_left == 0 {
            self.outages.remove(agent);
        }
        Some(kind)
    }

    /// From now on the agent remembers digit number `place`, of those that tools told it, as another.
    pub fn alter(&mut self, agent: AgentId, place: usize) {
        self.altered.insert(agent, place);
    }

    /// The digit that the agent remembers as another.
    pub fn altered(&self, agent: &AgentId) -> Option<usize> {
        self.altered.get(agent).copied()
    }

    /// The agent's memory was made anew from its journal.
    pub fn rebuilt(&mut self, agent: &AgentId) {
        self.altered.remove(agent);
    }

    /// The agent's goal is over, and what befell it with it.
    pub fn forget(&mut self, agent: &AgentId) {
        self.outages.remove(agent);
        self.altered.remove(agent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_met_by_so_many_calls_of_its_tool() {
        let (agent, tool) = (AgentId::new("a-1").unwrap(), ToolName::new("look").unwrap());
        let mut lasting = Lasting::default();
        lasting.begin_outage(agent.clone(), tool.clone(), FaultKind::ToolError, 2);
        assert_eq!(lasting.meet_outage(&agent, &ToolName::new("other").unwrap()), None);
        assert_eq!(lasting.meet_outage(&AgentId::new("a-2").unwrap(), &tool), None);
        assert_eq!(lasting.meet_outage(&agent, &tool), Some(FaultKind::ToolError));
        assert_eq!(lasting.meet_outage(&agent, &tool), Some(FaultKind::ToolError));
        assert_eq!(lasting.meet_outage(&agent, &tool), None);

        lasting.begin_outage(agent.clone(), tool.clone(), FaultKind::ToolTimeout, 0);
        assert_eq!(lasting.meet_outage(&agent, &tool), None);
        lasting.begin_outage(agent.clone(), tool.clone(), FaultKind::ToolTimeout, 1);
        lasting.forget(&agent);
        assert_eq!(lasting.meet_outage(&agent, &tool), None);
    }

    #[test]
    fn an_altered_digit_stays_until_the_memory_is_rebuilt() {
        let agent = AgentId::new("a-1").unwrap();
        let mut lasting = Lasting::default();
        lasting.alter(agent.clone(), 3);
        assert_eq!(lasting.altered(&agent), Some(3));
        lasting.rebuilt(&agent);
        assert_eq!(lasting.altered(&agent), None);
    }
}
