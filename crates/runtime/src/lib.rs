//! The actors: a node, its partition, its agents, its healing stages, and how they come back after anything.
//!
//! Whatever matters is in the log before it is acted upon; what lives here in memory can be thrown away at any
//! instruction. Nothing here talks to an agent but its partition, and the partition hands it one command at a time.

mod actor_thread;
pub mod agent_actor;
mod asking;
pub mod config;
pub mod context;
mod effects;
pub mod feed;
mod keeper;
mod lane;
pub mod lane_context;
mod lane_core;
mod lanes;
pub mod node;
mod partition;
mod policies;
pub mod publish;
pub mod restore;
pub mod retention;
mod runnable;
mod smaller;
mod stage;
pub mod stage_node;
mod stages;
pub mod status;
pub mod store;

pub use asking::{AskSettings, Asker};
pub use config::{NodeConfig, Population, StageName, Stages};
pub use context::NodeContext;
pub use feed::{Feed, FeedBatch};
pub use lane_context::LaneContext;
pub use lane_core::{LaneCore, LanePlace, OnLaneFailure};
pub use node::{Lanes, Node, NodeError};
pub use policies::SharedPolicies;
pub use publish::PublishError;
pub use retention::{Keep, RetainError};
pub use smaller::SmallerParts;
pub use stage_node::{StageNode, StageNodeParts};
pub use stages::StageKind;
pub use status::{Status, StatusSnapshot};
