//! The Kafka log against a real broker: the conformance suite, and what only a cluster can show.

#[path = "kafka/support.rs"]
mod support;

#[path = "kafka/contract.rs"]
mod contract;
#[path = "kafka/faults.rs"]
mod faults;
#[path = "kafka/membership.rs"]
mod membership;
#[path = "kafka/memory.rs"]
mod memory;
#[path = "kafka/outsiders.rs"]
mod outsiders;
#[path = "kafka/ownership.rs"]
mod ownership;
#[path = "kafka/read_only.rs"]
mod read_only;
#[path = "kafka/security.rs"]
mod security;
#[path = "kafka/topics.rs"]
mod topics;
