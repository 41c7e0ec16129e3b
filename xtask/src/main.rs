//! The project's own chores. `cargo xtask test` is all of what CI runs.

mod asyncapi;
mod clients;
mod generate;
mod kafka;
mod reference_model;
mod shell;
mod stages;
mod tidy;
mod validators;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "The project's own chores")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write the generated files: schemas, the `AsyncAPI` document
    Generate {
        /// Fail where a file is not current, and write nothing
        #[arg(long)]
        check: bool,
    },
    /// Check what no compiler checks: lengths, left-overs, licences
    Tidy,
    /// Hold files that people outside read against published validators
    Validate,
    /// Everything that has to hold: format, lints, docs, generated and published files, all tests, the main job
    Test,
    /// Measure, each figure with a reference in the same run
    Bench {
        /// Only the bench of this name
        name: Option<String>,
    },
    /// A real Kafka broker on this machine, for tests and for trying things out
    Kafka {
        #[command(subcommand)]
        what: kafka::What,
    },
    /// Test the clients in `examples/` against the broker
    Clients,
    /// The long form of the proofs: real model, many kills, many seeds
    Prove,
}

/// Something outside is missing, as the binary says it.
const MISSING: u8 = 3;

#[expect(clippy::print_stderr, reason = "the command line tells its user what failed")]
fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure:#}");
            if is_missing(&failure) { ExitCode::from(MISSING) } else { ExitCode::FAILURE }
        }
    }
}

/// Whether `failure` is that something has to be installed.
fn is_missing(failure: &anyhow::Error) -> bool {
    kafka::is_missing(failure) || failure.chain().any(<dyn std::error::Error>::is::<shell::MissingProgram>)
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Generate { check } => generate::generate(check),
        Command::Tidy => tidy::tidy(),
        Command::Validate => validators::check(),
        Command::Test => stages::test(),
        Command::Bench { name } => stages::bench(name.as_deref()),
        Command::Kafka { what } => kafka::run(what),
        Command::Clients => stages::clients(),
        Command::Prove => stages::prove(),
    }
}
