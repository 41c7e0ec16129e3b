//! The journal of an agent: every change of its state, in order, and nothing else.

use std::sync::Arc;

use kintsugi_types::{
    AgentKind, EffectId, ErrorTier, GoalId, ModelName, RecoveryId, Score, TenantId, Timestamp, TokenUsage,
    ToolName, ToolSafety,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::goal::{Goal, GoalStatus};
use crate::healing::{Recovery, RecoveryPhase};

/// How well an agent is, apart from whether it has work.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    /// Nothing is wrong.
    #[default]
    Healthy,
    /// Serves, with a lighter load. Degraded is not failed.
    Degraded,
    /// Is being mended.
    Recovering,
    /// Needs a person.
    Failed,
}

/// A tool call that the model asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ActionCall {
    /// The tool.
    pub tool: ToolName,
    /// Its arguments.
    pub args: Value,
}

/// What the model thought and decided in one step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ThoughtRecord {
    /// The inference that it came from.
    pub effect: EffectId,
    /// The step, from 1.
    pub step: u32,
    /// The model's whole output, as it goes back into the context.
    pub text: Arc<str>,
    /// The rationale, where the output could be read.
    pub thought: Option<String>,
    /// Measured confidence.
    pub confidence: Score,
    /// What it took.
    pub tokens: TokenUsage,
    /// Waiting for a lease, in milliseconds.
    pub queue_ms: f64,
    /// Inference, in milliseconds.
    pub think_ms: f64,
    /// How many messages of the prompt were not those that the journal folds to.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub contradictions: u32,
    /// Why the output is no action; missing where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub malformed: Option<String>,
    /// The smaller model that answered; missing where the node's main one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelName>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it in so")]
pub(crate) const fn is_zero(count: &u32) -> bool {
    *count == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it in so")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// What came back from a tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ObservationRecord {
    /// The effect.
    pub effect: EffectId,
    /// The step, from 1.
    pub step: u32,
    /// The tool.
    pub tool: ToolName,
    /// Whether the call succeeded.
    pub ok: bool,
    /// What goes into the context: the result, or the error in words.
    pub output: Arc<str>,
    /// How bad the error is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_tier: Option<ErrorTier>,
    /// Which try of the effect it was, from 1.
    pub attempt: u32,
    /// The call, in milliseconds.
    pub tool_ms: f64,
    /// Whether the model is shown a failure that is the system's to mend, for nobody mends it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unmended: bool,
    /// Whether it is the recorded outcome of an earlier identical write rather than a new call.
    #[serde(default)]
    pub replayed: bool,
}

const fn first_version() -> u32 {
    1
}

/// A point that a rollback can name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Checkpoint {
    /// The step that it follows.
    pub step: u32,
    /// Health measured after that step.
    pub health: Score,
    /// The state that follows from it.
    pub health_state: HealthState,
    /// Moving average of the time of a step without queueing, in milliseconds.
    pub step_ms_average: f64,
    /// Version of the state's form, which the hash depends on.
    #[serde(default = "first_version")]
    pub state_version: u32,
    /// BLAKE3 of the state's canonical JSON just before this event, in base 16, first 16 bytes.
    pub state_hash: String,
}

/// Why an agent waits for help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ParkReason {
    /// The context does not fit the model.
    ContextOverflow,
    /// A tool failed.
    ToolFailed,
    /// The model's output could not be read.
    MalformedOutput,
    /// The model was shown another conversation than the agent's.
    StateDrift,
    /// The inference failed.
    ThinkFailed,
    /// Health fell below the threshold.
    LowHealth,
}

/// How and why a goal ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GoalEnd {
    /// The goal.
    pub goal: GoalId,
    /// How it ended.
    pub status: GoalStatus,
    /// The answer, where there is one.
    pub answer: Option<String>,
    /// Why it is not completed.
    pub reason: Option<String>,
}

/// One change of an agent's state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event")]
pub enum AgentEvent {
    /// The agent came to be.
    #[serde(rename = "agent.created")]
    Created {
        /// Its kind.
        kind: AgentKind,
        /// Its tenant.
        tenant: TenantId,
    },
    /// A goal was put into the agent's queue.
    #[serde(rename = "goal.accepted")]
    GoalAccepted {
        /// The goal, with its id.
        goal: Arc<Goal>,
    },
    /// The first goal of the queue was begun.
    #[serde(rename = "goal.started")]
    GoalStarted {
        /// The goal.
        goal: GoalId,
        /// When; latency and time budget count from here.
        at: Timestamp,
        /// From this seed all of the goal's random draws follow.
        seed: u64,
    },
    /// An inference was asked for.
    #[serde(rename = "thought.requested")]
    ThinkRequested {
        /// Its id.
        effect: EffectId,
        /// The step, from 1.
        step: u32,
        /// Which try it is, from 1.
        attempt: u32,
        /// Seed of its sampling.
        sampling_seed: u64,
        /// The smaller model that is asked; missing where the node's main one is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        model: Option<ModelName>,
    },
    /// The model answered.
    #[serde(rename = "thought.recorded")]
    ThoughtRecorded(ThoughtRecord),
    /// An inference failed.
    #[serde(rename = "thought.failed")]
    ThinkFailed {
        /// Its id.
        effect: EffectId,
        /// Which try it was, from 1.
        attempt: u32,
        /// Why.
        error: String,
    },
    /// A tool call was asked for.
    #[serde(rename = "action.requested")]
    ActionRequested {
        /// Its id.
        effect: EffectId,
        /// The step, from 1.
        step: u32,
        /// The call.
        call: ActionCall,
        /// Whether it may be repeated.
        safety: ToolSafety,
    },
    /// The same tool call is made again under the same effect id.
    #[serde(rename = "action.retried")]
    ActionRetried {
        /// Its id.
        effect: EffectId,
        /// Which try it is now, from 2.
        attempt: u32,
    },
    /// A tool call ended.
    #[serde(rename = "observation.recorded")]
    ObservationRecorded(ObservationRecord),
    /// A tool call that may not be repeated was under way in a crash: nobody knows whether it acted.
    #[serde(rename = "outcome.lost")]
    OutcomeUnknown {
        /// Its id.
        effect: EffectId,
        /// The tool.
        tool: ToolName,
    },
    /// A step is complete.
    #[serde(rename = "checkpoint.taken")]
    CheckpointTaken(Checkpoint),
    /// The agent waits until it is mended, at most until `until`.
    #[serde(rename = "agent.parked")]
    Parked {
        /// The step, from 1.
        step: u32,
        /// Why.
        reason: ParkReason,
        /// When it helps itself.
        until: Timestamp,
        /// What was wrong, in words.
        error: String,
    },
    /// A recovery waits for the end of the step under way.
    #[serde(rename = "recovery.deferred")]
    RecoveryDeferred {
        /// The recovery as it was planned.
        plan: Box<Recovery>,
        /// When it was planned.
        planned_at: Timestamp,
    },
    /// A recovery was taken up, and changes the run as its action says.
    #[serde(rename = "recovery.applied")]
    RecoveryStarted {
        /// The recovery as it was planned, so that its later phases can be told.
        plan: Box<Recovery>,
        /// When it was planned.
        planned_at: Timestamp,
        /// When the agent goes on.
        resume_at: Timestamp,
    },
    /// A recovery came to its end for this agent.
    #[serde(rename = "recovery.closed")]
    RecoveryEnded {
        /// Its id.
        recovery: RecoveryId,
        /// Completed, failed or abandoned.
        phase: RecoveryPhase,
    },
    /// The goal was handed to another agent: it goes back to the topic and ends there.
    #[serde(rename = "goal.reassigned")]
    GoalReassigned {
        /// The goal.
        goal: GoalId,
        /// How often it was handed over, this time included.
        epoch: u32,
        /// Why.
        reason: String,
    },
    /// The goal ended.
    #[serde(rename = "goal.ended")]
    GoalEnded(GoalEnd),
    /// The agent takes no more goals until a person resumes it.
    #[serde(rename = "agent.quarantined")]
    Quarantined {
        /// Why.
        reason: String,
    },
    /// A person brought the agent back.
    #[serde(rename = "agent.resumed")]
    Resumed {
        /// Who.
        by: String,
    },
}

macro_rules! type_names {
    ($($pattern:pat => $name:literal,)*) => {
        impl AgentEvent {
            /// `<noun>.<past participle>` of every variant.
            pub const NAMES: &'static [&'static str] = &[$($name,)*];

            /// The CloudEvents type.
            pub const fn event_type(&self) -> &'static str {
                match self {
                    $($pattern => concat!("dev.kintsugi.", $name, ".v1"),)*
                }
            }
        }
    };
}

type_names! {
    Self::Created { .. } => "agent.created",
    Self::GoalAccepted { .. } => "goal.accepted",
    Self::GoalStarted { .. } => "goal.started",
    Self::ThinkRequested { .. } => "thought.requested",
    Self::ThoughtRecorded(_) => "thought.recorded",
    Self::ThinkFailed { .. } => "thought.failed",
    Self::ActionRequested { .. } => "action.requested",
    Self::ActionRetried { .. } => "action.retried",
    Self::ObservationRecorded(_) => "observation.recorded",
    Self::OutcomeUnknown { .. } => "outcome.lost",
    Self::CheckpointTaken(_) => "checkpoint.taken",
    Self::Parked { .. } => "agent.parked",
    Self::RecoveryDeferred { .. } => "recovery.deferred",
    Self::RecoveryStarted { .. } => "recovery.applied",
    Self::RecoveryEnded { .. } => "recovery.closed",
    Self::GoalReassigned { .. } => "goal.reassigned",
    Self::GoalEnded(_) => "goal.ended",
    Self::Quarantined { .. } => "agent.quarantined",
    Self::Resumed { .. } => "agent.resumed",
}
