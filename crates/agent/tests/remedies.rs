//! The stronger remedies: a lighter model, another agent, simple replies, and giving an agent up.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod world;

use kintsugi_agent::{Command, Phase, ThinkOutcome, Turn};
use kintsugi_events::{Budget, HealthState, Payload, Recovery, RecoveryAction, RecoveryPhase};
use world::{World, goal};

/// A world whose agent booked something and parked when the next call failed.
fn parked_after_a_booking() -> World {
    let mut world = World::new();
    world.give(Command::AcceptGoal { goal: goal(1) });
    world.give(Command::StartGoal { seed: 7 });
    // Books with n = 0, looks, and the look fails for a moment.
    world.answer_all(&[30, 3, 12, 0]);
    world
}

#[test]
fn a_goal_that_is_handed_over_takes_along_what_was_done_and_spent() {
    let mut giver = parked_after_a_booking();
    let spent = giver.state.run.as_ref().unwrap().tokens;
    let plan = giver.plan(RecoveryAction::AgentRedistribute);
    giver.give(plan);
    assert!(!giver.state.has_load(), "{:?}", giver.state.run);
    assert_eq!(giver.results().len(), 0, "it ends elsewhere");
    assert_eq!(giver.phases().last(), Some(&RecoveryPhase::Completed));
    let [handed] = &giver.handed_over()[..] else { panic!("{:?}", giver.handed_over()) };
    let handover = handed.handover.as_ref().unwrap();
    assert_eq!((handover.epoch, handover.steps, handover.tokens), (1, 2, spent));
    let calls: Vec<_> = handover.calls.iter().map(|call| (call.tool.as_str(), call.ok, call.write)).collect();
    assert_eq!(calls, [("book", true, true), ("look", false, false)]);

    let mut taker = World::new();
    taker.give(Command::AcceptGoal { goal: handed.clone().into() });
    taker.give(Command::StartGoal { seed: 8 });
    let run = taker.state.run.as_ref().unwrap();
    assert_eq!((run.step, run.tokens, run.started_at), (3, spent, handover.started_at.unwrap()));
    let [Turn::Observed(fact)] = &run.turns[..] else { panic!("{:?}", run.turns) };
    assert!(fact.contains("book"), "{fact}");
    // The same booking once more is answered from what was handed over.
    taker.answer_all(&[30]);
    let calls = taker.state.run.as_ref().unwrap().calls.len();
    assert_eq!(calls, 2, "nothing was called");
}

#[test]
fn a_goal_that_cannot_go_elsewhere_stays_and_the_recovery_failed() {
    let mut world = parked_after_a_booking();
    world.config.population = 1;
    let plan = world.plan(RecoveryAction::AgentRedistribute);
    world.give(plan);
    assert_eq!(world.phases().last(), Some(&RecoveryPhase::Failed));
    assert!(world.handed_over().is_empty() && world.state.open_effect().is_some());

    let mut world = parked_after_a_booking();
    for _ in 0..2 {
        let plan = world.plan(RecoveryAction::AgentRedistribute);
        world.give(plan);
        let handed = world.handed_over().pop().unwrap();
        world = World::new();
        world.give(Command::AcceptGoal { goal: handed.into() });
        world.give(Command::StartGoal { seed: 7 });
        world.answer_all(&[13, 0]);
    }
    let plan = world.plan(RecoveryAction::AgentRedistribute);
    world.give(plan);
    assert!(world.handed_over().is_empty(), "a goal does not wander for ever");
}

#[test]
fn a_lighter_model_is_asked_for_the_step_anew_until_the_goal_ends() {
    let mut world = parked_after_a_booking();
    let plan = world.plan(RecoveryAction::ModelDownshift);
    world.give(plan);
    let run = world.state.run.as_ref().unwrap();
    assert!(run.is_light && run.call.is_none());
    assert!(matches!(run.turns.last(), Some(Turn::Observed(_))), "{:?}", run.turns);
    world.answer_all(&[3]);
    world.give(Command::AcceptGoal { goal: goal(2) });
    world.give(Command::StartGoal { seed: 7 });
    assert!(!world.state.run.as_ref().unwrap().is_light);
}

#[test]
fn an_agent_that_is_given_up_hands_its_goals_on_and_waits_for_a_person() {
    let mut world = parked_after_a_booking();
    world.give(Command::AcceptGoal { goal: goal(2) });
    let Command::Recover { mut plan, planned_at } = world.plan(RecoveryAction::NotifyHuman) else {
        panic!("no plan")
    };
    plan.parameters.insert(Recovery::GIVES_UP.to_owned(), true.into());
    world.give(Command::Recover { plan, planned_at });
    assert_eq!(world.state.health_state, HealthState::Failed);
    assert_eq!(world.results().len(), 1, "the goal under way ends partial");
    assert_eq!(world.handed_over().len(), 1, "the one that waited goes to another agent");
    assert!(!world.state.has_load());
    world.give(Command::Resume { by: "test".to_owned() });
    assert_eq!(world.state.health_state, HealthState::Healthy);
}

#[test]
fn an_answer_to_another_conversation_is_not_acted_on() {
    let mut world = World::new();
    world.give(Command::AcceptGoal { goal: goal(1) });
    world.give(Command::StartGoal { seed: 7 });
    let Some(Command::ThinkDone { effect, attempt, outcome }) = world.answer(4) else { panic!("no thought") };
    let ThinkOutcome::Answered { completion, queue_ms, .. } = outcome else { panic!("{outcome:?}") };
    let outcome = ThinkOutcome::Answered { completion, queue_ms, contradictions: 1, model: None };
    world.give(Command::ThinkDone { effect, attempt, outcome });
    let run = world.state.run.as_ref().unwrap();
    assert!(matches!(run.phase, Phase::Parked { .. }) && run.turns.is_empty(), "{run:?}");
    let plan = world.plan(RecoveryAction::Retry);
    world.give(plan);
    world.answer_all(&[3]);
    assert_eq!(world.results().len(), 1);
}

#[test]
fn what_a_goal_ran_out_of_is_measured() {
    let mut world = World::new();
    world.give(Command::AcceptGoal { goal: goal(1) });
    world.give(Command::StartGoal { seed: 7 });
    // Five steps of this and that are all that there is.
    world.answer_all(&[12, 3, 13, 3, 14, 3, 12, 3, 20, 3]);
    let spent: Vec<Budget> = world
        .events
        .iter()
        .filter_map(|event| match &event.payload {
            Payload::Metric(metric) => metric.spent,
            _ => None,
        })
        .collect();
    assert_eq!(spent, [Budget::Steps]);
    assert_eq!(world.results().len(), 1);
}

#[test]
fn a_goal_that_comes_to_who_takes_none_goes_on_to_another_with_what_was_done() {
    let mut giver = parked_after_a_booking();
    let plan = giver.plan(RecoveryAction::AgentRedistribute);
    giver.give(plan);
    let handed = giver.handed_over().pop().unwrap();

    let mut taker = World::new();
    taker.give(Command::Quarantine { reason: "broken".to_owned(), at_start: false });
    taker.give(Command::AcceptGoal { goal: goal(2) });
    taker.give(Command::AcceptGoal { goal: handed.into() });
    let [fresh, again] = &taker.handed_over()[..] else { panic!("{:?}", taker.handed_over()) };
    assert_eq!((fresh.epoch(), again.epoch()), (1, 2));
    assert!(taker.results().is_empty() && !taker.state.has_load());

    // It changed hands often enough: here it ends, and its result tells what the others did.
    let mut last = World::new();
    last.now = giver.now + chrono::TimeDelta::seconds(1);
    last.give(Command::Quarantine { reason: "broken".to_owned(), at_start: false });
    last.give(Command::AcceptGoal { goal: again.clone().into() });
    assert!(last.handed_over().is_empty());
    let result = last.events.iter().find_map(|event| match &event.payload {
        Payload::Result(result) => Some(result),
        _ => None,
    });
    let result = result.unwrap();
    let handover = again.handover.as_ref().unwrap();
    assert_eq!((result.steps, result.tokens), (handover.steps, handover.tokens));
    assert!(result.steps == 2 && result.tokens.prompt > 0 && result.wall_ms > 0, "{result:?}");
    let tools: Vec<_> = result.actions.iter().map(|action| (action.tool.as_str(), action.ok)).collect();
    assert_eq!(tools, [("book", true), ("look", false)]);
}

#[test]
fn a_goal_that_breaks_who_begins_it_is_handed_to_nobody() {
    let mut world = World::new();
    for number in [1, 2, 3] {
        world.give(Command::AcceptGoal { goal: goal(number) });
    }
    world.give(Command::Quarantine { reason: "start_goal broke it".to_owned(), at_start: true });
    assert_eq!(world.results().keys().collect::<Vec<_>>(), [goal(1).id.as_ref().unwrap()]);
    let handed: Vec<_> = world.handed_over().into_iter().map(|goal| goal.id.unwrap()).collect();
    assert_eq!(handed, [goal(2).id.clone().unwrap(), goal(3).id.clone().unwrap()]);
}
