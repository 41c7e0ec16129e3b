//! The actors: a node, its partition, its agents, its healing stages, and how they come back after anything.
//!
//! Whatever matters is in the log before it is acted upon; what lives here in memory can be thrown away at any
//! instruction. Nothing here talks to an agent but its partition, and the partition hands it one command at a time.

pub mod agent_actor;
pub mod config;
pub mod context;
mod effects;
pub mod feed;
mod keeper;
mod lane;
pub mod lane_context;
mod lanes;
pub mod node;
mod partition;
mod policies;
pub mod publish;
pub mod restore;
mod runnable;
mod stage;
mod stages;
pub mod status;
pub mod store;

pub use config::{NodeConfig, Population, Stages};
pub use context::NodeContext;
pub use feed::{Feed, FeedBatch};
pub use lane_context::{LaneContext, LanePlace};
pub use node::{Lanes, Node, NodeError};
pub use policies::SharedPolicies;
pub use publish::PublishError;
pub use status::{Status, StatusSnapshot};
