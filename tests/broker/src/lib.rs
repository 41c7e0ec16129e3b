//! A real Kafka broker for tests and benches: Apache Kafka from Maven Central's jars, run by Java, without Docker.
//!
//! [`shared`] is the one broker that tests share, each on topics of its own; it outlives the process that started
//! it. [`Broker`] is one that a test has for itself, to kill, freeze and start again; it ends with the process. What
//! both need lies in `target/kafka`: the jars, settings, data and what the broker prints.
//!
//! Modules in reading order: `error`, `jars`, `settings`, `tls`, `process`, `broker`, `shared`, `client`.
//!
//! This crate never waits for a time to pass where it can wait for a condition, and nothing of ours depends on it
//! but tests, benches and `xtask`.

mod broker;
mod client;
mod error;
mod jars;
mod process;
mod settings;
pub mod shared;
mod tls;

use std::path::{Path, PathBuf};

pub use broker::Broker;
pub use client::{
    JavaRecord, delete_below_with_java, delete_group_with_java, read_with_java, send_with_java,
};
pub use error::BrokerError;
pub use tls::Secured;

/// Where jars, settings and data of all brokers lie.
pub fn folder() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.ancestors().nth(2).unwrap_or(here);
    root.join("target").join("kafka")
}
