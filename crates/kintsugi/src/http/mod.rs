//! The HTTP API of a running node, on a thread of its own.
//!
//! It publishes to the log and reads from the log and from the view that follows it. It never calls an agent, and the
//! node's own thread never waits for it. What blocks (appends, reads of the log) goes to a few blocking threads.

mod access;
mod agents;
mod api;
mod endpoints;
mod events;
mod goals;
mod health;
mod intake;
mod openapi;
mod problem;
mod scrape;
mod seams;
mod server;

pub(crate) use self::access::{Access, TOKEN_VARIABLE};
pub(crate) use self::api::Api;
pub(crate) use self::intake::Intake;
pub(crate) use self::server::{Server, bind, resolve};
