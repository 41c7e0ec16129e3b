//! The project's own chores. `cargo xtask test` is all of what CI runs.

mod generate;
mod kafka;
mod reference_model;
mod shell;
mod stages;
mod tidy;

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
    /// Write the generated files: schemas
    Generate {
        /// Fail where a file is not current, and write nothing
        #[arg(long)]
        check: bool,
    },
    /// Check what no compiler checks: lengths, left-overs, licences
    Tidy,
    /// Everything that has to hold: format, lints, docs, generated files, all tests, the main job
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
            if kafka::is_missing(&failure) { ExitCode::from(MISSING) } else { ExitCode::FAILURE }
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Generate { check } => generate::generate(check),
        Command::Tidy => tidy::tidy(),
        Command::Test => stages::test(),
        Command::Bench { name } => stages::bench(name.as_deref()),
        Command::Kafka { what } => kafka::run(what),
        Command::Prove => stages::prove(),
    }
}
