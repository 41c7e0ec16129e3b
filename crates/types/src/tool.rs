//! The contract between an agent and a tool: what it is called, what it takes, what may be repeated.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::ToolName;

/// Whether a call whose outcome is unknown may be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToolSafety {
    /// Changes nothing: may be repeated at will.
    ReadOnly,
    /// Takes the effect id as idempotency key: repeated under the same id it acts once.
    Keyed,
    /// Acts every time it is called: never repeated once it may have been started.
    Unkeyed,
}

impl ToolSafety {
    /// Whether a call changes something outside.
    pub const fn is_write(self) -> bool {
        !matches!(self, Self::ReadOnly)
    }

    /// Whether a call that was started and whose outcome is unknown may be started again under the same id.
    pub const fn is_restartable(self) -> bool {
        !matches!(self, Self::Unkeyed)
    }
}

/// What a model and an agent need to know of a tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ToolSpec {
    /// The name that an action uses.
    pub name: ToolName,
    /// One line for the prompt.
    pub description: String,
    /// JSON Schema (an object) of the arguments that the model gives.
    pub parameters: serde_json::Value,
    /// Whether a call may be repeated.
    pub safety: ToolSafety,
}
