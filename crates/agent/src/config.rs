//! What agents of one kind share. A goal keeps the configuration that it began with.

use kintsugi_events::health::HealthThresholds;
use kintsugi_types::{AgentKind, ModelName, TokenUsage, ToolName, ToolSpec};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What one goal may spend and how long an agent waits, unless the goal says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Steps of one goal.
    pub steps_max: u32,
    /// Tokens of prompts and completions of one goal.
    pub tokens_max: u64,
    /// Seconds from a goal's first step.
    pub seconds_max: f64,
    /// US dollars of one goal; checked where prices are given.
    pub usd_max: f64,
    /// Tokens of one answer of the model.
    pub answer_tokens_max: u32,
    /// Goals that wait for one agent; at the bound new ones wait in the log.
    pub queue_max: usize,
    /// How long a parked agent waits for a recovery before it helps itself, in milliseconds.
    pub park_ms: u64,
    /// Tries of one tool call or inference in all; after that the goal ends partial.
    pub attempts_max: u32,
    /// Bytes of one tool's answer that go into the context; the rest is cut and said so.
    pub observation_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            steps_max: 12,
            tokens_max: 20_000,
            seconds_max: 300.0,
            usd_max: 1.0,
            answer_tokens_max: 160,
            queue_max: 64,
            park_ms: 30_000,
            attempts_max: 8,
            observation_bytes_max: 4_096,
        }
    }
}

/// What tokens cost, in US dollars for a million.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Prices {
    /// A million prompt tokens.
    pub prompt_usd_per_million: f64,
    /// A million completion tokens.
    pub completion_usd_per_million: f64,
}

impl Prices {
    /// What `tokens` cost, in US dollars.
    pub fn usd(&self, tokens: &TokenUsage) -> f64 {
        (tokens.prompt as f64 * self.prompt_usd_per_million
            + tokens.completion as f64 * self.completion_usd_per_million)
            / 1e6
    }
}

/// A second, smaller model, for agents that a recovery puts on lighter work.
#[derive(Debug, Clone, PartialEq)]
pub struct SmallerModel {
    /// Its name, which the journal asks it by.
    pub name: ModelName,
    /// The longest context that it takes, in tokens.
    pub context_tokens: u32,
}

/// The configuration of a kind of agent.
#[derive(Debug, Clone, PartialEq)]
pub struct KindConfig {
    /// Its name.
    pub kind: AgentKind,
    /// Its instructions: the first part of the system message.
    pub instructions: String,
    /// The tools that it may call.
    pub tools: Vec<ToolSpec>,
    /// What a goal may spend.
    pub limits: Limits,
    /// What tokens cost.
    pub prices: Prices,
    /// From which health an agent counts as degraded, recovering, failed.
    pub thresholds: HealthThresholds,
    /// Temperature of sampling.
    pub temperature: f32,
    /// Nucleus of sampling.
    pub top_p: f32,
    /// How many agents of the kind there are.
    pub population: u32,
    /// The longest context, in tokens: the model's, or less.
    pub context_tokens: u32,
    /// The smaller model, where the node has one.
    pub smaller: Option<SmallerModel>,
}

impl KindConfig {
    /// The tool of that name, where the kind has it.
    pub fn tool(&self, name: &ToolName) -> Option<&ToolSpec> {
        self.tools.iter().find(|tool| tool.name == *name)
    }

    /// The longest context of `model`, in tokens: of the smaller one where it is named, else of the main one.
    pub fn context_tokens_of(&self, model: Option<&ModelName>) -> u32 {
        let smaller = self.smaller.as_ref().filter(|smaller| Some(&smaller.name) == model);
        smaller.map_or(self.context_tokens, |smaller| smaller.context_tokens)
    }
}
