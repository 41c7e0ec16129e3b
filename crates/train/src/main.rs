//! Makes the shipped model.

mod command;

use clap::{Parser, Subcommand};

/// How the shipped model is made.
#[derive(Debug, Parser)]
#[command(name = "kintsugi-train")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write the support desk's shop and goals.
    Example(command::example::ExampleArguments),
    /// Train on the ticket bank; goes on where an earlier run in the same directory stopped.
    Train(command::train::TrainArguments),
    /// Write a run's model as a GGUF file.
    Export(command::export::ExportArguments),
    /// Measure an exported model on tickets that it was not trained on, and write its card.
    Evaluate(command::evaluate::EvaluateArguments),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Example(arguments) => command::example::run(&arguments),
        Command::Train(arguments) => command::train::run(&arguments),
        Command::Export(arguments) => command::export::run(&arguments),
        Command::Evaluate(arguments) => command::evaluate::run(&arguments),
    }
}
