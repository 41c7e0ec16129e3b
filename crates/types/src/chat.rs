//! What is asked of a model and what it answers, whichever engine stands behind.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::Score;

/// Who speaks in a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The instructions of the agent's kind, with its tools.
    System,
    /// The goal.
    User,
    /// What the model said earlier.
    Assistant,
    /// What a tool answered.
    Tool,
}

/// One message of a prompt. Its content is data: text that looks like a control token stays text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said. Shared: a conversation is handed on at every step, and only its end is new.
    pub content: Arc<str>,
}

impl Message {
    /// A message of `role` that says `content`.
    pub fn new(role: Role, content: impl Into<Arc<str>>) -> Self {
        Self { role, content: content.into() }
    }
}

/// How a token is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Sampling {
    /// 0 takes the likeliest token; larger values flatten the distribution.
    pub temperature: f32,
    /// Keep the smallest set of tokens that together reach this probability; 1 keeps all.
    pub top_p: f32,
    /// Seed of this request's random draws: same prompt, same seed, same batch, same text.
    pub seed: u64,
}

/// What a completion must look like. Compiled once and shared by all requests with the same text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Grammar {
    /// Anything.
    Free,
    /// A JSON document valid for this JSON Schema (its text), written without optional white space.
    JsonSchema(Arc<str>),
}

/// One request to a model.
#[derive(Debug, Clone, PartialEq)]
pub struct CompletionRequest {
    /// The prompt, oldest message first.
    pub messages: Vec<Message>,
    /// What the answer must look like.
    pub grammar: Grammar,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// The most tokens that the answer may have.
    pub tokens_max: u32,
}

/// Tokens that one or more completions took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenUsage {
    /// Tokens of the prompt, cached ones included.
    pub prompt: u64,
    /// Tokens of the prompt whose keys and values were already there.
    pub cached: u64,
    /// Tokens that were generated.
    pub completion: u64,
}

impl std::ops::AddAssign for TokenUsage {
    fn add_assign(&mut self, other: Self) {
        self.prompt += other.prompt;
        self.cached += other.cached;
        self.completion += other.completion;
    }
}

/// Why a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model or the grammar said that it is complete.
    Stop,
    /// `tokens_max` or the context's end was reached; the text may be cut.
    Length,
}

/// What a model answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// The text, without control tokens.
    pub text: String,
    /// Why it ended.
    pub finish: FinishReason,
    /// What it took.
    pub usage: TokenUsage,
    /// Geometric mean of the probabilities of the tokens that the model had a choice about, after the
    /// grammar's mask; 1 where the grammar left no choice at all.
    pub confidence: Score,
    /// The least probable of those tokens.
    pub confidence_min: Score,
    /// Time from start of the prefill to the last token, in milliseconds.
    pub think_ms: f64,
}
