//! The four kinds of healing event: metric, anomaly, diagnosis, recovery.

use kintsugi_types::{
    AgentId, AgentKind, AnomalyId, DiagnosisId, ErrorTier, GoalId, ModelName, RecoveryId, Score, Timestamp,
    TokenUsage, ToolName,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::agent::{HealthState, is_zero};
use crate::envelope::Subject;

/// The five parts of an agent's health after a step. A part that could not be measured is missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HealthScores {
    /// Do the thoughts belong together and to the goal, without going round in circles?
    pub coherence: Option<Score>,
    /// How much of what this step set out to do was done?
    pub completeness: Option<Score>,
    /// How fast against the baseline?
    pub latency: Option<Score>,
    /// How much room is left in the context?
    pub memory: Option<Score>,
    /// Does what the agent holds true agree with what the tools said?
    pub consistency: Option<Score>,
}

/// Where a step's time went, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StepLatency {
    /// Waiting for a lease.
    pub queue: f64,
    /// Inference.
    pub think: f64,
    /// The tool.
    pub tool: f64,
    /// The step without queueing.
    pub total: f64,
}

/// How the step's tool call went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ToolOutcome {
    /// The tool.
    pub name: ToolName,
    /// Whether it succeeded.
    pub ok: bool,
    /// How bad the error is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_tier: Option<ErrorTier>,
    /// What the tool said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Which try of the same effect it was, from 1.
    pub attempt: u32,
}

/// What a goal may run out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say all there is")]
pub enum Budget {
    Steps,
    Tokens,
    Seconds,
    Usd,
    Deadline,
}

impl Budget {
    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Steps => "steps",
            Self::Tokens => "tokens",
            Self::Seconds => "seconds",
            Self::Usd => "usd",
            Self::Deadline => "deadline",
        }
    }
}

/// One step's self-metrics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Metric {
    /// Who measured itself.
    pub agent: AgentId,
    /// Its kind: a young agent is compared with its like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<AgentKind>,
    /// The goal being worked.
    pub goal: GoalId,
    /// The step, from 1.
    pub step: u32,
    /// Health state after the step.
    pub state: HealthState,
    /// Weighted mean of the measured scores.
    pub health: Score,
    /// The parts.
    pub scores: HealthScores,
    /// Measured confidence of the model in this step's action.
    pub confidence: Score,
    /// Likeness of this thought to the ones before, in [0, 1].
    pub similarity: Option<Score>,
    /// Share of the context that is in use.
    pub context_ratio: f64,
    /// Where the time went.
    pub latency_ms: StepLatency,
    /// What it took.
    pub tokens: TokenUsage,
    /// How the tool call went, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<ToolOutcome>,
    /// Whether the model's output could not be read as an action.
    #[serde(default)]
    pub malformed: bool,
    /// Whether the same call was made before in this goal.
    #[serde(default)]
    pub repeated_call: bool,
    /// How many messages of the prompt were not those that the journal folds to.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub contradictions: u32,
    /// What the goal ran out of, where that keeps the next step from being begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spent: Option<Budget>,
    /// The smaller model, where that gave the step's newest answer; missing where the node's main one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelName>,
    /// Sequence of the agent's journal that this metric saw.
    pub sequence: u64,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say all there is")]
pub enum Severity {
    Low,
    Medium,
    High,
    Critical,
}

/// What kind of thing deviated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnomalyKind {
    /// A tool call failed.
    ToolFailure,
    /// Tool success stands below its baseline.
    LowToolSuccess,
    /// Confidence stands below its floor or baseline.
    LowConfidence,
    /// Coherence stands below its baseline.
    LowCoherence,
    /// Latency stands above its baseline.
    HighLatency,
    /// Tokens stand above their baseline.
    HighTokens,
    /// The same call again and again, or thoughts that resemble each other.
    Loop,
    /// The model's output could not be read.
    MalformedOutput,
    /// What the model was shown is not what the agent remembers.
    StateDrift,
    /// The context is nearly full.
    ContextPressure,
    /// A budget is spent.
    BudgetSpent,
    /// Health fell below a threshold.
    LowHealth,
    /// The engine had to be rebuilt.
    EngineFault,
}

impl AnomalyKind {
    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ToolFailure => "tool_failure",
            Self::LowToolSuccess => "low_tool_success",
            Self::LowConfidence => "low_confidence",
            Self::LowCoherence => "low_coherence",
            Self::HighLatency => "high_latency",
            Self::HighTokens => "high_tokens",
            Self::Loop => "loop",
            Self::MalformedOutput => "malformed_output",
            Self::StateDrift => "state_drift",
            Self::ContextPressure => "context_pressure",
            Self::BudgetSpent => "budget_spent",
            Self::LowHealth => "low_health",
            Self::EngineFault => "engine_fault",
        }
    }
}

/// What deviated, from which baseline, by how much.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Anomaly {
    /// Its id.
    pub anomaly: AnomalyId,
    /// Agent or shared subject.
    pub agent: Subject,
    /// The goal being worked.
    pub goal: Option<GoalId>,
    /// What kind.
    pub kind: AnomalyKind,
    /// The metric that deviated.
    pub metric: String,
    /// Its value.
    pub value: f64,
    /// What it was compared with.
    pub baseline: f64,
    /// `value / baseline`, 0 where the baseline is 0.
    pub ratio: f64,
    /// How many samples stand behind the value.
    pub window: u32,
    /// How bad it is.
    pub severity: Severity,
    /// Sequence of the agent's journal that the metric saw.
    #[serde(default)]
    pub sequence: u64,
    /// The step of the goal.
    #[serde(default)]
    pub step: u32,
    /// The agent's health when it was found.
    #[serde(default)]
    pub health: Score,
    /// Share of the context that was in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_ratio: Option<f64>,
    /// The tool behind it, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<ToolOutcome>,
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the contract's")]
pub enum FaultType {
    StateDrift,
    ToolFailure,
    QualityDegradation,
    Loop,
    ContextOverflow,
    BudgetExceeded,
    EngineFault,
    LatencyDegradation,
    Unknown,
}

impl FaultType {
    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::StateDrift => "state_drift",
            Self::ToolFailure => "tool_failure",
            Self::QualityDegradation => "quality_degradation",
            Self::Loop => "loop",
            Self::ContextOverflow => "context_overflow",
            Self::BudgetExceeded => "budget_exceeded",
            Self::EngineFault => "engine_fault",
            Self::LatencyDegradation => "latency_degradation",
            Self::Unknown => "unknown",
        }
    }
}

/// What can be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the contract's")]
pub enum RecoveryAction {
    Retry,
    RetryWithBackoff,
    ResetState,
    PruneContext,
    RepairToolCall,
    CircuitBreaker,
    ModelDownshift,
    AgentRedistribute,
    DegradeGracefully,
    CacheRollback,
    ForceReplan,
    RebuildEngine,
    NotifyHuman,
    Monitor,
}

impl RecoveryAction {
    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::RetryWithBackoff => "retry_with_backoff",
            Self::ResetState => "reset_state",
            Self::PruneContext => "prune_context",
            Self::RepairToolCall => "repair_tool_call",
            Self::CircuitBreaker => "circuit_breaker",
            Self::ModelDownshift => "model_downshift",
            Self::AgentRedistribute => "agent_redistribute",
            Self::DegradeGracefully => "degrade_gracefully",
            Self::CacheRollback => "cache_rollback",
            Self::ForceReplan => "force_replan",
            Self::RebuildEngine => "rebuild_engine",
            Self::NotifyHuman => "notify_human",
            Self::Monitor => "monitor",
        }
    }
}

/// What is wrong, how bad it is, why, and what to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Diagnosis {
    /// Its id.
    pub diagnosis: DiagnosisId,
    /// Agent or shared subject.
    pub agent: Subject,
    /// The goal being worked.
    #[serde(default)]
    pub goal: Option<GoalId>,
    /// The anomalies that it explains.
    pub anomalies: Vec<AnomalyId>,
    /// What is wrong.
    pub fault_type: FaultType,
    /// How bad it is.
    pub severity: Severity,
    /// Why, in one line.
    pub root_cause: String,
    /// What the diagnoser would do.
    pub recommended_action: RecoveryAction,
    /// Whether anything automatic can help.
    pub recoverable: bool,
    /// How sure the diagnoser is.
    pub confidence: Score,
    /// `rules`, `model`, `cache`, or the name of whoever took the stage over.
    pub diagnosed_by: String,
    /// The evidence, in words.
    pub reasoning: String,
    /// Sequence of the agent's journal that the anomaly saw.
    #[serde(default)]
    pub sequence: u64,
    /// The step of the goal.
    #[serde(default)]
    pub step: u32,
    /// The agent's health when the anomaly was found.
    #[serde(default)]
    pub health: Score,
    /// Share of the context that was in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_ratio: Option<f64>,
    /// How far a score in [0, 1] fell below what it usually is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallen_by: Option<f64>,
    /// The tool behind it, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<ToolOutcome>,
}

/// How much the system may do by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Plans are journaled as abandoned; nothing is done.
    Observe,
    /// Plans are shown to a person.
    Recommend,
    /// Acts on what is not critical.
    ActNoncritical,
    /// Acts.
    #[default]
    Act,
}

/// How far a recovery has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RecoveryPhase {
    /// The recover stage decided on it.
    Planned,
    /// The agent or the shared subject took it up.
    Started,
    /// Measured: it helped.
    Completed,
    /// Measured: it did not help, or it could not be done.
    Failed,
    /// The agent had moved on, the goal had ended, or the mode forbids it.
    Abandoned,
}

impl RecoveryPhase {
    /// Whether no further phase follows.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Abandoned)
    }

    /// The stable name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Started => "started",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
        }
    }
}

/// One phase of one recovery.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Recovery {
    /// Its id, the same over all phases.
    pub recovery: RecoveryId,
    /// The diagnosis that led to it.
    pub diagnosis: DiagnosisId,
    /// Agent or shared subject that is to be mended.
    pub agent: Subject,
    /// The goal being worked.
    #[serde(default)]
    pub goal: Option<GoalId>,
    /// How far it has come.
    pub phase: RecoveryPhase,
    /// What is done.
    pub action: RecoveryAction,
    /// Rung of the cascade, where it was entered.
    pub rung: Option<u8>,
    /// The action's parameters, for example `delay_ms`.
    #[serde(default)]
    pub parameters: Map<String, Value>,
    /// The policy that chose it.
    pub policy: Option<String>,
    /// Which try it is for this fault, from 1.
    pub attempt: u32,
    /// The mode that the node was in.
    pub mode: Mode,
    /// Health when the anomaly was found.
    pub health_before: Option<Score>,
    /// Health measured on the next step.
    pub health_after: Option<Score>,
    /// Health state before.
    pub state_before: Option<HealthState>,
    /// Health state after.
    pub state_after: Option<HealthState>,
    /// From planned to this phase, in milliseconds.
    pub duration_ms: Option<u64>,
    /// What came of it, in words; on a plan, why the mode forbids it.
    pub outcome: Option<String>,
    /// Sequence of the agent's journal that the anomaly saw; a recovery is abandoned when the agent has moved on.
    #[serde(default)]
    pub sequence: u64,
    /// The step of the goal.
    #[serde(default)]
    pub step: u32,
    /// What is mended, in the diagnosis's words.
    pub fault_type: FaultType,
}

impl Recovery {
    /// Parameter of the last recovery of a cascade: the agent takes no more work until a person resumes it.
    pub const GIVES_UP: &'static str = "gives_up_agent";

    /// Parameter of a plan: when it counts as failed unless something came of it.
    pub const DEADLINE: &'static str = "deadline";

    /// Whether its deadline has passed at `now`. Whoever planned it ends it then, so nobody else does.
    pub fn is_overdue(&self, now: Timestamp) -> bool {
        let deadline = self.parameters.get(Self::DEADLINE).and_then(Value::as_str);
        deadline
            .and_then(|deadline| deadline.parse::<Timestamp>().ok())
            .is_some_and(|deadline| deadline <= now)
    }

    /// Whether the agent takes no more work after it.
    pub fn gives_agent_up(&self) -> bool {
        self.parameters.get(Self::GIVES_UP).and_then(Value::as_bool) == Some(true)
    }

    /// Whether it is a plan that the mode forbids: it is told, and nobody acts on it.
    pub fn is_forbidden(&self) -> bool {
        self.phase == RecoveryPhase::Planned && self.outcome.is_some()
    }
}
