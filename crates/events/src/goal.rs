//! Goals in, results out.

use std::sync::Arc;

use kintsugi_types::{
    AgentId, AgentKind, EffectId, GoalId, Score, TenantId, Timestamp, TokenUsage, ToolName,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What one goal may spend. A missing limit means the agent kind's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GoalBudget {
    /// US dollars, by the price table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd: Option<f64>,
    /// Tokens of prompts and completions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u32>,
    /// Seconds from the first step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

/// What a producer asks an agent to achieve. Only `text` is required.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Goal {
    /// Unique per tenant, and per agent where one is named; made up where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<GoalId>,
    /// The kind of agent that shall work it; the node's first kind where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<AgentKind>,
    /// The one agent that shall work it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
    /// The goal in words.
    pub text: String,
    /// Whose goal it is.
    #[serde(default)]
    pub tenant: TenantId,
    /// How urgent it is, in [0, 1].
    #[serde(default = "middle_urgency")]
    pub urgency: Score,
    /// When an answer is of no more use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// What it may spend.
    #[serde(default)]
    pub budget: GoalBudget,
    /// Facts for the agent and its tools; shown in the prompt, bound to tool parameters.
    #[serde(default)]
    pub input: Map<String, Value>,
    /// Its number in the run that published it, from 0. Only faults on purpose are drawn by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// What travels with it from the agent that had it before. Only agents write it; from anybody else it is ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handover: Option<Box<Handover>>,
    /// What is right, for evaluation only: neither agent nor model ever sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<Value>,
    /// Whatever else the producer wrote: kept and ignored.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Goal {
    /// How often it was handed from one agent to another.
    pub fn epoch(&self) -> u32 {
        self.handover.as_ref().map_or(0, |handover| handover.epoch)
    }
}

fn middle_urgency() -> Score {
    Score::new(0.5)
}

/// One tool call that ended, as it travels with a goal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HandedCall {
    /// The effect.
    pub effect: EffectId,
    /// The tool.
    pub tool: ToolName,
    /// Its arguments.
    pub args: Value,
    /// Whether it succeeded.
    pub ok: bool,
    /// Whether it changed something outside.
    pub write: bool,
    /// What came back.
    pub output: Arc<str>,
    /// Whether it may have changed something though it failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unsure: bool,
}

/// What travels with a goal that one agent hands to another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Handover {
    /// How often the goal was handed over, this time included.
    pub epoch: u32,
    /// Who worked it before, and does not get it back.
    pub from: AgentId,
    /// Why.
    pub reason: String,
    /// When its first step was begun; missing where none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// Steps taken.
    #[serde(default)]
    pub steps: u32,
    /// Tokens taken.
    #[serde(default)]
    pub tokens: TokenUsage,
    /// Recoveries that helped.
    #[serde(default)]
    pub seams: u32,
    /// The tool calls so far, in order.
    #[serde(default)]
    pub calls: Vec<HandedCall>,
}

/// How a goal ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GoalStatus {
    /// The agent finished it.
    Completed,
    /// A limit, a deadline or an unknown outcome ended it; what was done stands in `actions`.
    Partial,
    /// Nothing more could be tried.
    Failed,
}

impl GoalStatus {
    /// Its name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Partial => "partial",
            Self::Failed => "failed",
        }
    }
}

/// One tool call in a result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ResultAction {
    /// The effect's id.
    pub effect: EffectId,
    /// The tool.
    pub tool: ToolName,
    /// Its arguments, as the model gave them.
    pub args: Value,
    /// Whether it succeeded.
    pub ok: bool,
}

/// The end of a goal. Every acknowledged goal has exactly one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GoalResult {
    /// Which goal.
    pub goal: GoalId,
    /// Who worked it.
    pub agent: AgentId,
    /// How it ended.
    pub status: GoalStatus,
    /// The answer, where there is one.
    pub answer: Option<String>,
    /// The tool calls, in order.
    pub actions: Vec<ResultAction>,
    /// Why it is not completed.
    pub reason: Option<String>,
    /// Steps taken.
    pub steps: u32,
    /// Tokens taken.
    pub tokens: TokenUsage,
    /// What it cost by the price table.
    pub usd: f64,
    /// From the first step to the end, in milliseconds.
    pub wall_ms: u64,
    /// Recoveries that the agent went through for it.
    pub seams: u32,
}

impl GoalResult {
    /// The end at `now` of a goal that `agent` took no step for. What was done for it before it was handed over is
    /// told, but for its cost. `None` for a goal without id.
    pub fn never_begun(
        goal: &Goal,
        agent: AgentId,
        reason: impl Into<String>,
        now: Timestamp,
    ) -> Option<Self> {
        let handover = goal.handover.as_deref();
        let action = |call: &HandedCall| ResultAction {
            effect: call.effect,
            tool: call.tool.clone(),
            args: call.args.clone(),
            ok: call.ok,
        };
        let wall_ms = handover
            .and_then(|handover| handover.started_at)
            .and_then(|started_at| u64::try_from((now - started_at).num_milliseconds()).ok());
        Some(Self {
            goal: goal.id.clone()?,
            agent,
            status: GoalStatus::Failed,
            answer: None,
            actions: handover.map_or_else(Vec::new, |handover| handover.calls.iter().map(action).collect()),
            reason: Some(reason.into()),
            steps: handover.map_or(0, |handover| handover.steps),
            tokens: handover.map_or_else(TokenUsage::default, |handover| handover.tokens),
            usd: 0.0,
            wall_ms: wall_ms.unwrap_or(0),
            seams: handover.map_or(0, |handover| handover.seams),
        })
    }
}
