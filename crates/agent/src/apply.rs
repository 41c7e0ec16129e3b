//! `apply`: the state after an event. Total: every event that a journal holds can be applied, and nothing else
//! but the event and the state decides what comes out.

use std::collections::VecDeque;
use std::sync::Arc;

use kintsugi_events::{
    ActionCall, AgentEvent, Checkpoint, Goal, GoalEnd, HandedCall, HealthState, ObservationRecord, Recovery,
    RecoveryAction, RecoveryPhase, ThoughtRecord,
};
use kintsugi_types::{ErrorTier, GoalId, RecoveryId, Score, Timestamp, TokenUsage};

use serde_json::{Value, json};

use crate::effect::OpenCall;
use crate::state::{
    AgentState, DoneCall, OpenRecovery, Phase, RECOVERIES_REMEMBERED, ROLLBACKS_REMEMBERED, RollbackPoint,
    Run, StepSoFar, THOUGHTS_REMEMBERED, Turn,
};

/// How many turns stay when a recovery prunes the context and does not say otherwise.
pub const TURNS_KEPT: usize = 10;

/// How much of each tool's answer stays when a recovery prunes the context, in bytes.
pub const OBSERVATION_BYTES_KEPT: usize = 512;

impl AgentState {
    /// Folds the next journal event in and counts the sequence on.
    pub fn apply(&mut self, event: &AgentEvent) {
        self.sequence += 1;
        match event {
            AgentEvent::Created { kind, tenant } => {
                self.kind = kind.clone();
                self.tenant = tenant.clone();
            }
            AgentEvent::GoalAccepted { goal } => self.queue.push_back(goal.clone()),
            AgentEvent::GoalStarted { goal, at, seed } => self.start_goal(goal, *at, *seed),
            AgentEvent::GoalEnded(end) => self.end_goal(end),
            AgentEvent::GoalReassigned { goal, .. } => self.let_goal_go(goal),
            AgentEvent::CheckpointTaken(checkpoint) => self.take_checkpoint(checkpoint),
            AgentEvent::RecoveryDeferred { plan, planned_at } => {
                self.remember_recovery(plan.recovery);
                let state_before = self.health_state;
                if let Some(run) = &mut self.run {
                    let (plan, planned_at) = (plan.clone(), *planned_at);
                    run.deferred = Some(OpenRecovery { plan, planned_at, state_before });
                }
            }
            AgentEvent::RecoveryStarted { plan, planned_at, resume_at } => {
                self.start_recovery(plan, *planned_at, *resume_at);
            }
            AgentEvent::RecoveryEnded { recovery, phase } => {
                self.remember_recovery(*recovery);
                // What comes next tells whether it is well again.
                if self.health_state == HealthState::Recovering {
                    self.health_state = HealthState::Degraded;
                }
                if let Some(run) = &mut self.run {
                    run.deferred.take_if(|open| open.plan.recovery == *recovery);
                }
                if let Some(run) = &mut self.run
                    && run.recovery.take_if(|open| open.plan.recovery == *recovery).is_some()
                    && *phase == RecoveryPhase::Completed
                {
                    run.seams += 1;
                }
            }
            AgentEvent::Quarantined { reason } => {
                self.quarantined = Some(reason.clone());
                self.health = Score::ZERO;
                self.health_state = HealthState::Failed;
            }
            AgentEvent::Resumed { .. } => {
                self.quarantined = None;
                self.health = Score::ONE;
                self.health_state = HealthState::Healthy;
            }
            of_the_run => {
                if let Some(run) = &mut self.run {
                    run.apply(of_the_run);
                }
            }
        }
    }

    fn start_goal(&mut self, goal: &GoalId, at: Timestamp, seed: u64) {
        let waiting = self.queue.iter().position(|queued| queued.id.as_ref() == Some(goal));
        if let Some(goal_taken) = waiting.and_then(|place| self.queue.remove(place)) {
            self.run = Some(Run::new(goal_taken, goal.clone(), at, seed));
        }
    }

    fn end_goal(&mut self, end: &GoalEnd) {
        self.goals_ended += 1;
        self.let_goal_go(&end.goal);
    }

    fn let_goal_go(&mut self, goal: &GoalId) {
        if self.run.take_if(|run| run.goal_id == *goal).is_none() {
            self.queue.retain(|queued| queued.id.as_ref() != Some(goal));
        }
    }

    fn take_checkpoint(&mut self, checkpoint: &Checkpoint) {
        self.health = checkpoint.health;
        self.health_state = checkpoint.health_state;
        self.step_ms_average = Some(checkpoint.step_ms_average);
        if let Some(run) = &mut self.run {
            if run.rollbacks.len() == ROLLBACKS_REMEMBERED {
                run.rollbacks.pop_front();
            }
            run.rollbacks.push_back(RollbackPoint {
                step: checkpoint.step,
                turns: run.turns.len(),
                is_good: checkpoint.health_state == HealthState::Healthy,
            });
            run.thinks_in_step = 0;
            run.so_far = StepSoFar::default();
        }
    }

    fn start_recovery(&mut self, plan: &Recovery, planned_at: Timestamp, resume_at: Timestamp) {
        self.remember_recovery(plan.recovery);
        let state_before = self.health_state;
        if let Some(run) = &mut self.run {
            run.deferred = None;
            run.recovery = Some(OpenRecovery { plan: Box::new(plan.clone()), planned_at, state_before });
            run.mend(plan, resume_at);
        }
        self.health_state = HealthState::Recovering;
    }

    fn remember_recovery(&mut self, recovery: RecoveryId) {
        if self.recoveries.contains(&recovery) {
            return;
        }
        if self.recoveries.len() == RECOVERIES_REMEMBERED {
            self.recoveries.pop_front();
        }
        self.recoveries.push_back(recovery);
    }
}

impl Run {
    /// A goal at its first step here. One that was handed over goes on where the agent before it stopped: what was
    /// spent stays spent, and what was done outside is a fact; the rest of the conversation begins anew.
    fn new(goal: Arc<Goal>, goal_id: GoalId, at: Timestamp, seed: u64) -> Self {
        let handover = goal.handover.as_deref();
        let calls: Vec<Arc<DoneCall>> =
            handover.map_or_else(Vec::new, |handover| handover.calls.iter().map(handed_call).collect());
        let turns = calls.iter().filter(|done| is_done(done)).map(|done| shortened(fact(done))).collect();
        Self {
            started_at: handover.and_then(|handover| handover.started_at).unwrap_or(at),
            step: handover.map_or(0, |handover| handover.steps),
            tokens: handover.map_or_else(TokenUsage::default, |handover| handover.tokens),
            seams: handover.map_or(0, |handover| handover.seams),
            goal,
            goal_id,
            seed,
            phase: Phase::Ready,
            call: None,
            turns,
            thoughts: VecDeque::new(),
            calls,
            so_far: StepSoFar::default(),
            malformed_in_row: 0,
            refused_in_row: 0,
            thinks_in_step: 0,
            simple_reply: false,
            is_light: false,
            model: None,
            smaller_failures: 0,
            rollbacks: VecDeque::new(),
            deferred: None,
            recovery: None,
            last_error: None,
        }
    }

    fn apply(&mut self, event: &AgentEvent) {
        match event {
            AgentEvent::ThinkRequested { effect, step, attempt, sampling_seed, model } => {
                self.step = *step;
                self.thinks_in_step += 1;
                self.model.clone_from(model);
                self.phase =
                    Phase::Thinking { effect: *effect, attempt: *attempt, sampling_seed: *sampling_seed };
            }
            AgentEvent::ThoughtRecorded(thought) => self.record_thought(thought),
            AgentEvent::ThinkFailed { error, .. } => {
                self.phase = Phase::Ready;
                self.last_error = Some(error.clone());
                self.smaller_failures += u32::from(self.model.is_some());
            }
            AgentEvent::ActionRequested { effect, call, safety, .. } => {
                self.call =
                    Some(OpenCall { effect: *effect, call: call.clone(), safety: *safety, attempt: 1 });
                self.phase = Phase::Acting;
            }
            AgentEvent::ActionRetried { attempt, .. } => {
                if let Some(call) = &mut self.call {
                    call.attempt = *attempt;
                    self.phase = Phase::Acting;
                }
            }
            AgentEvent::ObservationRecorded(observation) => self.record_observation(observation),
            AgentEvent::OutcomeUnknown { .. } => {
                self.phase = Phase::Ready;
                self.close_call(false, "the outcome is unknown".into(), true);
            }
            AgentEvent::Parked { reason, until, error, .. } => {
                self.phase = Phase::Parked { until: *until, reason: *reason };
                self.last_error = Some(error.clone());
            }
            // The others change the agent, not the run.
            _ => {}
        }
    }

    fn record_thought(&mut self, thought: &ThoughtRecord) {
        self.phase = Phase::Ready;
        self.tokens += thought.tokens;
        self.so_far.tokens += thought.tokens;
        self.so_far.contradictions += thought.contradictions;
        self.so_far.confidence = thought.confidence;
        self.so_far.queue_ms += thought.queue_ms;
        self.so_far.think_ms += thought.think_ms;
        self.so_far.model.clone_from(&thought.model);
        if thought.malformed.is_some() {
            self.malformed_in_row += 1;
            self.last_error.clone_from(&thought.malformed);
            return;
        }
        self.malformed_in_row = 0;
        self.turns.push(Turn::Said(thought.text.clone()));
        if let Some(text) = &thought.thought {
            self.thoughts.truncate(THOUGHTS_REMEMBERED - 1);
            self.thoughts.push_front(text.as_str().into());
        }
    }

    fn record_observation(&mut self, observation: &ObservationRecord) {
        self.phase = Phase::Ready;
        self.so_far.tool_ms += observation.tool_ms;
        if !is_shown_to_model(observation) {
            self.last_error = Some(observation.output.to_string());
            return;
        }
        self.turns.push(Turn::Observed(observation.output.clone()));
        self.refused_in_row = if observation.ok { 0 } else { self.refused_in_row + 1 };
        if observation.replayed {
            self.call = None;
        } else {
            // Who refuses a call has not made it.
            let is_refused = observation.error_tier == Some(ErrorTier::Recoverable);
            self.close_call(observation.ok, observation.output.clone(), !observation.ok && !is_refused);
        }
    }

    /// Moves the open call to the ended ones.
    fn close_call(&mut self, ok: bool, output: Arc<str>, is_unsure: bool) {
        if let Some(OpenCall { effect, call, safety, .. }) = self.call.take() {
            let write = safety.is_write();
            let is_unsure = is_unsure && write;
            let done = DoneCall { effect, call, ok, write, output, is_forgotten: false, is_unsure };
            self.calls.push(Arc::new(done));
        }
    }

    /// Changes the run as a recovery's action says. An unapplicable action leaves it as it is, and waits.
    fn mend(&mut self, plan: &Recovery, resume_at: Timestamp) {
        match plan.action {
            RecoveryAction::ResetState | RecoveryAction::CacheRollback => {
                self.close_failed_call();
                self.roll_back(plan);
            }
            RecoveryAction::PruneContext => {
                let wanted = plan.parameters.get("turns_kept").and_then(Value::as_u64);
                let kept = wanted.and_then(|kept| usize::try_from(kept).ok()).unwrap_or(TURNS_KEPT);
                let pruned = self.turns.len().saturating_sub(kept);
                self.turns.drain(..pruned);
                self.turns.iter_mut().for_each(shorten);
                // What was done outside stays known, ahead of what stays of the conversation.
                let facts = self.untold_facts();
                for point in &mut self.rollbacks {
                    point.turns = point.turns.saturating_sub(pruned) + facts.len();
                }
                self.turns.splice(..0, facts);
            }
            RecoveryAction::RepairToolCall | RecoveryAction::ForceReplan => {
                self.close_failed_call();
                let error = self.last_error.as_deref().unwrap_or("that led nowhere: choose another way");
                let told = json!({ "error": error }).to_string();
                self.turns.push(Turn::Observed(told.into()));
            }
            RecoveryAction::DegradeGracefully => {
                self.forget_failed_call();
                self.simple_reply = true;
            }
            RecoveryAction::ModelDownshift => {
                self.forget_failed_call();
                self.is_light = true;
            }
            // A goal that is handed over goes as a whole, or stays as it is.
            RecoveryAction::AgentRedistribute
            | RecoveryAction::Retry
            | RecoveryAction::RetryWithBackoff
            | RecoveryAction::CircuitBreaker
            | RecoveryAction::RebuildEngine
            | RecoveryAction::NotifyHuman
            | RecoveryAction::Monitor => {}
        }
        self.phase = Phase::Waiting { until: resume_at };
    }

    /// Forgets the conversation since the newest checkpoint before the fault at which the agent was well, or all of
    /// it. What was done outside stays done, so it stays in the conversation as a fact.
    fn roll_back(&mut self, plan: &Recovery) {
        let back = plan.parameters.get("steps_back").and_then(Value::as_u64).unwrap_or(0);
        let before = u64::from(plan.step).saturating_sub(back);
        while self.rollbacks.back().is_some_and(|point| !point.is_good || u64::from(point.step) >= before) {
            self.rollbacks.pop_back();
        }
        self.turns.truncate(self.rollbacks.back().map_or(0, |point| point.turns));
        self.thoughts.clear();
        let turns = &self.turns;
        for done in self.calls.iter_mut().filter(|done| !is_done(done) && !stands_in(turns, done)) {
            Arc::make_mut(done).is_forgotten = true;
        }
        let facts = self.untold_facts();
        self.turns.extend(facts);
    }

    /// What was done outside and stands nowhere in the conversation.
    fn untold_facts(&self) -> Vec<Turn> {
        let untold = self.calls.iter().filter(|done| is_done(done) && !stands_in(&self.turns, done));
        untold.map(|done| shortened(fact(done))).filter(|fact| !self.turns.contains(fact)).collect()
    }

    /// Takes the call that failed back, and what the model said last if nothing answered it: it is asked for the step
    /// anew, and the same again is no repetition.
    fn forget_failed_call(&mut self) {
        let before = self.calls.len();
        self.close_failed_call();
        for done in self.calls.iter_mut().skip(before) {
            Arc::make_mut(done).is_forgotten = true;
        }
        if self.turns.pop_if(|turn| matches!(turn, Turn::Said(_))).is_some() {
            self.thoughts.pop_front();
        }
    }

    /// Gives the open call up, if there is one: it failed otherwise than by a refusal.
    fn close_failed_call(&mut self) {
        let error = self.last_error.clone().unwrap_or_else(|| "given up".to_owned());
        self.close_call(false, error.into(), true);
    }
}

/// Whether a call changed something outside, as far as anybody knows.
fn is_done(done: &DoneCall) -> bool {
    done.ok && done.write
}

/// Whether `turns` hold the call and what came of it, at length or shortened.
fn stands_in(turns: &[Turn], done: &DoneCall) -> bool {
    let short = shortened(done.output.clone());
    turns.windows(2).any(|pair| match pair {
        // Calls may answer alike: what was asked tells them apart.
        [Turn::Said(said), told @ Turn::Observed(output)] => {
            (*output == done.output || *told == short) && asks_for(said, &done.call)
        }
        _ => false,
    })
}

/// Whether what the model said is this call.
fn asks_for(said: &str, call: &ActionCall) -> bool {
    let said: Value = serde_json::from_str(said).unwrap_or_default();
    said.get("action").and_then(Value::as_str) == Some(call.tool.as_str())
        && said.get("args").map_or_else(|| call.args == json!({}), |args| *args == call.args)
}

fn shortened(text: Arc<str>) -> Turn {
    let mut turn = Turn::Observed(text);
    shorten(&mut turn);
    turn
}

fn handed_call(handed: &HandedCall) -> Arc<DoneCall> {
    let HandedCall { effect, tool, args, ok, write, output, unsure } = handed.clone();
    let call = ActionCall { tool, args };
    // The conversation that it belonged to is gone: to make it again is no repetition.
    let is_forgotten = !(write && ok);
    Arc::new(DoneCall { effect, call, ok, write, output, is_forgotten, is_unsure: unsure })
}

/// Cuts what a tool said to [`OBSERVATION_BYTES_KEPT`].
fn shorten(turn: &mut Turn) {
    if let Turn::Observed(text) = turn
        && text.len() > OBSERVATION_BYTES_KEPT
    {
        let end = (0..=OBSERVATION_BYTES_KEPT).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        *text = format!("{} [cut]", text.get(..end).unwrap_or_default()).into();
    }
}

/// What a call did, as a tool would tell it.
fn fact(done: &DoneCall) -> Arc<str> {
    let result = serde_json::from_str(&done.output).unwrap_or_else(|_| Value::from(&*done.output));
    json!({"done": {"tool": done.call.tool, "args": done.call.args, "result": result}}).to_string().into()
}

/// Whether an observation becomes part of the conversation. A transient or fatal failure does not: it is the
/// system's to mend, and the model could only be confused by it.
pub fn is_shown_to_model(observation: &ObservationRecord) -> bool {
    observation.ok || observation.unmended || observation.error_tier == Some(ErrorTier::Recoverable)
}
