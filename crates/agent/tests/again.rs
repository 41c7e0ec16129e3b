//! What is done again after a remedy or by another agent: a write never twice, and no repetition where none is.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod world;

use kintsugi_agent::{Command, Turn};
use kintsugi_events::{Goal, RecoveryAction, RecoveryPhase};
use kintsugi_types::Score;
use world::{World, goal};

/// Dice: books with n = 0; looks; the tool answers, is busy, refuses.
const BOOK: u8 = 30;
const LOOK: u8 = 12;
const OK: u8 = 3;
const BUSY: u8 = 0;
const REFUSED: u8 = 1;

fn begun(dice: &[u8]) -> World {
    let mut world = World::new();
    world.give(Command::AcceptGoal { goal: goal(1) });
    world.give(Command::StartGoal { seed: 7 });
    world.answer_all(dice);
    world
}

fn mended(mut world: World, action: RecoveryAction) -> World {
    let Command::Recover { mut plan, planned_at } = world.plan(action) else { panic!("no plan") };
    plan.health_before = Some(Score::new(world.last_metric().health.get()));
    world.give(Command::Recover { plan, planned_at });
    world
}

fn handed_over(world: World) -> Goal {
    mended(world, RecoveryAction::AgentRedistribute).handed_over().pop().unwrap()
}

const REMEDIES: [RecoveryAction; 4] = [
    RecoveryAction::ModelDownshift,
    RecoveryAction::CacheRollback,
    RecoveryAction::ResetState,
    RecoveryAction::ForceReplan,
];

#[test]
fn a_keyed_write_that_may_have_acted_keeps_its_effect_whatever_mends_the_agent() {
    for action in REMEDIES {
        let mut world = begun(&[BOOK]);
        let effect = world.open_call().effect;
        world.answer_all(&[BUSY]);
        let mut world = mended(world, action);
        world.answer_all(&[BOOK]);
        assert_eq!(world.open_call().effect, effect, "{action:?}");
    }
}

#[test]
fn a_keyed_write_that_may_have_acted_keeps_its_effect_at_another_agent() {
    let mut world = begun(&[BOOK]);
    let effect = world.open_call().effect;
    world.answer_all(&[BUSY]);
    let mut taker = World::taking(handed_over(world));
    taker.answer_all(&[BOOK]);
    assert_eq!(taker.open_call().effect, effect);
    // And at the one after it.
    taker.answer_all(&[BUSY]);
    let mut last = World::taking(handed_over(taker));
    last.answer_all(&[BOOK]);
    assert_eq!(last.open_call().effect, effect);
}

#[test]
fn a_call_that_was_refused_or_is_another_is_a_new_effect() {
    let mut world = begun(&[BOOK]);
    let effect = world.open_call().effect;
    world.answer_all(&[REFUSED, BOOK]);
    assert_ne!(world.open_call().effect, effect, "nothing was done under it");

    let mut world = begun(&[BOOK]);
    let effect = world.open_call().effect;
    world.answer_all(&[BUSY]);
    let mut world = mended(world, RecoveryAction::ModelDownshift);
    // Books with n = 1.
    world.answer_all(&[BOOK + 1 + 24]);
    assert_ne!(world.open_call().effect, effect);
}

#[test]
fn a_lighter_model_that_makes_the_failed_call_repeats_nothing() {
    for dice in [LOOK, BOOK] {
        let world = begun(&[dice, BUSY]);
        let before = world.last_metric().health;
        let mut world = mended(world, RecoveryAction::ModelDownshift);
        world.answer_all(&[dice, OK]);
        let metric = world.last_metric();
        assert!(!metric.repeated_call && metric.similarity.is_none(), "{metric:?}");
        assert!(metric.health > before);
        assert_eq!(world.phases(), [RecoveryPhase::Started, RecoveryPhase::Completed]);
    }
}

#[test]
fn a_failed_write_that_is_made_again_after_a_rollback_or_elsewhere_is_no_repetition() {
    let mut world = mended(begun(&[BOOK, BUSY]), RecoveryAction::CacheRollback);
    world.answer_all(&[BOOK, OK]);
    assert!(!world.last_metric().repeated_call);

    let mut taker = World::taking(handed_over(begun(&[BOOK, BUSY])));
    taker.answer_all(&[BOOK, OK]);
    assert!(!taker.last_metric().repeated_call);
}

#[test]
fn what_was_done_outside_is_not_pruned_away() {
    let giver = begun(&[BOOK, OK, LOOK, BUSY]);
    let mut taker = World::taking(handed_over(giver));
    let Turn::Observed(fact) = taker.state.run.as_ref().unwrap().turns[0].clone() else { panic!("no fact") };
    taker.answer_all(&[LOOK, OK, LOOK]);
    for _ in 0..2 {
        let Command::Recover { mut plan, planned_at } =
            taker.plan_for_loop(RecoveryAction::PruneContext, 0.99)
        else {
            panic!("no plan")
        };
        plan.parameters.insert("turns_kept".to_owned(), 2.into());
        taker.give(Command::Recover { plan, planned_at });
        taker.answer_all(&[OK]);
        let turns = &taker.state.run.as_ref().unwrap().turns;
        assert_eq!((turns.len(), &turns[0]), (3, &Turn::Observed(fact.clone())), "{turns:?}");
        taker.config.limits.steps_max = 9;
        taker.answer_all(&[LOOK]);
    }
}

#[test]
fn a_plan_whose_deadline_has_passed_is_dropped_and_its_end_left_to_who_planned_it() {
    // It comes late.
    let mut world = begun(&[LOOK, BUSY]);
    let plan = world.plan(RecoveryAction::RetryWithBackoff);
    let plan = world.overdue(plan);
    assert_eq!(world.give(plan.clone()), 1, "the journal remembers it");
    assert_eq!(world.give(plan), 0);
    assert!(world.phases().is_empty() && world.state.run.as_ref().unwrap().recovery.is_none());

    // The step that it waits for outlasts it.
    let mut world = begun(&[LOOK]);
    let plan = world.plan_for_loop(RecoveryAction::ForceReplan, 0.99);
    let Command::Recover { mut plan, planned_at } = world.overdue(plan) else { panic!("no plan") };
    let in_a_second = world.now + chrono::TimeDelta::seconds(1);
    plan.parameters.insert("deadline".to_owned(), in_a_second.to_rfc3339().into());
    world.give(Command::Recover { plan, planned_at });
    assert!(world.state.run.as_ref().unwrap().deferred.is_some());
    world.now = in_a_second;
    world.answer_all(&[OK]);
    assert!(world.phases().is_empty() && world.state.run.as_ref().unwrap().deferred.is_none());

    // It was taken up, and its step outlasts it.
    let mut world = begun(&[LOOK, BUSY]);
    let plan = world.plan(RecoveryAction::RetryWithBackoff);
    let Command::Recover { mut plan, planned_at } = world.overdue(plan) else { panic!("no plan") };
    let in_a_second = world.now + chrono::TimeDelta::seconds(1);
    plan.parameters.insert("deadline".to_owned(), in_a_second.to_rfc3339().into());
    world.give(Command::Recover { plan, planned_at });
    world.now = in_a_second;
    world.answer_all(&[OK]);
    assert_eq!(world.phases(), [RecoveryPhase::Started]);
    let run = world.state.run.as_ref().unwrap();
    assert!(run.recovery.is_none() && run.seams == 0);
}
