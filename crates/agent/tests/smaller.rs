//! A smaller model beside the main one: who is asked follows from the journal, and the main one stands in.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod world;

use kintsugi_agent::prompt::{Action, decision_text};
use kintsugi_agent::{AgentState, Command, Effect, Phase, SmallerModel, ThinkOutcome};
use kintsugi_events::{ActionCall, AgentEvent, Payload, RecoveryAction};
use kintsugi_types::{EffectId, ErrorTier, ModelName, ToolName};
use proptest::prelude::*;
use serde_json::json;
use world::{World, completion, goal};

fn small() -> ModelName {
    ModelName::new("small").unwrap()
}

fn with_smaller() -> World {
    let mut world = World::new();
    world.config.smaller = Some(SmallerModel { name: small(), context_tokens: 120 });
    world.give(Command::AcceptGoal { goal: goal(1) });
    world.give(Command::StartGoal { seed: 7 });
    world
}

/// One that booked something, parked when the next call failed, and was put on lighter work.
fn downshifted() -> World {
    let mut world = with_smaller();
    world.answer_all(&[30, 3, 12, 0]);
    let plan = world.plan(RecoveryAction::ModelDownshift);
    world.give(plan);
    world
}

/// The inference that is waited for, and of whom it is asked.
fn asked(world: &World) -> (EffectId, u32, Option<ModelName>) {
    match world.state.open_effect() {
        Some(Effect::Think { effect, attempt, model, .. }) => (effect, attempt, model),
        other => panic!("{other:?}"),
    }
}

fn fail(world: &mut World, tier: ErrorTier) {
    let (effect, attempt, _) = asked(world);
    let outcome = ThinkOutcome::Failed { tier, error: "model small: engine fault".to_owned() };
    world.give(Command::ThinkDone { effect, attempt, outcome });
}

/// A look, as the model that was asked or the main one in its stead says it; then the tool answers.
fn look(world: &mut World, number: u32, model: Option<ModelName>) {
    let (effect, attempt, _) = asked(world);
    let call = ActionCall { tool: ToolName::new("look").unwrap(), args: json!({"n": number}) };
    let completion = completion(decision_text("look", &Action::Call(call)));
    let outcome = ThinkOutcome::Answered { completion, queue_ms: 0.0, contradictions: 0, model };
    world.give(Command::ThinkDone { effect, attempt, outcome });
    world.answer_all(&[3]);
}

#[test]
fn who_is_on_lighter_work_asks_the_smaller_model_until_the_goal_ends() {
    let mut world = with_smaller();
    assert_eq!(asked(&world).2, None, "nothing is wrong yet");
    world.answer_all(&[30, 3, 12, 0]);
    let plan = world.plan(RecoveryAction::ModelDownshift);
    world.give(plan);
    for number in 10..12 {
        assert_eq!(asked(&world).2, Some(small()));
        look(&mut world, number, Some(small()));
        assert_eq!(world.last_metric().model, Some(small()));
    }
    world.answer_all(&[3]);
    world.give(Command::AcceptGoal { goal: goal(2) });
    world.give(Command::StartGoal { seed: 7 });
    assert_eq!(asked(&world).2, None, "the next goal begins with the main model");
}

#[test]
fn without_a_smaller_model_the_main_one_is_asked_and_nothing_else_is_written() {
    let mut world = downshifted();
    let before = world.state.clone();
    world.config.smaller = None;
    look(&mut world, 10, None);
    assert_eq!(asked(&world).2, None);
    assert!(world.state.run.as_ref().unwrap().is_light, "it is asked for less");
    assert_eq!(world.last_metric().model, None);

    // A journal without a smaller model folds to the same hashes as before there could be one.
    let mut plain = World::new();
    plain.give(Command::AcceptGoal { goal: goal(1) });
    plain.give(Command::StartGoal { seed: 7 });
    let state = serde_json::to_string(&plain.state).unwrap();
    assert!(!state.contains("model") && !state.contains("smaller"), "{state}");
    let _: AgentState = serde_json::from_str(&state).unwrap();
    assert!(serde_json::to_string(&before).unwrap().contains(r#""model":"small""#));
}

#[test]
fn what_the_smaller_model_cannot_answer_the_main_one_does_under_the_same_effect() {
    for tier in [ErrorTier::Transient, ErrorTier::Recoverable, ErrorTier::Fatal] {
        let mut world = downshifted();
        let (effect, attempt, _) = asked(&world);
        fail(&mut world, tier);
        assert_eq!(asked(&world), (effect, attempt + 1, None), "{tier:?}");
        look(&mut world, 10, None);
        assert_eq!(world.last_metric().model, None);
        assert_eq!(asked(&world).2, Some(small()), "the next step asks it again");
    }
}

#[test]
fn a_conversation_that_is_too_long_for_the_smaller_model_is_none_for_the_main_one() {
    let mut world = downshifted();
    let (effect, attempt, _) = asked(&world);
    let outcome = ThinkOutcome::TooLong { error: "too long".to_owned() };
    world.give(Command::ThinkDone { effect, attempt, outcome });
    assert_eq!(asked(&world), (effect, attempt + 1, None), "nothing is pruned for it");
}

#[test]
fn a_smaller_model_that_answers_nothing_is_left_alone_after_three_tries() {
    let mut world = downshifted();
    world.config.limits.steps_max = 64;
    for number in 10..13 {
        assert_eq!(asked(&world).2, Some(small()));
        fail(&mut world, ErrorTier::Transient);
        look(&mut world, number, None);
    }
    assert_eq!(asked(&world).2, None);
    // The main one is tried again as ever.
    let (effect, attempt, _) = asked(&world);
    fail(&mut world, ErrorTier::Transient);
    assert_eq!(asked(&world), (effect, attempt + 1, None));
}

#[test]
fn how_full_the_context_is_goes_by_the_model_that_answered() {
    let mut world = downshifted();
    look(&mut world, 10, Some(small()));
    // 60 tokens of 120, where the main model's 1,024 would be hardly used.
    assert!((world.last_metric().context_ratio - 0.5).abs() < 1e-9, "{:?}", world.last_metric());
    let mut thoughts = world.events.iter().filter_map(|event| match &event.payload {
        Payload::Agent(event) => match &**event {
            AgentEvent::ThoughtRecorded(thought) => Some(thought.model.clone()),
            _ => None,
        },
        _ => None,
    });
    assert_eq!(thoughts.next_back(), Some(Some(small())));
}

proptest! {
    /// Whatever is answered and whatever is planned in between: `World::give` compares the decision with the fold, and
    /// a state that was written and read again asks for the same of the same.
    #[test]
    fn whatever_happens_the_state_alone_tells_who_is_asked(dice in prop::collection::vec(any::<u8>(), 1..60)) {
        let mut world = with_smaller();
        for dice in dice {
            let is_parked =
                world.state.run.as_ref().is_some_and(|run| matches!(run.phase, Phase::Parked { .. }));
            if is_parked && dice % 2 == 0 {
                let plan = world.plan(RecoveryAction::ModelDownshift);
                world.give(plan);
            }
            let Some(answer) = world.answer(dice) else { break };
            world.give(answer);
            let read: AgentState = serde_json::from_str(&serde_json::to_string(&world.state).unwrap()).unwrap();
            prop_assert_eq!(read.open_effect(), world.state.open_effect());
            let is_light = world.state.run.as_ref().is_some_and(|run| run.is_light);
            if let Some(Effect::Think { model: Some(_), .. }) = read.open_effect() {
                prop_assert!(is_light, "who is well was sent to the smaller model");
            }
        }
    }
}
