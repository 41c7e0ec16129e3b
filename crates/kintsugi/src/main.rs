//! The `kintsugi` command: settings in, a node or a look at one, a document or lines out.

mod backbone;
mod chaos;
mod cli;
mod client;
mod cluster;
mod cluster_run;
mod completions;
mod dead_letters;
mod diagnose_settings;
mod doctor;
mod documents;
mod example;
mod failure;
mod file_lock;
mod goal_check;
mod goal_feed;
mod goals_file;
mod healing_metrics;
mod hint;
mod http;
mod inspect;
mod kinds;
mod live;
mod log_choice;
mod model;
mod models;
mod node_parts;
mod outsiders;
mod panics;
mod partitions_read;
mod policies;
mod progress;
mod publish;
mod pull;
mod reasons;
mod residency;
mod residency_chart;
mod resolved;
mod resume;
mod retention;
mod roster;
mod run;
mod run_folder;
mod settings;
mod settings_shown;
mod signals;
mod smaller;
mod stage;
mod stage_folder;
mod summary;
mod telemetry;
mod terminal;
mod up;
mod variables;
mod view;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{
    AgentsCommand, Cli, Command, DeadLettersCommand, GoalsCommand, ModelsCommand, TopicsCommand,
};

/// Events are made on one thread and dropped on another, which the system's allocator answers with locks.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    panics::tell_in_one_line();
    // A panic of an actor ends there. One that comes through to here is a broken promise, and has been told.
    std::panic::catch_unwind(command).unwrap_or(ExitCode::FAILURE)
}

/// Reads what was typed and does it.
fn command() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version go to stdout with status 0, wrong usage to stderr with status 2.
        Err(told) => told.exit(),
    };
    let outcome = telemetry::start().and_then(|()| match cli.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Up(arguments) => up::up(&arguments),
        Command::Stage(arguments) => stage::stage(&arguments),
        Command::Goals(GoalsCommand::Publish(arguments)) => publish::publish(&arguments),
        Command::Goals(GoalsCommand::List(arguments)) => inspect::goals::list(&arguments),
        Command::Goals(GoalsCommand::Show(arguments)) => inspect::goals::show(&arguments),
        Command::Agents(AgentsCommand::List(arguments)) => inspect::agents::list(&arguments),
        Command::Agents(AgentsCommand::Show(arguments)) => inspect::agents::show(&arguments),
        Command::Agents(AgentsCommand::Resume(arguments)) => resume::resume(&arguments),
        Command::Seams(arguments) => inspect::seams::list(&arguments),
        Command::Watch(arguments) => inspect::watch::watch(&arguments),
        Command::Models(ModelsCommand::List(arguments)) => models::list(&arguments),
        Command::Models(ModelsCommand::Inspect(arguments)) => models::inspect(&arguments),
        Command::Models(ModelsCommand::Pull(arguments)) => pull::pull(&arguments),
        Command::DeadLetters(DeadLettersCommand::List(place)) => dead_letters::list(&place),
        Command::DeadLetters(DeadLettersCommand::Show(arguments)) => dead_letters::show(&arguments),
        Command::DeadLetters(DeadLettersCommand::Replay(arguments)) => dead_letters::replay(&arguments),
        Command::Topics(TopicsCommand::Create(arguments)) => cluster::topics::create(&arguments),
        Command::Chaos(arguments) => chaos::chaos(&arguments),
        Command::Doctor(arguments) => doctor::doctor(&arguments),
        Command::Completions(arguments) => completions::write(&arguments),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
