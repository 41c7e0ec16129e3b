//! An agent's state: what its journal folds to, and nothing that cannot be folded.

use std::collections::VecDeque;
use std::sync::Arc;

use kintsugi_events::{ActionCall, Goal, HealthState, ParkReason, Recovery};
use kintsugi_types::{
    AgentId, AgentKind, EffectId, GoalId, Message, ModelName, RecoveryId, Role, Score, TenantId, Timestamp,
    TokenUsage,
};
use serde::{Deserialize, Serialize};

use crate::effect::{Effect, OpenCall};
use crate::prompt;

/// Version of the state's JSON form in snapshots.
pub const STATE_VERSION: u32 = 4;

/// What the state's JSON takes in the middle of a goal, about: memory is asked for once.
const JSON_BYTES_EXPECTED: usize = 8 * 1024;

/// How many recoveries an agent remembers, so that one that comes twice is taken once. The oldest is forgotten.
pub const RECOVERIES_REMEMBERED: usize = 32;

/// How many thoughts are compared with the newest.
pub const THOUGHTS_REMEMBERED: usize = 5;

/// How many checkpoints of a goal a rollback can name.
pub const ROLLBACKS_REMEMBERED: usize = 8;

/// Whether an agent has work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// No goal is being worked.
    Idle,
    /// A goal is being worked.
    Running,
}

/// One turn of the conversation after the goal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Turn {
    /// What the model said.
    Said(Arc<str>),
    /// What a tool answered.
    Observed(Arc<str>),
}

/// What the run is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Phase {
    /// Nothing: between two events of one commit.
    Ready,
    /// The model.
    Thinking {
        /// The inference.
        effect: EffectId,
        /// Which try it is, from 1.
        attempt: u32,
        /// Seed of its sampling.
        sampling_seed: u64,
    },
    /// The tool of the open call.
    Acting,
    /// Help, until a time.
    Parked {
        /// When the agent helps itself.
        until: Timestamp,
        /// Why it waits.
        reason: ParkReason,
    },
    /// A time that a recovery set.
    Waiting {
        /// When the agent goes on.
        until: Timestamp,
    },
}

/// One tool call that ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "four facts that hold side by side")]
pub struct DoneCall {
    /// The effect.
    pub effect: EffectId,
    /// The call.
    pub call: ActionCall,
    /// Whether it succeeded.
    pub ok: bool,
    /// Whether it changed something outside.
    pub write: bool,
    /// What came back.
    pub output: Arc<str>,
    /// Whether a remedy took it out of the conversation: to make it again is no repetition.
    pub is_forgotten: bool,
    /// Whether it may have changed something though it failed: the tool did not refuse it.
    pub is_unsure: bool,
}

/// A recovery whose outcome is not measured yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpenRecovery {
    /// As it was planned.
    pub plan: Box<Recovery>,
    /// When it was planned.
    pub planned_at: Timestamp,
    /// The agent's health state before.
    pub state_before: HealthState,
}

/// What is known of the step under way, for its metric.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StepSoFar {
    /// Measured confidence of the thought.
    pub confidence: Score,
    /// Tokens of this step.
    pub tokens: TokenUsage,
    /// Messages of its prompts that were not those of the state.
    pub contradictions: u32,
    /// Waiting for a lease, in milliseconds.
    pub queue_ms: f64,
    /// Inference, in milliseconds.
    pub think_ms: f64,
    /// Tool calls, in milliseconds.
    pub tool_ms: f64,
    /// The smaller model, where that gave the newest answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelName>,
}

/// Where a rollback may lead.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RollbackPoint {
    /// The step after which it was taken.
    pub step: u32,
    /// How many turns there were.
    pub turns: usize,
    /// Whether the agent was well at that time.
    pub is_good: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it in so")]
const fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// A goal being worked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The goal.
    pub goal: Arc<Goal>,
    /// Its id.
    pub goal_id: GoalId,
    /// When it was begun.
    pub started_at: Timestamp,
    /// From this seed all random draws follow.
    pub seed: u64,
    /// The step under way, from 1; 0 before the first.
    pub step: u32,
    /// What the run is waiting for.
    pub phase: Phase,
    /// The tool call without final outcome.
    pub call: Option<OpenCall>,
    /// The conversation after the goal.
    pub turns: Vec<Turn>,
    /// The newest thoughts, newest first.
    pub thoughts: VecDeque<Arc<str>>,
    /// The tool calls that ended. Shared, for every decision works on a copy of the state.
    pub calls: Vec<Arc<DoneCall>>,
    /// Tokens so far.
    pub tokens: TokenUsage,
    /// The step under way.
    pub so_far: StepSoFar,
    /// Outputs in a row that could not be read.
    pub malformed_in_row: u32,
    /// Refused tool calls in a row.
    pub refused_in_row: u32,
    /// Inferences asked for in this step.
    pub thinks_in_step: u32,
    /// Whether only an answer without tools is wanted.
    pub simple_reply: bool,
    /// Whether a smaller model is asked where one is configured, else the same one for less.
    pub is_light: bool,
    /// The smaller model that the newest inference was asked of; missing where that is the main one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelName>,
    /// Inferences that the smaller model could not answer, so that the main one was asked.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub smaller_failures: u32,
    /// Recoveries that helped.
    pub seams: u32,
    /// Where a rollback may lead: the newest checkpoints, newest last.
    pub rollbacks: VecDeque<RollbackPoint>,
    /// The recovery that waits for the end of the step.
    pub deferred: Option<OpenRecovery>,
    /// The recovery whose outcome is not measured yet.
    pub recovery: Option<OpenRecovery>,
    /// The last error, in words.
    pub last_error: Option<String>,
}

/// An agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentState {
    /// Its id.
    pub agent: AgentId,
    /// Its kind.
    pub kind: AgentKind,
    /// Whose it is.
    pub tenant: TenantId,
    /// Sequence of the last journal event that is folded in; 0 before the first.
    pub sequence: u64,
    /// Goals that wait.
    pub queue: VecDeque<Arc<Goal>>,
    /// The goal being worked.
    pub run: Option<Run>,
    /// Health after the last step.
    pub health: Score,
    /// The state that follows from it.
    pub health_state: HealthState,
    /// Moving average of a step's time without queueing, in milliseconds; missing before the first step.
    pub step_ms_average: Option<f64>,
    /// The newest recoveries that were seen, newest last.
    pub recoveries: VecDeque<RecoveryId>,
    /// Why the agent takes no work, where it does not.
    pub quarantined: Option<String>,
    /// Goals that ended.
    pub goals_ended: u64,
}

impl AgentState {
    /// An agent without a journal.
    pub fn new(agent: AgentId, kind: AgentKind, tenant: TenantId) -> Self {
        Self {
            agent,
            kind,
            tenant,
            sequence: 0,
            queue: VecDeque::new(),
            run: None,
            health: Score::ONE,
            health_state: HealthState::Healthy,
            step_ms_average: None,
            recoveries: VecDeque::new(),
            quarantined: None,
            goals_ended: 0,
        }
    }

    /// Whether the agent has work.
    pub const fn activity(&self) -> Activity {
        if self.run.is_some() { Activity::Running } else { Activity::Idle }
    }

    /// The one word that is shown: Failed, else Recovering, else Degraded, else what it does.
    pub const fn shown_state(&self) -> &'static str {
        match (self.health_state, self.activity()) {
            (HealthState::Failed, _) => "failed",
            (HealthState::Recovering, _) => "recovering",
            (HealthState::Degraded, _) => "degraded",
            (HealthState::Healthy, Activity::Running) => "running",
            (HealthState::Healthy, Activity::Idle) => "idle",
        }
    }

    /// Goals that the agent has, waiting or being worked.
    pub fn load(&self) -> usize {
        self.queue.len() + usize::from(self.run.is_some())
    }

    /// Whether the agent has anything to do or to wait for.
    pub fn has_load(&self) -> bool {
        self.load() > 0
    }

    /// The one thing that the agent waits for from outside, if any.
    pub fn open_effect(&self) -> Option<Effect> {
        let run = self.run.as_ref()?;
        match run.phase {
            Phase::Ready => None,
            Phase::Thinking { effect, attempt, sampling_seed } => {
                Some(Effect::Think { effect, attempt, sampling_seed, model: run.model.clone() })
            }
            Phase::Acting => run.call.clone().map(Effect::Call),
            Phase::Parked { until, .. } | Phase::Waiting { until } => Some(Effect::Timer { at: until }),
        }
    }

    /// The prompt of the step under way, after its kind's `system` message; empty without a run.
    pub fn messages(&self, system: Message) -> Vec<Message> {
        let Some(run) = &self.run else { return Vec::new() };
        let mut messages = Vec::with_capacity(run.turns.len() + 2);
        messages.push(system);
        messages.push(prompt::goal_message(&run.goal));
        messages.extend(run.turns.iter().map(|turn| match turn {
            Turn::Said(text) => Message::new(Role::Assistant, text.clone()),
            Turn::Observed(text) => Message::new(Role::Tool, text.clone()),
        }));
        messages
    }

    /// BLAKE3 of the state's canonical JSON, first 16 bytes in base 16.
    pub fn hash(&self) -> String {
        // Every field serialises: this cannot fail.
        let mut canonical = Vec::with_capacity(JSON_BYTES_EXPECTED);
        let _ = serde_json::to_writer(&mut canonical, self);
        blake3::hash(&canonical).to_hex().chars().take(32).collect()
    }
}
