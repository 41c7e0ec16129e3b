//! What an agent's state asks of the outside.

use kintsugi_events::ActionCall;
use kintsugi_types::{EffectId, ModelName, Timestamp, ToolSafety};
use serde::{Deserialize, Serialize};

/// A tool call without a final outcome.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpenCall {
    /// The effect's id, the same over all tries.
    pub effect: EffectId,
    /// The call.
    pub call: ActionCall,
    /// Whether it may be repeated.
    pub safety: ToolSafety,
    /// Which try it is, from 1.
    pub attempt: u32,
}

/// The one thing that an agent waits for. Equal effects are the same wish: it is started once.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Ask the model; the prompt follows from the state.
    Think {
        /// The effect's id.
        effect: EffectId,
        /// Which try it is, from 1.
        attempt: u32,
        /// Seed of the sampling.
        sampling_seed: u64,
        /// The smaller model that it is asked of; the main one where missing.
        model: Option<ModelName>,
    },
    /// Call a tool.
    Call(OpenCall),
    /// Wake the agent at this time.
    Timer {
        /// When.
        at: Timestamp,
    },
}
