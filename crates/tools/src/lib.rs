//! What agents may do: the tool trait, a registry that guards every call, and SQL and HTTP tools declared in TOML.
//!
//! This crate knows nothing of agents, prompts or the log, starts no thread and retries nothing: a [`ToolError`]
//! says whether a retry makes sense, and whoever calls decides. Every call blocks until its answer or its deadline.

mod binding;
mod document;
pub mod error;
pub mod http;
mod limit;
pub mod load;
pub mod registry;
mod schema;
pub mod sql;
pub mod tool;

pub use error::{LoadError, LoadErrors, ToolError};
pub use load::{DatabaseSource, LoadContext, SharedConnection};
pub use registry::Registry;
pub use tool::{Tool, ToolCall, ToolOutput};
