//! The gate in front of each tool: a circuit breaker that recoveries open and that a successful try closes.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use actix::prelude::*;
use kintsugi_agent::{Effect, OpenCall};
use kintsugi_events::{Event, Payload, Recovery, RecoveryPhase, Snapshot, Subject};
use kintsugi_recover::{Admit, Breaker, Transition};
use kintsugi_types::{AgentId, Timestamp, ToolName};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tracing::{error, info, warn};

use super::Partition;
use super::faults::Exposed;
use crate::effects::{GateReport, Known};
use crate::lane_context::LaneContext;

/// Name under which the gates' state is kept.
pub(crate) const STATE_NAME: &str = "stage:gates";

/// Version of the state's form.
const STATE_VERSION: u32 = 1;

/// How long a breaker stays open where the recovery does not say, in milliseconds.
const OPEN_MS_DEFAULT: u64 = 300_000;

/// After what time one try is let through where the recovery does not say, in milliseconds.
const HALF_OPEN_MS_DEFAULT: u64 = 60_000;

/// A call that waits before a closed gate.
#[derive(Debug)]
struct Held {
    call: OpenCall,
    exposed: Exposed,
}

/// The recovery that closed the gate.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Cause {
    plan: Recovery,
    planned_at: Timestamp,
}

/// What of a gate outlives the process.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Lasting {
    breaker: Breaker,
    cause: Option<Cause>,
}

#[derive(Debug)]
struct Gate {
    lasting: Lasting,
    /// At most one call an agent, so bounded by the runnable agents.
    held: VecDeque<Held>,
    /// When the held calls are looked at again. One timer for all of them.
    timer: Option<(Timestamp, SpawnHandle)>,
}

/// Whether a call may pass.
#[derive(Debug)]
pub(super) enum Passage {
    Open,
    Closed { until: Timestamp },
}

/// The gates of all tools.
#[derive(Debug)]
pub(super) struct Gates {
    gates: BTreeMap<ToolName, Gate>,
}

impl Gates {
    /// The gates as they were before a restart.
    pub(super) fn restore(lane: &LaneContext) -> Self {
        let lasting: BTreeMap<ToolName, Lasting> = match lane.core.store.stage(STATE_NAME) {
            Ok(Some(json)) => serde_json::from_slice(&json).unwrap_or_else(|failure| {
                warn!(%failure, "the state of the breakers is unreadable: all are closed");
                BTreeMap::new()
            }),
            Ok(None) => BTreeMap::new(),
            Err(failure) => {
                warn!(%failure, "the state of the breakers is unreadable: all are closed");
                BTreeMap::new()
            }
        };
        let gates = lasting
            .into_iter()
            .map(|(tool, lasting)| (tool, Gate { lasting, held: VecDeque::new(), timer: None }));
        Self { gates: gates.collect() }
    }

    fn gate(&mut self, tool: &ToolName) -> &mut Gate {
        self.gates.entry(tool.clone()).or_insert_with(|| Gate {
            lasting: Lasting { breaker: Breaker::default(), cause: None },
            held: VecDeque::new(),
            timer: None,
        })
    }

    pub(super) fn pass(&mut self, tool: &ToolName, now: Timestamp) -> Passage {
        match self.gate(tool).lasting.breaker.admit(now) {
            Admit::Yes | Admit::Probe => Passage::Open,
            Admit::No { retry_at } => Passage::Closed { until: retry_at },
        }
    }

    fn snapshot(&self) -> Option<Snapshot> {
        let lasting: BTreeMap<&ToolName, &Lasting> =
            self.gates.iter().map(|(tool, gate)| (tool, &gate.lasting)).collect();
        let state = serde_json::to_string(&lasting).ok().and_then(|json| RawValue::from_string(json).ok())?;
        Some(Snapshot { of: STATE_NAME.to_owned(), version: STATE_VERSION, sequence: 0, state })
    }
}

impl Partition {
    /// Closes the gate of `tool` because a recovery says so. Returns the events that tell it.
    pub(super) fn open_gate(
        &mut self,
        tool: &ToolName,
        plan: &Recovery,
        planned_at: Timestamp,
    ) -> Vec<Event> {
        let now = self.lane.node.clock.now();
        let parameter = |name: &str, default| {
            plan.parameters.get(name).and_then(serde_json::Value::as_u64).unwrap_or(default)
        };
        let (open_ms, half_open_ms) =
            (parameter("open_ms", OPEN_MS_DEFAULT), parameter("half_open_ms", HALF_OPEN_MS_DEFAULT));
        info!(%tool, open_ms, half_open_ms, "breaker opened");
        let gate = self.gates.gate(tool);
        let mut events = Vec::new();
        let replaced = gate.lasting.cause.replace(Cause { plan: plan.clone(), planned_at });
        gate.lasting.breaker.open(now, open_ms, half_open_ms);
        if let Some(before) = replaced.filter(|before| before.plan.recovery != plan.recovery) {
            events.push(self.gate_event(
                &before,
                RecoveryPhase::Failed,
                "another recovery opened the breaker",
            ));
        }
        let cause = Cause { plan: plan.clone(), planned_at };
        events.push(self.gate_event(&cause, RecoveryPhase::Started, "the breaker is open"));
        self.gates_changed(events)
    }

    /// Takes in how a call went, and tells when that closed the breaker or opened it again.
    pub(super) fn report_to_gate(&mut self, report: &GateReport, ctx: &mut Context<Self>) {
        let now = self.lane.node.clock.now();
        let gate = self.gates.gate(&report.tool);
        let Some(transition) = gate.lasting.breaker.record(report.ok, now) else { return };
        let mut events = Vec::new();
        if transition == Transition::Closed {
            info!(tool = %report.tool, "breaker closed");
            if let Some(cause) = gate.lasting.cause.take() {
                events.push(self.gate_event(
                    &cause,
                    RecoveryPhase::Completed,
                    "a try succeeded, the breaker is closed",
                ));
            }
        }
        let events = self.gates_changed(events);
        self.append_own(events, Vec::new());
        self.release_gate(&report.tool, ctx);
    }

    /// Keeps a call before the closed gate of its tool until `until`, when the gate is asked again.
    pub(super) fn hold(
        &mut self,
        call: OpenCall,
        exposed: Exposed,
        until: Timestamp,
        ctx: &mut Context<Self>,
    ) {
        let tool = call.call.tool.clone();
        let pause = (until - self.lane.node.clock.now()).to_std().unwrap_or(Duration::ZERO);
        let gate = self.gates.gate(&tool);
        gate.held.push_back(Held { call, exposed });
        if let Some((at, timer)) = gate.timer {
            if at <= until {
                return;
            }
            ctx.cancel_future(timer);
        }
        let timer = ctx.run_later(pause, move |partition, ctx| {
            partition.gates.gate(&tool).timer = None;
            partition.release_gate(&tool, ctx);
        });
        gate.timer = Some((until, timer));
    }

    /// Lets held calls through as far as the gate allows, and comes back for the rest.
    pub(super) fn release_gate(&mut self, tool: &ToolName, ctx: &mut Context<Self>) {
        let waiting = std::mem::take(&mut self.gates.gate(tool).held);
        for held in waiting {
            let is_wanted = self
                .slots
                .get(&held.exposed.agent)
                .is_some_and(|slot| slot.running_effect == Some(Effect::Call(held.call.clone())));
            if is_wanted {
                self.start_call(held.call, held.exposed, ctx);
            }
        }
    }

    /// Takes back a call that was not begun and is wanted no more.
    pub(super) fn forget_held_call(&mut self, agent: &AgentId) {
        let Some(slot) = self.slots.get_mut(agent) else { return };
        let is_begun = |wish| !matches!(self.lane.effects.known(agent, wish), Known::No);
        if slot.running_effect.as_ref().is_some_and(is_begun) {
            return;
        }
        if let Some(Effect::Call(call)) = slot.running_effect.take() {
            let gate = self.gates.gate(&call.call.tool);
            gate.held.retain(|held| held.exposed.agent != *agent);
        }
    }

    fn gate_event(&self, cause: &Cause, phase: RecoveryPhase, outcome: &str) -> Event {
        let payload = self.told(&cause.plan, cause.planned_at, phase, outcome);
        self.own_event(cause.plan.agent.clone(), payload)
    }

    /// Adds the gates' new state to the events that tell of it, and keeps it in the cache.
    pub(super) fn gates_changed(&mut self, mut events: Vec<Event>) -> Vec<Event> {
        if let Some(snapshot) = self.gates.snapshot() {
            let mut batch = self.lane.core.store.batch();
            batch.put_stage(STATE_NAME, snapshot.state.get().as_bytes());
            if let Err(failure) = batch.commit() {
                error!(%failure, "write cache");
            }
            events.push(self.own_event(Subject::Engine, Payload::Snapshot(Box::new(snapshot))));
        }
        events
    }
}
