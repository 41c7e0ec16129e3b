//! The contract between a registry and one tool.

use std::time::{Duration, Instant};

use kintsugi_types::{EffectId, ToolSpec};
use serde_json::{Map, Value};

use crate::error::ToolError;

/// The longest answer of a tool that does not say otherwise: 16 KiB, some 5,000 tokens, is more than a small model's
/// whole context.
pub const OUTPUT_BYTES_MAX_DEFAULT: usize = 16 * 1024;

/// The longest time of a call of a tool that does not say otherwise.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// One call. The same effect keeps its id over all its attempts, which is what makes a repeat harmless.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    /// The effect that this call carries out.
    pub effect: EffectId,
    /// Which try of the effect it is, from 1.
    pub attempt: u32,
    /// The arguments that the model gave: an object.
    pub args: Value,
    /// The goal's input, for parameters that are bound to it rather than given by the model.
    pub goal_input: Map<String, Value>,
    /// When an answer is of no more use; the tool's own limit holds where this is missing or later.
    pub deadline: Option<Instant>,
}

impl ToolCall {
    /// The first attempt at `effect`, without deadline of its own.
    pub fn new(effect: EffectId, args: Value, goal_input: Map<String, Value>) -> Self {
        Self { effect, attempt: 1, args, goal_input, deadline: None }
    }

    /// The time by which a tool with the limit `timeout` must have answered.
    pub fn deadline_within(&self, timeout: Duration) -> Instant {
        let own = Instant::now() + timeout;
        self.deadline.map_or(own, |deadline| deadline.min(own))
    }
}

/// What a tool answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolOutput {
    /// Compact JSON, or the first part of it with a mark at the end where `truncated`.
    pub text: String,
    /// Whether the answer was longer than the tool's limit. What lies beyond was not read.
    pub truncated: bool,
}

/// Something an agent can do. Implementations are called from several threads at once.
pub trait Tool: Send + Sync + std::fmt::Debug {
    /// What a model and an agent need to know.
    fn spec(&self) -> &ToolSpec;

    /// Does it, and blocks meanwhile. [`Registry::call`](crate::Registry::call) has checked the arguments against
    /// the specification and checks the answer against [`output_schema`](Self::output_schema).
    fn call(&self, call: &ToolCall) -> Result<ToolOutput, ToolError>;

    /// Whether `effect` happened; `None` where the tool cannot tell. Asked after a crash.
    fn post_condition(&self, effect: EffectId) -> Option<bool> {
        let _ = effect;
        None
    }

    /// JSON Schema of the answer, where the tool promises one.
    fn output_schema(&self) -> Option<&Value> {
        None
    }

    /// The longest answer in bytes.
    fn output_bytes_max(&self) -> usize {
        OUTPUT_BYTES_MAX_DEFAULT
    }
}
