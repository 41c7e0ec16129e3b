//! The files of the example that come from the generator: the shop's database and the goals.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rusqlite::Connection;

use crate::shop::{ORDERS_MAX, ORDERS_MIN, World, write_store};

use super::bank::Bank;
use super::goals::{ExampleGoal, example_goals};

/// Goals of the committed example.
pub const EXAMPLE_GOALS: usize = 300;

/// Seed of the committed example.
pub const EXAMPLE_SEED: u64 = 7;

/// The database's name within the example.
pub const DATABASE_FILE: &str = "shop.db";

/// The goals' name within the example.
pub const GOALS_FILE: &str = "goals.jsonl";

/// Orders for each goal: enough that the rarest state does not run out.
const ORDERS_PER_GOAL: usize = 2;

/// The shop and the goals of `seed`.
pub fn example(bank: &Bank, goal_count: usize, seed: u64) -> Result<(World, Vec<ExampleGoal>)> {
    let goals_max = ORDERS_MAX / ORDERS_PER_GOAL;
    if goal_count > goals_max {
        bail!("at most {goals_max} goals can have an order of their own, not {goal_count}");
    }
    let world = World::generate(seed, ORDERS_MIN.max(goal_count * ORDERS_PER_GOAL));
    let goals = example_goals(bank, &world, goal_count, seed)?;
    Ok((world, goals))
}

/// Writes both files into `folder`, in place of earlier ones.
pub fn write_example(folder: &Path, world: &World, goals: &[ExampleGoal]) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let path = folder.join(DATABASE_FILE);
    if path.exists() {
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
    }
    let mut connection = Connection::open(&path).with_context(|| format!("create {}", path.display()))?;
    write_store(&mut connection, world)?;
    connection.execute_batch("VACUUM")?;
    drop(connection);
    let path = folder.join(GOALS_FILE);
    fs::write(&path, goal_lines(goals)).with_context(|| format!("write {}", path.display()))
}

/// The goals as JSON lines.
pub fn goal_lines(goals: &[ExampleGoal]) -> String {
    let mut lines = String::new();
    for goal in goals {
        lines.push_str(&goal.line().to_string());
        lines.push('\n');
    }
    lines
}
