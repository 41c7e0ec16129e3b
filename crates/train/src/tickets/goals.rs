//! The example's goals: tickets of the held-out split against one shop.

use anyhow::{Context, Result};
use kintsugi_events::Goal;
use serde_json::{Value, json};

use crate::shop::{Dice, World};

use super::bank::{Bank, Entry, Split};
use super::case::{Case, Pools, Ticket};
use super::episodes::goal;
use super::fill::fill;

/// A goal of the example with the ticket that it was made from.
#[derive(Debug, Clone)]
pub struct ExampleGoal {
    /// Its id.
    pub id: String,
    /// Where it comes from.
    pub ticket: Ticket,
    /// What an agent is given.
    pub goal: Goal,
}

impl ExampleGoal {
    /// Its line in `goals.jsonl`.
    pub fn line(&self) -> Value {
        json!({
            "id": self.id,
            "kind": self.goal.kind,
            "text": self.goal.text,
            "input": self.goal.input,
            "expect": self.goal.expect,
        })
    }
}

/// `count` goals against `world`: pass after pass over the held-out entries, each goal with an order of its own.
pub fn example_goals(bank: &Bank, world: &World, count: usize, seed: u64) -> Result<Vec<ExampleGoal>> {
    let mut dice = Dice::new(seed, 3);
    let mut pools = Pools::new(world, &mut dice);
    let mut pass: Vec<&Entry> = Vec::new();
    let mut goals = Vec::with_capacity(count);
    while goals.len() < count {
        if pass.is_empty() {
            pass = bank.of(Split::HeldOut).collect();
            dice.shuffle(&mut pass);
        }
        let entry = pass.pop().context("the bank has no held-out entry")?;
        let case = Case::draw(entry, &mut dice);
        let ticket = pools.ticket(world, entry, case, &mut dice);
        let mut ticket = ticket.with_context(|| {
            format!("the shop has no order left for case {} of goal {}", case.name(), goals.len() + 1)
        })?;
        ticket.text = fill(&ticket, &mut dice);
        let goal = goal(&ticket);
        goals.push(ExampleGoal { id: format!("desk-{:05}", goals.len() + 1), ticket, goal });
    }
    Ok(goals)
}
