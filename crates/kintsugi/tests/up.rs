//! A long-lived node through the program that a user runs and the HTTP API that others ask.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking and tells what it measured"
)]

#[path = "up/access.rs"]
mod access;
#[path = "up/answers.rs"]
mod answers;
#[path = "up/certificates.rs"]
mod certificates;
#[path = "up/cluster.rs"]
mod cluster;
#[path = "up/cluster_run.rs"]
mod cluster_run;
#[path = "up/commands.rs"]
mod commands;
mod common;
#[path = "up/crash.rs"]
mod crash;
#[path = "up/diagnoses.rs"]
mod diagnoses;
#[path = "up/events.rs"]
mod events;
#[path = "up/node.rs"]
mod node;
#[path = "up/outage.rs"]
mod outage;
#[path = "up/retention.rs"]
mod retention;
#[path = "up/stages.rs"]
mod stages;
#[path = "up/watching.rs"]
mod watching;
