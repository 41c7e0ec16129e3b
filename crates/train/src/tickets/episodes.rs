//! Tickets worked by the oracle against real tools.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use kintsugi_agent::prompt::{Action, Decision};
use kintsugi_events::{Goal, GoalBudget};
use kintsugi_types::{AgentKind, Score, TenantId};
use serde_json::{Map, Value};

use crate::shop::{Desk, Dice, ORDERS_MIN, Sheets, World};

use super::bank::{Bank, Entry, Split};
use super::case::{Case, Pools, Ticket};
use super::fill::fill;
use super::oracle::{Knowledge, decide};
use super::truth::truth;

/// No right way takes more decisions.
const STEPS_MAX: usize = 5;

/// Orders of a shop that episodes use up: large enough that opening one costs little per episode.
const SHOP_ORDERS: usize = 2 * ORDERS_MIN;

/// A goal and every right decision up to its end.
#[derive(Debug, Clone, PartialEq)]
pub struct Episode {
    /// Who works it.
    pub kind: AgentKind,
    /// What an agent is given; its `expect` says what is right.
    pub goal: Goal,
    /// What the customer wants, for example `order_status`.
    pub intent: String,
    /// What the ticket meets, for example `shipped`.
    pub case: String,
    /// The decisions; only the last one finishes.
    pub steps: Vec<EpisodeStep>,
}

/// One decision and what came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct EpisodeStep {
    /// The decision.
    pub decision: Decision,
    /// What the tool answered, word for word; `None` for the last decision, which ends the goal.
    pub observation: Option<String>,
}

/// Episodes of a split without end: pass after pass over its entries, each pass in another order and with other
/// cases and words. `seed` decides everything.
pub fn episodes(bank: &Bank, split: Split, sheets: &Sheets, seed: u64) -> Result<Episodes> {
    let entries: Vec<Arc<Entry>> = bank.of(split).cloned().map(Arc::new).collect();
    if entries.is_empty() {
        bail!("the bank has no entry for {split:?}");
    }
    let mut dice = Dice::new(seed, 2);
    let shop = OpenShop::open(sheets, &mut dice, seed, 0)?;
    Ok(Episodes { entries, sheets: sheets.clone(), seed, dice, shop, shops_opened: 1, pass: Vec::new() })
}

/// See [`episodes`].
#[derive(Debug)]
pub struct Episodes {
    entries: Vec<Arc<Entry>>,
    sheets: Sheets,
    seed: u64,
    dice: Dice,
    shop: OpenShop,
    shops_opened: u64,
    /// What is left of this pass.
    pass: Vec<Arc<Entry>>,
}

#[derive(Debug)]
struct OpenShop {
    desk: Desk,
    pools: Pools,
}

impl OpenShop {
    fn open(sheets: &Sheets, dice: &mut Dice, seed: u64, number: u64) -> Result<Self> {
        // Far from the seeds that examples are given by hand.
        let world = World::generate(seed ^ (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15), SHOP_ORDERS);
        let pools = Pools::new(&world, dice);
        Ok(Self { desk: Desk::open(sheets, world)?, pools })
    }
}

impl Iterator for Episodes {
    type Item = Result<Episode>;

    fn next(&mut self) -> Option<Result<Episode>> {
        Some(self.produce())
    }
}

impl Episodes {
    /// The desk that the last episode was worked at.
    pub fn desk(&self) -> &Desk {
        &self.shop.desk
    }

    fn produce(&mut self) -> Result<Episode> {
        if self.pass.is_empty() {
            self.pass.clone_from(&self.entries);
            self.dice.shuffle(&mut self.pass);
        }
        let entry = self.pass.pop().context("an empty split")?;
        let case = Case::draw(&entry, &mut self.dice);
        let ticket = self.ticket(&entry, case)?;
        let goal = goal(&ticket);
        work(&mut self.shop.desk, &ticket, goal, &mut self.dice)
    }

    /// A ticket from the open shop, or from a new one where that has no fitting order left.
    fn ticket(&mut self, entry: &Entry, case: Case) -> Result<Ticket> {
        let draw = |shop: &mut OpenShop, dice: &mut Dice| {
            let mut ticket = shop.pools.ticket(&shop.desk.world, entry, case, dice)?;
            ticket.text = fill(&ticket, dice);
            Some(ticket)
        };
        if let Some(ticket) = draw(&mut self.shop, &mut self.dice) {
            return Ok(ticket);
        }
        self.shop = OpenShop::open(&self.sheets, &mut self.dice, self.seed, self.shops_opened)?;
        self.shops_opened += 1;
        draw(&mut self.shop, &mut self.dice).ok_or_else(|| anyhow!("a new shop has no order for {case:?}"))
    }
}

/// The goal that an agent is given for `ticket`.
pub(super) fn goal(ticket: &Ticket) -> Goal {
    let from = Value::String(ticket.writer.email.clone());
    Goal {
        id: None,
        kind: AgentKind::new(ticket.entry.intent.kind()).ok(),
        agent: None,
        text: ticket.text.clone(),
        tenant: TenantId::default(),
        urgency: Score::new(0.5),
        deadline: None,
        budget: GoalBudget::default(),
        input: Map::from_iter([("from".to_owned(), from)]),
        index: None,
        handover: None,
        expect: Some(truth(ticket)),
        other: Map::new(),
    }
}

/// Works `ticket` at `desk` to its end.
pub fn work(desk: &mut Desk, ticket: &Ticket, goal: Goal, dice: &mut Dice) -> Result<Episode> {
    let intent = ticket.entry.intent;
    let mut known = Knowledge::new(intent, ticket.number);
    let mut steps = Vec::new();
    while steps.len() < STEPS_MAX {
        let decision = decide(&known, dice)?;
        let Action::Call(call) = &decision.action else {
            steps.push(EpisodeStep { decision, observation: None });
            return Ok(Episode {
                kind: AgentKind::new(intent.kind())?,
                goal,
                intent: intent.name().to_owned(),
                case: ticket.case.name().to_owned(),
                steps,
            });
        };
        let observation = desk
            .call(&call.tool, call.args.clone(), goal.input.clone())
            .with_context(|| format!("{} refused {} for {}", call.tool, call.args, ticket.entry.id))?;
        known.observe(call.tool.as_str(), &observation)?;
        steps.push(EpisodeStep { decision, observation: Some(observation) });
    }
    bail!("{} is not done after {STEPS_MAX} steps", ticket.entry.id)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use kintsugi_agent::prompt::{ANSWER_CHARS_MAX, THOUGHT_CHARS_MAX};

    use super::*;

    fn some(split: Split, seed: u64, count: usize) -> Vec<Episode> {
        let bank = Bank::shipped().unwrap();
        let sheets = Sheets::shipped().unwrap();
        episodes(&bank, split, &sheets, seed).unwrap().take(count).collect::<Result<_>>().unwrap()
    }

    #[test]
    fn a_seed_always_gives_the_same_episodes() {
        assert_eq!(some(Split::Train, 5, 200), some(Split::Train, 5, 200));
        assert_ne!(some(Split::Train, 5, 200), some(Split::Train, 6, 200));
    }

    #[test]
    fn thoughts_and_answers_are_short_and_complete() {
        for episode in some(Split::Train, 1, 3_000) {
            for step in &episode.steps {
                let thought = &step.decision.thought;
                assert!(thought.split(' ').count() <= 10 && thought.len() <= THOUGHT_CHARS_MAX, "{thought}");
                assert!(!thought.contains(['{', '}']), "{thought}");
                let Action::Finish { answer } = &step.decision.action else { continue };
                assert!(!answer.is_empty() && answer.split(' ').count() <= 25, "{answer}");
                assert!(answer.len() <= ANSWER_CHARS_MAX && !answer.contains(['{', '}']), "{answer}");
            }
            let (last, before) = episode.steps.split_last().unwrap();
            assert!(last.observation.is_none() && before.iter().all(|step| step.observation.is_some()));
            assert!(!episode.goal.text.contains(['{', '}']), "{}", episode.goal.text);
        }
    }

    #[test]
    fn every_intent_meets_its_cases() {
        let mut seen: HashMap<(String, String), usize> = HashMap::new();
        for episode in some(Split::Train, 2, 4_000) {
            *seen.entry((episode.intent, episode.case)).or_default() += 1;
        }
        for (intent, case) in [
            ("order_status", "shipped"),
            ("order_status", "no_number"),
            ("cancel_order", "shipped"),
            ("refund_request", "delivered_long_ago"),
            ("refund_request", "foreign_order"),
            ("refund_request", "unknown_order"),
            ("refund_status", "refunded"),
            ("password_reset", "no_account"),
        ] {
            assert!(seen.contains_key(&(intent.to_owned(), case.to_owned())), "{intent} {case}: {seen:?}");
        }
    }
}
