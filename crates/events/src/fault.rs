//! Faults that were injected on purpose.

use kintsugi_types::{AgentId, GoalId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The edge of the system that a fault comes in by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FaultEdge {
    /// On the way to a tool, or from it.
    Tool,
    /// Around an inference.
    Model,
}

macro_rules! fault_kinds {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $edge:ident;)*) => {
        /// What goes wrong.
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
        )]
        #[serde(rename_all = "snake_case")]
        pub enum FaultKind {
            $($(#[$doc])* $name,)*
        }

        impl FaultKind {
            /// Every kind there is.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// How often it is drawn, beside the others.
            pub const fn weight(self) -> u32 {
                match self {
                    // It strikes everybody on the model at once.
                    Self::EnginePanic => 1,
                    _ => 5,
                }
            }

            /// Where it comes in.
            pub const fn edge(self) -> FaultEdge {
                match self { $(Self::$name => FaultEdge::$edge,)* }
            }
        }
    };
}

fault_kinds! {
    /// The tool does not answer in time.
    ToolTimeout = "tool_timeout", Tool;
    /// The tool answers 429: too many requests.
    ToolRateLimited = "tool_rate_limited", Tool;
    /// The tool answers 500.
    ToolError = "tool_error", Tool;
    /// The tool refuses the credentials: 401.
    ToolUnauthorized = "tool_unauthorized", Tool;
    /// The tool takes long.
    SlowTool = "slow_tool", Tool;
    /// The tool's answer is far longer than it should be, and fills the context.
    ContextBloat = "context_bloat", Tool;
    /// The model's output breaks off.
    MalformedOutput = "malformed_output", Model;
    /// The model calls a tool that does not exist.
    HallucinatedTool = "hallucinated_tool", Model;
    /// The model says again what it said before.
    StuckThought = "stuck_thought", Model;
    /// The model takes long.
    SlowModel = "slow_model", Model;
    /// The engine panics in the middle of an inference.
    EnginePanic = "engine_panic", Model;
    /// A number that a tool told the agent before is another when the model is asked; the journal stays right.
    CorruptedMemory = "corrupted_memory", Model;
}

/// A fault that was injected, so that it can be followed to what became of it. No stage reads it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct InjectedFault {
    /// Whom it struck.
    pub agent: AgentId,
    /// In which goal.
    pub goal: Option<GoalId>,
    /// In which step, from 1.
    pub step: u32,
    /// In which try of the step's call or inference, from 1.
    pub attempt: u32,
    /// What went wrong.
    pub kind: FaultKind,
    /// Where.
    pub edge: FaultEdge,
}
