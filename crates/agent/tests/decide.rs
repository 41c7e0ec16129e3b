//! Whatever commands come in whatever order: what is decided folds to the state that was decided, each goal ends at
//! most once, and what does not fit is passed over.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod world;

use std::collections::BTreeMap;

use kintsugi_agent::{Command, Effect, Phase, Turn};
use kintsugi_events::{AgentEvent, GoalStatus, Payload, RecoveryAction, RecoveryPhase};
use kintsugi_types::GoalId;
use proptest::prelude::*;
use world::{World, goal};

const ACTIONS: [RecoveryAction; 13] = [
    RecoveryAction::CacheRollback,
    RecoveryAction::ModelDownshift,
    RecoveryAction::AgentRedistribute,
    RecoveryAction::Retry,
    RecoveryAction::RetryWithBackoff,
    RecoveryAction::ResetState,
    RecoveryAction::PruneContext,
    RecoveryAction::RepairToolCall,
    RecoveryAction::ForceReplan,
    RecoveryAction::DegradeGracefully,
    RecoveryAction::CircuitBreaker,
    RecoveryAction::NotifyHuman,
    RecoveryAction::Monitor,
];

#[test]
fn a_goal_is_worked_from_its_acceptance_to_its_result() {
    let mut world = World::new();
    world.give(Command::AcceptGoal { goal: goal(1) });
    world.give(Command::StartGoal { seed: 7 });
    let look = world.answer(4).unwrap();
    world.give(look);
    let found = world.answer(3).unwrap();
    world.give(found);
    let finish = world.answer(3).unwrap();
    world.give(finish);
    assert_eq!(
        world.results(),
        BTreeMap::from([(GoalId::new("goal-1").unwrap(), vec![GoalStatus::Completed])])
    );
    assert!(!world.state.has_load());
}

#[test]
fn what_comes_twice_or_too_late_leads_to_nothing() {
    let mut world = World::new();
    world.give(Command::AcceptGoal { goal: goal(1) });
    assert_eq!(world.give(Command::AcceptGoal { goal: goal(1) }), 0);
    world.give(Command::StartGoal { seed: 7 });
    assert_eq!(world.give(Command::StartGoal { seed: 7 }), 0);
    let thought = world.answer(4).unwrap();
    world.give(thought.clone());
    assert_eq!(world.give(thought), 0);
    let stale = Command::TimerDue { at: world.now };
    assert_eq!(world.give(stale), 0);
    let plan = world.plan(RecoveryAction::Retry);
    assert!(world.give(plan.clone()) > 0, "an agent that does not wait says so");
    assert_eq!(world.give(plan), 0);
}

#[test]
fn a_completed_write_is_never_made_again_in_the_same_goal() {
    let mut world = World::new();
    world.give(Command::AcceptGoal { goal: goal(1) });
    world.give(Command::StartGoal { seed: 7 });
    // 30 % 8 is 6, `book`, with n = 0; 54 likewise. 3 % 5 is an answer.
    for dice in [30, 3, 54] {
        let answer = world.answer(dice).unwrap();
        world.give(answer);
    }
    assert!(
        matches!(world.state.run.as_ref().unwrap().phase, Phase::Thinking { .. }),
        "the outcome was replayed"
    );
    let replays = world.events.iter().filter(|event| match &event.payload {
        Payload::Agent(event) => matches!(&**event, AgentEvent::ObservationRecorded(seen) if seen.replayed),
        _ => false,
    });
    assert_eq!(replays.count(), 1);
}

#[test]
fn an_unrepeatable_call_lost_in_a_crash_ends_the_goal_unless_its_outcome_is_known() {
    for (happened, wanted) in [(None, Some(GoalStatus::Partial)), (Some(true), None), (Some(false), None)] {
        let mut world = World::new();
        world.give(Command::AcceptGoal { goal: goal(1) });
        world.give(Command::StartGoal { seed: 7 });
        let pay = world.answer(5).unwrap();
        world.give(pay);
        let Some(Effect::Call(open)) = world.state.open_effect() else { panic!("no call is open") };
        world.give(Command::CallLost { effect: open.effect, happened, cause: "the process ended".into() });
        let ended = world.results().into_values().next().map(|statuses| statuses[0]);
        assert_eq!(ended, wanted, "{happened:?}");
    }
}

#[test]
fn a_recovery_of_a_working_agent_waits_for_the_end_of_the_step() {
    let mut world = World::new();
    world.give(Command::AcceptGoal { goal: goal(1) });
    world.give(Command::StartGoal { seed: 7 });
    // Books with n = 0, then looks.
    for dice in [30, 3, 12] {
        let answer = world.answer(dice).unwrap();
        world.give(answer);
    }
    let plan = world.plan_for_loop(RecoveryAction::ResetState, 0.99);
    world.give(plan);
    assert!(world.phases().is_empty(), "it was taken up in the middle of a step");
    let found = world.answer(3).unwrap();
    world.give(found);
    assert_eq!(world.phases(), [RecoveryPhase::Started]);
    let run = world.state.run.as_ref().unwrap();
    assert_eq!(run.step, 3, "the next step is begun");
    assert!(matches!(run.phase, Phase::Thinking { .. }));
    // The checkpoint before the fault is that after the booking.
    assert_eq!(run.turns.len(), 2);
    let finish = world.answer(3).unwrap();
    world.give(finish);
    assert_eq!(world.phases(), [RecoveryPhase::Started, RecoveryPhase::Completed]);
}

#[test]
fn a_recovery_is_dropped_where_the_agent_got_better_or_the_goal_ended_first() {
    for (health, dice) in [(0.2, 3), (0.99, 2)] {
        let mut world = World::new();
        world.give(Command::AcceptGoal { goal: goal(1) });
        world.give(Command::StartGoal { seed: 7 });
        let look = world.answer(12).unwrap();
        world.give(look);
        let plan = world.plan_for_loop(RecoveryAction::ForceReplan, health);
        world.give(plan);
        let found = world.answer(dice).unwrap();
        world.give(found);
        if dice == 2 {
            // The call failed for good: the agent is parked with the plan still waiting, and a person ends the goal.
            let told = world.plan(RecoveryAction::NotifyHuman);
            world.give(told);
        }
        assert!(world.phases().contains(&RecoveryPhase::Abandoned), "{:?}", world.phases());
        assert!(world.state.run.as_ref().is_none_or(|run| run.deferred.is_none()));
    }
}

#[test]
fn a_rollback_forgets_the_talk_and_keeps_what_was_done() {
    let mut world = World::new();
    world.give(Command::AcceptGoal { goal: goal(1) });
    world.give(Command::StartGoal { seed: 7 });
    // Looks, books with n = 0, looks again.
    for dice in [12, 3, 30, 3, 12] {
        let answer = world.answer(dice).unwrap();
        world.give(answer);
    }
    let Command::Recover { mut plan, planned_at } = world.plan_for_loop(RecoveryAction::ResetState, 0.99)
    else {
        panic!("no plan")
    };
    plan.parameters.insert("steps_back".to_owned(), 2.into());
    world.give(Command::Recover { plan, planned_at });
    let found = world.answer(3).unwrap();
    world.give(found);
    let run = world.state.run.as_ref().unwrap();
    let Some(Turn::Observed(fact)) = run.turns.last() else { panic!("{:?}", run.turns) };
    assert_eq!(run.turns.len(), 1, "{:?}", run.turns);
    assert_eq!(&**fact, r#"{"done":{"tool":"book","args":{"n":0},"result":{"ok":true}}}"#);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_commands_folds_and_ends_each_goal_at_most_once(dice in prop::collection::vec(any::<(u8, u8)>(), 1..120)) {
        let mut world = World::new();
        let mut accepted = 0;
        for (kind, detail) in dice {
            let command = match kind % 16 {
                0 | 1 if accepted < 6 => {
                    accepted += 1;
                    Command::AcceptGoal { goal: goal(accepted) }
                }
                2 | 3 => Command::StartGoal { seed: u64::from(detail) },
                4 | 5 => {
                    let action = ACTIONS[usize::from(detail) % ACTIONS.len()];
                    world.plan(action)
                }
                6 if detail > 250 => Command::Quarantine { reason: "test".to_owned(), at_start: detail % 2 == 0 },
                7 => Command::Resume { by: "test".to_owned() },
                _ => match world.answer(detail) {
                    Some(command) => command,
                    None => Command::StartGoal { seed: 1 },
                },
            };
            world.give(command);
        }
        // Whatever is left comes to its end when it is answered and nothing helps it.
        for round in 0_u8..250 {
            if !world.state.has_load() {
                break;
            }
            let command = world.answer(round).unwrap_or(Command::StartGoal { seed: 1 });
            world.give(command);
        }
        prop_assert!(!world.state.has_load(), "{:?}", world.state);
        let results = world.results();
        let handed_over = world.handed_over().len();
        prop_assert_eq!(results.len() + handed_over, usize::from(accepted));
        prop_assert!(results.values().all(|statuses| statuses.len() == 1));
    }
}
