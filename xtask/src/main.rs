//! The project's own chores. `cargo xtask test` is all of what CI runs.

mod generate;
mod reference_model;
mod shell;
mod stages;
mod tidy;

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
    /// The long form of the proofs: real model, many kills, many seeds
    Prove,
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Generate { check } => generate::generate(check),
        Command::Tidy => tidy::tidy(),
        Command::Test => stages::test(),
        Command::Bench { name } => stages::bench(name.as_deref()),
        Command::Prove => stages::prove(),
    }
}
