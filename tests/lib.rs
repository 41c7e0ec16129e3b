//! What scenario tests share: a node with a scripted model, an outside tool that counts, and an audit of the log
//! that trusts nothing but the log.

pub mod audit;
pub mod counting_server;
pub mod diagnosing;
pub mod scripted_node;
pub mod smaller_model;
