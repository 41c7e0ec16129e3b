//! `example`: the database and the goals of `examples/support-desk`.

use std::path::PathBuf;

use clap::Args;
use kintsugi_train::tickets::{Bank, EXAMPLE_GOALS, EXAMPLE_SEED, example, write_example};

#[derive(Debug, Args)]
pub(crate) struct ExampleArguments {
    /// How many goals; the shop grows with them.
    #[arg(long, default_value_t = EXAMPLE_GOALS)]
    goals: usize,
    /// What all chance comes from.
    #[arg(long, default_value_t = EXAMPLE_SEED)]
    seed: u64,
    /// The folder to write `shop.db` and `goals.jsonl` into.
    #[arg(long, default_value = "examples/support-desk")]
    out: PathBuf,
}

pub(crate) fn run(arguments: &ExampleArguments) -> anyhow::Result<()> {
    let (world, goals) = example(&Bank::shipped()?, arguments.goals, arguments.seed)?;
    write_example(&arguments.out, &world, &goals)
}
