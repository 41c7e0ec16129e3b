//! Faults on purpose, at the edges where real ones come in. Each is told in the log before it strikes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kintsugi_agent::ThinkOutcome;
use kintsugi_chaos::{FaultPlan, Place, injure};
use kintsugi_eventlog::{Append, NewRecord};
use kintsugi_events::{Envelope, Event, FaultEdge, FaultKind, Goal, InjectedFault, Payload, Subject};
use kintsugi_gpu_scheduler::{LeaseRequest, ThinkError};
use kintsugi_tools::{ToolError, ToolOutput};
use kintsugi_types::{AgentId, CompletionRequest, Message, Role, SystemIds, ToolName};
use tracing::{debug, error};

use super::remembered::Remembered;
use crate::lane_context::LaneContext;
use crate::publish::content_of;
use crate::smaller::Smaller;

/// For so many steps a stuck model repeats itself, unless a recovery changes its context.
const STUCK_STEPS: u32 = 3;

/// Where an effect of an agent stands, for the draw of a fault.
#[derive(Debug, Clone)]
pub(super) struct Exposed {
    pub(super) agent: AgentId,
    pub(super) goal: Arc<Goal>,
    pub(super) step: u32,
    pub(super) attempt: u32,
    pub(super) partition: u32,
}

/// A fault that strikes now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Strike {
    kind: FaultKind,
    delay: Duration,
}

impl Exposed {
    fn place(&self) -> Place {
        // A goal that no run numbered is known by what it asks, never by its id.
        let goal = self.goal.index.unwrap_or_else(|| content_of(&self.goal));
        Place { goal, step: self.step, attempt: self.attempt }
    }

    /// The fault that strikes a call of `tool`: one that still goes on, or a new one.
    pub(super) fn strike_tool(&self, lane: &Arc<LaneContext>, tool: &ToolName) -> Option<Strike> {
        let plan = lane.node.config.chaos?;
        if let Some(kind) = lane.node.lasting_faults().meet_outage(&self.agent, tool) {
            return Some(Strike { kind, delay: Duration::ZERO });
        }
        let kind = plan.strike(self.place(), FaultEdge::Tool)?;
        if injure::tool_failure(kind).is_some() {
            let tries = plan.outage_tries(self.place()) - 1;
            lane.node.lasting_faults().begin_outage(self.agent.clone(), tool.clone(), kind, tries);
        }
        Some(self.tell(lane, plan, kind))
    }

    /// The fault that strikes an inference over `messages`.
    fn strike_model(&self, lane: &Arc<LaneContext>, messages: &[Message]) -> Option<Strike> {
        let plan = lane.node.config.chaos?;
        let place = self.place();
        if is_still_stuck(plan, place, messages) {
            return Some(Strike { kind: FaultKind::StuckThought, delay: Duration::ZERO });
        }
        if lane.node.lasting_faults().altered(&self.agent).is_some() {
            return Some(Strike { kind: FaultKind::CorruptedMemory, delay: Duration::ZERO });
        }
        let kind = plan.strike(place, FaultEdge::Model)?;
        let is_possible = match kind {
            // Who said nothing yet cannot repeat it.
            FaultKind::StuckThought => said_last(messages).is_some(),
            FaultKind::CorruptedMemory => observed_digits(messages) > 0,
            _ => true,
        };
        if !is_possible {
            return None;
        }
        if kind == FaultKind::CorruptedMemory {
            let digit = plan.among(place, observed_digits(messages));
            lane.node.lasting_faults().alter(self.agent.clone(), digit);
        }
        Some(self.tell(lane, plan, kind))
    }

    fn tell(&self, lane: &Arc<LaneContext>, plan: FaultPlan, kind: FaultKind) -> Strike {
        let fault = InjectedFault {
            agent: self.agent.clone(),
            goal: self.goal.id.clone(),
            step: self.step,
            attempt: self.attempt,
            kind,
            edge: kind.edge(),
        };
        let subject = Subject::Agent(self.agent.clone());
        let mut envelope =
            Envelope::new(&mut SystemIds, "/kintsugi/chaos".into(), subject, lane.node.clock.now());
        envelope.goal.clone_from(&self.goal.id);
        envelope.tenant = self.goal.tenant.clone();
        let event = Event { envelope, payload: Payload::Fault(Box::new(fault)) };
        match NewRecord::from_event(&event, self.partition) {
            Ok(record) => {
                lane.core.append_own(&Append { records: vec![record], positions: Vec::new() }, vec![event]);
            }
            Err(failure) => error!(%failure, "encode fault"),
        }
        Strike { kind, delay: plan.delay(self.place()) }
    }

    /// Alters the one digit of what tools told before that the agent remembers as another.
    fn corrupt(&self, lane: &Arc<LaneContext>, messages: &mut [Message]) {
        let Some(mut place) = lane.node.lasting_faults().altered(&self.agent) else { return };
        for message in messages.iter_mut().filter(|message| message.role == Role::Tool) {
            let digits = injure::digits(&message.content);
            if place < digits {
                message.content = injure::with_another_digit(&message.content, place).into();
                return;
            }
            place -= digits;
        }
    }
}

impl Strike {
    /// Waits where the fault is slowness, and fails where it keeps the call from being made.
    pub(super) async fn before_call(self) -> Result<(), ToolError> {
        if self.kind == FaultKind::SlowTool {
            tokio::time::sleep(self.delay).await;
        }
        match injure::tool_failure(self.kind) {
            Some((code, text)) if self.kind == FaultKind::ToolUnauthorized => {
                Err(ToolError::fatal(code, text))
            }
            Some((code, text)) => Err(ToolError::transient(code, text)),
            None => Ok(()),
        }
    }

    /// Injures what a call answered.
    pub(super) fn after_call(self, output: &mut ToolOutput) {
        if self.kind == FaultKind::ContextBloat {
            output.text = injure::bloated(&output.text);
        }
    }
}

/// Asks the smaller model where it is `asked`, else the main one, with whatever fault strikes. `None` where the scheduler has stopped: the wish stands in the journal,
/// and is asked again at the next start.
pub(super) async fn think(
    lane: &Arc<LaneContext>,
    exposed: &Exposed,
    lease: LeaseRequest,
    mut request: CompletionRequest,
    asked: Option<Smaller>,
) -> Option<ThinkOutcome> {
    let begun = Instant::now();
    let scheduler = asked.as_ref().map_or(&lane.node.scheduler, |smaller| &smaller.scheduler);
    // As the journal folds to them.
    let remembered = Remembered::of(&request.messages);
    let strike = exposed.strike_model(lane, &request.messages);
    let said = said_last(&request.messages).map(str::to_owned);
    match strike {
        Some(Strike { kind: FaultKind::SlowModel, delay }) => tokio::time::sleep(delay).await,
        Some(Strike { kind: FaultKind::EnginePanic, .. }) => scheduler.break_engine(),
        Some(Strike { kind: FaultKind::CorruptedMemory, .. }) => exposed.corrupt(lane, &mut request.messages),
        _ => {}
    }
    let differing = remembered.differing(&request.messages);
    let contradictions = u32::try_from(differing).unwrap_or(u32::MAX);
    if differing > 0 {
        let (agent, step) = (&exposed.agent, exposed.step);
        debug!(%agent, step, differing, "the model is shown turns that differ from the agent's journal");
    }
    Some(match scheduler.think(lease, request).await {
        Ok(thought) => {
            let mut completion = thought.completion;
            // Whatever kept the answer on its way, but the queue, is slowness that the agent meets.
            let wall_ms = begun.elapsed().as_secs_f64() * 1000.0;
            completion.think_ms = (wall_ms - thought.queue_ms).max(0.0);
            match (strike.map(|strike| strike.kind), said) {
                (Some(FaultKind::MalformedOutput), _) => {
                    completion.text = injure::broken_off(&completion.text);
                }
                (Some(FaultKind::HallucinatedTool), _) => {
                    completion.text = injure::with_invented_tool(&completion.text);
                }
                (Some(FaultKind::StuckThought), Some(said)) => completion.text = said,
                _ => {}
            }
            let model = asked.map(|smaller| smaller.name);
            ThinkOutcome::Answered { completion, queue_ms: thought.queue_ms, contradictions, model }
        }
        Err(failure) => match asked {
            // The main one goes on without it.
            Some(smaller) if !lane.core.is_stopping() => {
                let error = format!("model {}: {failure}", smaller.name);
                ThinkOutcome::Failed { tier: failure.tier(), error }
            }
            _ => return failed(lane, &failure),
        },
    })
}

/// What it means that a model did not answer. `None` where its scheduler has stopped.
fn failed(lane: &LaneContext, failure: &ThinkError) -> Option<ThinkOutcome> {
    let error = failure.to_string();
    match failure {
        ThinkError::TooLong { .. } => Some(ThinkOutcome::TooLong { error }),
        ThinkError::Stopped => {
            if !lane.core.is_stopping() {
                lane.node.give_up(error);
            }
            None
        }
        _ => Some(ThinkOutcome::Failed { tier: failure.tier(), error }),
    }
}

/// How many digits tools told in these messages.
fn observed_digits(messages: &[Message]) -> usize {
    let observed = messages.iter().filter(|message| message.role == Role::Tool);
    observed.map(|message| injure::digits(&message.content)).sum()
}

/// What the model said last.
fn said_last(messages: &[Message]) -> Option<&str> {
    messages.iter().rev().find(|message| message.role == Role::Assistant).map(|said| &*said.content)
}

/// Whether the model was struck a few steps ago and nothing changed its context since: it said the same twice, and
/// only the tool answered.
fn is_still_stuck(plan: FaultPlan, place: Place, messages: &[Message]) -> bool {
    let mut said = messages.iter().rev().filter(|message| message.role == Role::Assistant);
    let is_repeated =
        said.next().zip(said.next()).is_some_and(|(last, before)| last.content == before.content);
    let is_undisturbed = matches!(
        messages,
        [.., said, seen] if said.role == Role::Assistant && seen.role == Role::Tool
    );
    let was_struck = |back: u32| {
        let step = place.step.saturating_sub(back);
        step > 0
            && plan.strike(Place { step, attempt: 1, ..place }, FaultEdge::Model)
                == Some(FaultKind::StuckThought)
    };
    is_repeated && is_undisturbed && (1..=STUCK_STEPS).any(was_struck)
}
