//! What runs outside for the agents: it belongs to the process, not to the partition that asked for it.
//!
//! A partition that is started again finds here what its predecessor began. So no call is made twice side by side, and
//! no outcome is lost with an actor.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};

use actix::Addr;
use kintsugi_agent::{AgentState, Command, Effect};
use kintsugi_types::{AgentId, ToolName};
use tokio::task::AbortHandle;

use crate::partition::{EffectEnded, Partition};

/// How a call went, for the gate in front of its tool.
#[derive(Debug, Clone)]
pub(crate) struct GateReport {
    pub(crate) tool: ToolName,
    /// Whether the tool works; a refusal is an answer.
    pub(crate) ok: bool,
}

/// What came of an effect.
#[derive(Debug, Clone)]
pub(crate) struct EffectOutcome {
    /// What it means to the agent.
    pub(crate) command: Command,
    /// What it means to a tool's gate.
    pub(crate) gate: Option<GateReport>,
}

/// What this process knows of an effect.
#[derive(Debug)]
pub(crate) enum Known {
    /// Nothing: it was not begun.
    No,
    /// It runs, and will end with an [`EffectEnded`].
    Running,
    /// It ended.
    Ended(EffectOutcome),
}

/// An effect that was begun, with its outcome once it has one.
#[derive(Debug)]
struct Begun {
    wish: Effect,
    outcome: Option<EffectOutcome>,
    task: AbortHandle,
    /// Whether the partition has taken the outcome in.
    is_heard: bool,
}

#[derive(Debug, Default)]
struct Inner {
    partition: Option<Addr<Partition>>,
    /// One an agent, for as long as the agent has load.
    begun: HashMap<AgentId, Begun>,
    lost: HashSet<AgentId>,
}

/// The effects that this process began, by agent.
#[derive(Debug, Default)]
pub(crate) struct RunningEffects {
    inner: Mutex<Inner>,
}

impl RunningEffects {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Outcomes go to `partition` from now on.
    pub(crate) fn attach(&self, partition: Addr<Partition>) {
        self.inner().partition = Some(partition);
    }

    /// Notes whose call an earlier process may have made. Such a call may not be repeated, and nobody knows whether it
    /// acted.
    pub(crate) fn lose(&self, restored: &[AgentState]) {
        let lost = restored.iter().filter(|state| is_unrepeatable_call_open(state));
        self.inner().lost.extend(lost.map(|state| state.agent.clone()));
    }

    /// Whether an earlier process may have made the call that the agent waits for. Says so once.
    pub(crate) fn take_lost(&self, agent: &AgentId) -> bool {
        self.inner().lost.remove(agent)
    }

    /// What became of `wish`.
    pub(crate) fn known(&self, agent: &AgentId, wish: &Effect) -> Known {
        match self.inner().begun.get(agent).filter(|begun| begun.wish == *wish) {
            None => Known::No,
            Some(Begun { outcome: None, .. }) => Known::Running,
            Some(Begun { outcome: Some(outcome), .. }) => Known::Ended(outcome.clone()),
        }
    }

    /// Begins `wish`: `work` has to [end](Self::end) it.
    pub(crate) fn begin(&self, agent: &AgentId, wish: Effect, work: impl Future<Output = ()> + 'static) {
        let task = actix::spawn(work).abort_handle();
        self.inner().begun.insert(agent.clone(), Begun { wish, outcome: None, task, is_heard: false });
    }

    /// Whether a tool is at work, or what came of a call is still on its way to the partition.
    pub(crate) fn is_tool_at_work(&self) -> bool {
        let begun = &self.inner().begun;
        begun.values().any(|begun| !begun.is_heard && matches!(begun.wish, Effect::Call(_)))
    }

    /// Lets go of all that runs: whoever has the lane next begins it again. Leases are given back; a tool that is at
    /// work ends by itself, and nobody hears of it.
    pub(crate) fn abandon(&self) {
        let mut inner = self.inner();
        inner.partition = None;
        for (_, begun) in inner.begun.drain() {
            begun.task.abort();
        }
    }

    /// Notes what came of `wish`, and tells the partition of now.
    pub(crate) fn end(&self, agent: AgentId, wish: Effect, outcome: EffectOutcome) {
        let mut inner = self.inner();
        if let Some(begun) = inner.begun.get_mut(&agent).filter(|begun| begun.wish == wish) {
            begun.outcome = Some(outcome.clone());
        }
        if let Some(partition) = &inner.partition {
            partition.do_send(EffectEnded { agent, wish, outcome });
        }
    }

    /// Notes that the partition has taken the outcome of `wish` in.
    pub(crate) fn heard(&self, agent: &AgentId, wish: &Effect) {
        if let Some(begun) = self.inner().begun.get_mut(agent).filter(|begun| begun.wish == *wish) {
            begun.is_heard = true;
        }
    }

    /// Forgets an agent without load.
    pub(crate) fn forget(&self, agent: &AgentId) {
        self.inner().begun.remove(agent);
    }
}

fn is_unrepeatable_call_open(state: &AgentState) -> bool {
    matches!(state.open_effect(), Some(Effect::Call(call)) if !call.safety.is_restartable())
}
