//! What a node is made of, handed down to every actor: nothing here is global.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use kintsugi_agent::{Command, KindConfig};
use kintsugi_chaos::FaultPlan;
use kintsugi_events::{Mode, Topic};
use kintsugi_monitor::MonitorSettings;
use kintsugi_types::{AgentId, AgentKind, NameError, RetryPolicy, TenantId};

use crate::asking::AskSettings;
use crate::policies::SharedPolicies;

/// How many agents of a kind there are, and what they are called: `<kind>-<number>` from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Population {
    /// The kind.
    pub kind: AgentKind,
    /// How many.
    pub count: u32,
}

impl Population {
    /// The id of agent number `number`.
    pub fn agent(&self, number: u32) -> Result<AgentId, NameError> {
        AgentId::new(format!("{}-{number}", self.kind))
    }

    /// Whether `agent` is one of them.
    pub fn contains(&self, agent: &AgentId) -> bool {
        agent
            .as_str()
            .strip_prefix(self.kind.as_str())
            .and_then(|rest| rest.strip_prefix('-'))
            .and_then(|number| number.parse::<u32>().ok())
            // `clerk-07` is nobody: two names would be one agent.
            .is_some_and(|number| number < self.count && self.agent(number).is_ok_and(|id| id == *agent))
    }
}

/// Settings of a node.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Where the cache of dormant agents lies.
    pub store_dir: PathBuf,
    /// Whose agents these are.
    pub tenant: TenantId,
    /// The kinds of agent.
    pub kinds: BTreeMap<AgentKind, Arc<KindConfig>>,
    /// How many agents of each kind there are.
    pub population: Vec<Population>,
    /// The policies of recovery.
    pub policies: SharedPolicies,
    /// Which of the healing stages run in this node.
    pub stages: Stages,
    /// What the monitor takes for a deviation.
    pub monitor: MonitorSettings,
    /// When the model is asked for a diagnosis; never where missing.
    pub ask: Option<AskSettings>,
    /// How much the system may do by itself.
    pub mode: Mode,
    /// Runnable goals in progress at the same time: about twice the slots of the model.
    pub runnable_max: usize,
    /// From this seed all draws follow.
    pub seed: u64,
    /// How a broken agent is restarted: `attempts_max` restarts within `restart_window_ms`, then quarantine.
    pub restart: RetryPolicy,
    /// See `restart`.
    pub restart_window_ms: u64,
    /// Threads that tools may block at the same time.
    pub tool_threads: usize,
    /// The longest that the node waits for one tool call, in milliseconds, whatever the tool itself promises.
    pub tool_ms_max: u64,
    /// Faults on purpose.
    pub chaos: Option<FaultPlan>,
    /// Called before each command is decided; a test makes it panic.
    pub before_decide: Option<CommandProbe>,
    /// Called when an effect starts and when it has ended, for tests that kill the process there.
    pub effect_probe: Option<EffectProbe>,
}

/// One of the healing stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StageName {
    /// From metrics to anomalies.
    Monitor,
    /// From anomalies to diagnoses.
    Diagnose,
    /// From diagnoses to recoveries.
    Recover,
}

impl StageName {
    /// All of them, in the order in which events pass them.
    pub const ALL: [Self; 3] = [Self::Monitor, Self::Diagnose, Self::Recover];

    /// Its name, which is its consumer's too.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Monitor => "monitor",
            Self::Diagnose => "diagnose",
            Self::Recover => "recover",
        }
    }

    /// The topics that it reads.
    pub const fn inputs(self) -> &'static [Topic] {
        match self {
            Self::Monitor => &[Topic::Metrics],
            Self::Diagnose => &[Topic::Anomalies],
            Self::Recover => &[Topic::Recoveries, Topic::Diagnoses],
        }
    }

    /// The topic that it writes.
    pub const fn output(self) -> Topic {
        match self {
            Self::Monitor => Topic::Anomalies,
            Self::Diagnose => Topic::Diagnoses,
            Self::Recover => Topic::Recoveries,
        }
    }
}

impl std::fmt::Display for StageName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Which of the healing stages run in a node. The others are somebody else's, or nobody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stages {
    /// From metrics to anomalies.
    pub monitor: bool,
    /// From anomalies to diagnoses.
    pub diagnose: bool,
    /// From diagnoses to recoveries.
    pub recover: bool,
}

impl Stages {
    /// All of them.
    pub const ALL: Self = Self { monitor: true, diagnose: true, recover: true };

    /// The names of those that run.
    pub(crate) fn names(self) -> impl Iterator<Item = &'static str> {
        let named = [(self.monitor, "monitor"), (self.diagnose, "diagnose"), (self.recover, "recover")];
        named.into_iter().filter_map(|(runs, name)| runs.then_some(name))
    }

    /// None of them.
    pub const NONE: Self = Self { monitor: false, diagnose: false, recover: false };

    /// Whether this one is among them.
    pub const fn has(self, stage: StageName) -> bool {
        match stage {
            StageName::Monitor => self.monitor,
            StageName::Diagnose => self.diagnose,
            StageName::Recover => self.recover,
        }
    }
}

impl Default for Stages {
    fn default() -> Self {
        Self::ALL
    }
}

/// What a [`CommandProbe`] calls.
pub type SeeCommand = dyn Fn(&AgentId, &Command) + Send + Sync;

/// Sees each command just before an agent decides on it.
#[derive(Clone)]
pub struct CommandProbe(pub Arc<SeeCommand>);

impl std::fmt::Debug for CommandProbe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CommandProbe")
    }
}

/// A boundary in the life of an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EffectBoundary {
    /// The wish is durable, the effect has not begun.
    BeforeStart,
    /// The effect is over, its outcome is not yet a command.
    AfterEnd,
}

/// Sees each boundary of an effect.
#[derive(Clone)]
pub struct EffectProbe(pub Arc<dyn Fn(EffectBoundary) + Send + Sync>);

impl std::fmt::Debug for EffectProbe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EffectProbe")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_has_one_name() {
        let population = Population { kind: AgentKind::new("clerk").unwrap(), count: 10 };
        let contains = |name: &str| population.contains(&AgentId::new(name).unwrap());
        assert!(contains("clerk-7") && contains("clerk-0"));
        for name in ["clerk-07", "clerk-+7", "clerk-10", "clerk-", "clerk"] {
            assert!(!contains(name), "{name}");
        }
    }
}
