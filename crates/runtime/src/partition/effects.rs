//! What an agent wants done outside: inferences, tool calls, timers. Each runs once at a time, and comes back as a
//! command to the agent's id, whether its actor still lives or not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use actix::prelude::*;
use kintsugi_agent::{ActionOutcome, Command, Effect, KindConfig, OpenCall};
use kintsugi_events::Goal;
use kintsugi_gpu_scheduler::LeaseRequest;
use kintsugi_tools::{Registry, ToolCall, ToolError, ToolOutput};
use kintsugi_types::{
    AgentId, CompletionRequest, EffectId, ErrorTier, Grammar, Message as ChatMessage, Sampling, Timestamp,
    ToolName, ToolSafety,
};

use super::faults::{self, Exposed};
use super::gates::Passage;
use super::slot::Item;
use super::{EffectEnded, Partition};
use crate::agent_actor::EffectStart;
use crate::config::EffectBoundary;
use crate::effects::{EffectOutcome, GateReport, Known};
use crate::lane_context::LaneContext;
use crate::smaller::Smaller;

/// What an inference is asked.
struct Prompt {
    messages: Vec<ChatMessage>,
    grammar: Grammar,
    tokens_max: u32,
}

/// What an agent on lighter work may say at most: three quarters of what others may.
const fn light_tokens(tokens_max: u32) -> u32 {
    tokens_max - tokens_max / 4
}

impl Partition {
    /// Starts what the agent wants, unless it runs already.
    pub(super) fn start_effect(
        &mut self,
        agent: &AgentId,
        start: EffectStart,
        is_wake: bool,
        ctx: &mut Context<Self>,
    ) {
        if self.lane.core.is_stopping() {
            // Nothing of it would be heard of any more.
            return;
        }
        if self.is_draining && matches!(start, EffectStart::Think { .. }) {
            // Whoever has the lane next asks. A call is made all the same: its wish is durable, and whoever finds one
            // without an outcome has to take it for made.
            return;
        }
        let wish = start.wish();
        self.forget_timer(agent);
        let Some(slot) = self.slots.get_mut(agent) else { return };
        if slot.running_effect.as_ref() == Some(&wish) {
            return;
        }
        let kind = slot.kind.clone();
        if !matches!(start, EffectStart::Timer { .. }) {
            slot.running_effect = Some(wish.clone());
            // It may have been begun by a partition that died.
            match self.lane.effects.known(agent, &wish) {
                Known::No => {}
                Known::Running => return,
                Known::Ended(outcome) => {
                    ctx.notify(EffectEnded { agent: agent.clone(), wish, outcome });
                    return;
                }
            }
        }
        match start {
            EffectStart::Timer { at } => {
                slot.timer = Some(at);
                self.timers.insert((at, agent.clone()));
                self.arm_timer(ctx);
            }
            EffectStart::Think { messages, goal, step, try_number, simple_reply, is_light, .. } => {
                let Some(config) = self.lane.node.kind(&kind).cloned() else { return };
                let Some(grammars) = self.grammars.get(&kind) else { return };
                let asked = match &wish {
                    Effect::Think { model, .. } => self.lane.node.smaller_asked(model.as_ref()).cloned(),
                    _ => None,
                };
                // A smaller model makes the work lighter by itself.
                let is_plain = is_light && asked.is_none();
                let grammar = grammars.of(simple_reply, is_plain).clone();
                let tokens_max = config.limits.answer_tokens_max;
                let tokens_max = if is_plain { light_tokens(tokens_max) } else { tokens_max };
                if asked.is_some() {
                    // What the main model keeps of the conversation is of no use while the smaller one goes on with it.
                    self.lane.node.scheduler.release_agent(agent);
                }
                let prompt = Prompt { messages, grammar, tokens_max };
                let exposed = self.exposed(agent, goal, step, try_number);
                self.start_think(wish, prompt, exposed, &config, asked);
            }
            EffectStart::Call { call, goal, step } => {
                if is_wake && self.lane.effects.take_lost(agent) {
                    self.ask_for_lost_call(agent, call);
                    return;
                }
                let exposed = self.exposed(agent, goal, step, call.attempt);
                self.start_call(call, exposed, ctx);
            }
        }
    }

    fn exposed(&self, agent: &AgentId, goal: Arc<Goal>, step: u32, attempt: u32) -> Exposed {
        Exposed { agent: agent.clone(), goal, step, attempt, partition: self.lane.core.place.number }
    }

    /// Asks the smaller model where it is `asked`, else the main one.
    fn start_think(
        &self,
        wish: Effect,
        prompt: Prompt,
        exposed: Exposed,
        config: &KindConfig,
        asked: Option<Smaller>,
    ) {
        let Effect::Think { effect, attempt, sampling_seed, .. } = wish else { return };
        let tokens_max = prompt.tokens_max;
        let request = CompletionRequest {
            grammar: prompt.grammar,
            sampling: Sampling { temperature: config.temperature, top_p: config.top_p, seed: sampling_seed },
            tokens_max,
            messages: prompt.messages,
        };
        // Four bytes a token is what byte-pair encodings of plain text come to.
        let bytes: usize = request.messages.iter().map(|message| message.content.len()).sum();
        let lease = LeaseRequest {
            agent: exposed.agent.clone(),
            tenant: exposed.goal.tenant.clone(),
            urgency: exposed.goal.urgency,
            prompt_tokens_estimate: u32::try_from(bytes / 4).unwrap_or(u32::MAX),
            tokens_max,
            goal_started: exposed.step > 1,
            deadline: exposed.goal.deadline,
        };
        let lane = self.lane.clone();
        let agent = exposed.agent.clone();
        self.lane.effects.begin(&agent, wish.clone(), async move {
            probe(&lane, EffectBoundary::BeforeStart);
            let Some(outcome) = faults::think(&lane, &exposed, lease, request, asked).await else { return };
            probe(&lane, EffectBoundary::AfterEnd);
            let command = Command::ThinkDone { effect, attempt, outcome };
            lane.effects.end(exposed.agent, wish, EffectOutcome { command, gate: None });
        });
    }

    /// Passes a tool call through the gate of its tool; a closed gate keeps it until it opens.
    pub(super) fn start_call(&mut self, call: OpenCall, exposed: Exposed, ctx: &mut Context<Self>) {
        let tool = call.call.tool.clone();
        let passage = self.gates.pass(&tool, self.lane.node.clock.now());
        match passage {
            Passage::Open => self.run_call(call, exposed),
            Passage::Closed { until } => self.hold(call, exposed, until, ctx),
        }
    }

    fn run_call(&self, call: OpenCall, exposed: Exposed) {
        let lane = self.lane.clone();
        let wish = Effect::Call(call.clone());
        let agent = exposed.agent.clone();
        let input = exposed.goal.input.clone();
        let limit = Duration::from_millis(lane.node.config.tool_ms_max);
        self.lane.effects.begin(&agent, wish.clone(), async move {
            probe(&lane, EffectBoundary::BeforeStart);
            let OpenCall { effect, call, safety, attempt } = call;
            let begun = Instant::now();
            let deadline = begun.checked_add(limit);
            let tool_call = ToolCall { attempt, deadline, ..ToolCall::new(effect, call.args, input) };
            let strike = exposed.strike_tool(&lane, &call.tool);
            let kept_from = match strike {
                Some(strike) => strike.before_call().await.err(),
                None => None,
            };
            let mut result = match kept_from {
                Some(failure) => Err(failure),
                None => run_blocking(lane.node.tools.clone(), call.tool.clone(), tool_call, limit).await,
            };
            if let (Some(strike), Ok(output)) = (strike, &mut result) {
                strike.after_call(output);
            }
            let tool_ms = begun.elapsed().as_secs_f64() * 1000.0;
            probe(&lane, EffectBoundary::AfterEnd);
            let gate = Some(GateReport { tool: call.tool.clone(), ok: is_answer(&result) });
            let command = outcome_command(&lane, effect, attempt, safety, &call.tool, result, tool_ms).await;
            lane.effects.end(exposed.agent, wish, EffectOutcome { command, gate });
        });
    }

    /// A call that may not be repeated was under way when the process ended: the tool is asked what became of it.
    fn ask_for_lost_call(&self, agent: &AgentId, call: OpenCall) {
        let (lane, whose) = (self.lane.clone(), agent.clone());
        let limit = Duration::from_millis(lane.node.config.tool_ms_max);
        let wish = Effect::Call(call.clone());
        self.lane.effects.begin(agent, wish.clone(), async move {
            let mut happened = ask_blocking(&lane, &call.call.tool, call.effect).await;
            if happened == Some(false) && lane.core.place.is_shared() {
                // Whoever had the lane before may live, and be at it still.
                tokio::time::sleep(limit + LATE_EFFECT_AFTER).await;
                happened = ask_blocking(&lane, &call.call.tool, call.effect).await;
            }
            let cause = "the process ended while it ran".into();
            let command = Command::CallLost { effect: call.effect, happened, cause };
            lane.effects.end(whose, wish, EffectOutcome { command, gate: None });
        });
    }

    pub(super) fn forget_timer(&mut self, agent: &AgentId) {
        if let Some(slot) = self.slots.get_mut(agent)
            && let Some(at) = slot.timer.take()
        {
            self.timers.remove(&(at, agent.clone()));
        }
    }

    /// Keeps one timer of the actor armed: for the earliest time that any agent waits for.
    fn arm_timer(&mut self, ctx: &mut Context<Self>) {
        let Some(first) = self.timers.first().map(|(at, _)| *at) else { return };
        if let Some((armed, handle)) = self.timer {
            if armed <= first {
                return;
            }
            ctx.cancel_future(handle);
        }
        let pause = (first - self.lane.node.clock.now()).to_std().unwrap_or(Duration::ZERO);
        let handle = ctx.run_later(pause, |partition, ctx| {
            partition.timer = None;
            partition.fire_timers(ctx);
        });
        self.timer = Some((first, handle));
    }

    fn fire_timers(&mut self, ctx: &mut Context<Self>) {
        let now: Timestamp = self.lane.node.clock.now();
        while self.timers.first().is_some_and(|(at, _)| *at <= now) {
            let Some((at, agent)) = self.timers.pop_first() else { break };
            if let Some(slot) = self.slots.get_mut(&agent) {
                slot.timer = None;
            }
            self.enqueue(&agent, Item::of(Command::TimerDue { at }), ctx);
        }
        self.arm_timer(ctx);
    }
}

impl Handler<EffectEnded> for Partition {
    type Result = ();

    fn handle(&mut self, ended: EffectEnded, ctx: &mut Context<Self>) {
        let EffectEnded { agent, wish, outcome } = ended;
        self.lane.effects.heard(&agent, &wish);
        if self.is_draining && matches!(wish, Effect::Think { .. }) {
            // A call would follow from it.
            return;
        }
        if let Some(slot) = self.slots.get_mut(&agent)
            && slot.running_effect.as_ref() == Some(&wish)
        {
            slot.running_effect = None;
        }
        if let Some(report) = outcome.gate {
            self.report_to_gate(&report, ctx);
        }
        self.enqueue(&agent, Item::of(outcome.command), ctx);
    }
}

/// Takes a call that no thread has begun when it is dropped.
struct GivesUp(Arc<AtomicBool>);

impl Drop for GivesUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs the tool on a thread of its own and gives up waiting at the limit; the thread ends when the tool does. A call
/// that no thread has begun by then is not made any more.
async fn run_blocking(
    tools: Arc<Registry>,
    tool: ToolName,
    call: ToolCall,
    limit: Duration,
) -> Result<ToolOutput, ToolError> {
    let no_thread = move || {
        let waited_ms = limit.as_millis();
        ToolError::transient("no_thread", format!("no tool thread was free within {waited_ms} ms"))
    };
    // Whoever sets it first has the call: the thread that makes it, or the wait that gives it up.
    let is_taken = Arc::new(AtomicBool::new(false));
    let is_given_up = is_taken.clone();
    let running = tokio::task::spawn_blocking(move || {
        if is_given_up.swap(true, Ordering::Relaxed) { Err(no_thread()) } else { tools.call(&tool, &call) }
    });
    // Where nobody waits any more, because the lane goes to somebody else, no thread begins it either.
    let _wait = GivesUp(is_taken.clone());
    match tokio::time::timeout(limit, running).await {
        Ok(Ok(result)) => result,
        Ok(Err(panicked)) => Err(ToolError::fatal(PANICKED, format!("the tool panicked: {panicked}"))),
        Err(_) if !is_taken.swap(true, Ordering::Relaxed) => Err(no_thread()),
        Err(_) => Err(ToolError::transient(TIMED_OUT, format!("no answer within {} ms", limit.as_millis()))),
    }
}

/// Asks the tool on a thread of its own whether `effect` happened. One that panics or takes too long cannot tell.
async fn ask_blocking(lane: &LaneContext, tool: &ToolName, effect: EffectId) -> Option<bool> {
    let (tools, tool) = (lane.node.tools.clone(), tool.clone());
    let limit = Duration::from_millis(lane.node.config.tool_ms_max);
    let asked = tokio::task::spawn_blocking(move || tools.post_condition(&tool, effect));
    tokio::time::timeout(limit, asked).await.ok()?.ok()?
}

/// Whether the tool itself works: a refusal is an answer.
fn is_answer(result: &Result<ToolOutput, ToolError>) -> bool {
    result.as_ref().map_or_else(|error| error.tier == ErrorTier::Recoverable, |_| true)
}

async fn outcome_command(
    lane: &LaneContext,
    effect: EffectId,
    attempt: u32,
    safety: ToolSafety,
    tool: &ToolName,
    result: Result<ToolOutput, ToolError>,
    tool_ms: f64,
) -> Command {
    let outcome = match result {
        Ok(output) => ActionOutcome::Answered { output: output.text.into() },
        // It may have acted before it failed: it must not be tried again as if it had not.
        Err(error) if !safety.is_restartable() && OUTCOME_UNKNOWN.contains(&error.code.as_ref()) => {
            let mut happened = ask_blocking(lane, tool, effect).await;
            if happened == Some(false) {
                // The service may be at it still: only who says no twice has not done it.
                tokio::time::sleep(LATE_EFFECT_AFTER).await;
                happened = ask_blocking(lane, tool, effect).await;
            }
            return Command::CallLost { effect, happened, cause: error.to_string().into() };
        }
        Err(error) => ActionOutcome::Failed { tier: error.tier, error: error.to_string() },
    };
    Command::ActionDone { effect, attempt, outcome, tool_ms }
}

/// Codes of failures after which nobody knows whether the call acted: the tool says so itself, its answer is not what
/// it promised, it did not come back in time, or it panicked on the way.
const OUTCOME_UNKNOWN: [&str; 4] = ["outcome_unknown", "schema_lie", TIMED_OUT, PANICKED];

/// How long an effect whose call failed may come late.
const LATE_EFFECT_AFTER: Duration = Duration::from_secs(2);

const TIMED_OUT: &str = "timed_out";

const PANICKED: &str = "panicked";

fn probe(lane: &LaneContext, boundary: EffectBoundary) {
    if let Some(probe) = &lane.node.config.effect_probe {
        (probe.0)(boundary);
    }
}
