//! The log: what every other part appends to and reads from.
//!
//! [`log`] is the contract that a log keeps: records of many topics and the positions of consumers become durable
//! together or not at all. [`record`] is what goes in and comes out, and [`partitioner`] says where. [`embedded`]
//! keeps the contract in files, `kafka` (a feature, on unless switched off) on a Kafka cluster.
//!
//! This crate never reads an event's meaning, never calls an actor and never deletes what a caller still needs.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod embedded;
pub mod error;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod log;
pub mod partitioner;
mod queue;
pub mod record;

pub use embedded::EmbeddedLog;
pub use error::LogError;
#[cfg(feature = "kafka")]
pub use kafka::KafkaLog;
pub use log::{
    Append, Committed, EventLog, FrameId, LogReader, Lsn, OnCommit, Position, Retained, Retention,
};
pub use partitioner::{murmur2, partition_of};
pub use record::{NewRecord, Record, RecordError, TopicPartition};
