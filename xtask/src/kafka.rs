//! The broker that tests share, started and stopped by hand or around a run of the tests.

use anyhow::Result;
use clap::Subcommand;
use kintsugi_broker::{BrokerError, shared};

/// What is done with the broker.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum What {
    /// Start it where it is not up, and print its address
    Up,
    /// Stop it, and forget what it holds
    Down,
}

/// Does it.
#[expect(clippy::print_stdout, reason = "the address is for whoever called")]
pub(crate) fn run(what: What) -> Result<()> {
    match what {
        What::Up => println!("{}", shared::up()?),
        What::Down if shared::down()? => println!("stopped"),
        What::Down => println!("no broker is up"),
    }
    Ok(())
}

/// Whether `failure` is that something has to be installed.
pub(crate) fn is_missing(failure: &anyhow::Error) -> bool {
    failure.chain().any(|cause| matches!(cause.downcast_ref(), Some(BrokerError::Missing { .. })))
}

/// The broker for as long as tests run. Whoever had it up before keeps it.
pub(crate) struct ForTests {
    was_up: bool,
    /// Where clients find it.
    pub(crate) brokers: String,
}

impl ForTests {
    /// Starts it where it is not up.
    pub(crate) fn begin() -> Result<Self> {
        let was_up = shared::is_up()?;
        Ok(Self { was_up, brokers: shared::up()? })
    }
}

impl Drop for ForTests {
    #[expect(clippy::print_stderr, reason = "what is left behind is told")]
    fn drop(&mut self) {
        if !self.was_up
            && let Err(failure) = shared::down()
        {
            eprintln!("the broker is still up: {failure}");
        }
    }
}
