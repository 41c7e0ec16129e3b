//! Whatever commands come in whatever order: what is decided folds to the state that was decided, each goal ends at
//! most once, and what does not fit is passed over.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta};
use kintsugi_agent::prompt::{Action, decision_text};
use kintsugi_agent::{
    ActionOutcome, AgentState, Command, Context, Effect, KindConfig, Limits, Phase, Prices, ThinkOutcome,
    Turn, decide,
};
use kintsugi_events::health::HealthThresholds;
use kintsugi_events::{
    ActionCall, AgentEvent, Event, FaultType, Goal, GoalStatus, Mode, Payload, Recovery, RecoveryAction,
    RecoveryPhase, Subject,
};
use kintsugi_types::{
    AgentId, AgentKind, Completion, DiagnosisId, ErrorTier, FinishReason, GoalId, IdSource, RecoveryId,
    Score, SeededIds, TenantId, Timestamp, TokenUsage, ToolName, ToolSafety, ToolSpec,
};
use proptest::prelude::*;
use serde_json::json;

fn config() -> KindConfig {
    let tool = |name: &str, safety| ToolSpec {
        name: ToolName::new(name).unwrap(),
        description: "does it".to_owned(),
        parameters: json!({"type": "object", "properties": {"n": {"type": "integer"}}}),
        safety,
    };
    KindConfig {
        kind: AgentKind::new("clerk").unwrap(),
        instructions: "Work.".to_owned(),
        tools: vec![
            tool("look", ToolSafety::ReadOnly),
            tool("pay", ToolSafety::Unkeyed),
            tool("book", ToolSafety::Keyed),
        ],
        limits: Limits { steps_max: 5, attempts_max: 3, ..Limits::default() },
        prices: Prices::default(),
        thresholds: HealthThresholds::default(),
        temperature: 0.0,
        top_p: 1.0,
        context_tokens: 1024,
    }
}

fn goal(number: u8) -> Arc<Goal> {
    let mut goal: Goal = serde_json::from_value(json!({"text": "do it"})).unwrap();
    goal.id = Some(GoalId::new(format!("goal-{number}")).unwrap());
    Arc::new(goal)
}

fn completion(text: String) -> Completion {
    Completion {
        text,
        finish: FinishReason::Stop,
        usage: TokenUsage { prompt: 50, cached: 0, completion: 10 },
        confidence: Score::new(0.9),
        confidence_min: Score::new(0.8),
        think_ms: 1.0,
    }
}

/// An agent with its clock, its ids and all that it ever emitted.
struct World {
    config: KindConfig,
    state: AgentState,
    now: Timestamp,
    ids: SeededIds,
    events: Vec<Event>,
}

impl World {
    fn new() -> Self {
        let config = config();
        let agent = AgentId::new("clerk-0").unwrap();
        Self {
            state: AgentState::new(agent, config.kind.clone(), TenantId::default()),
            config,
            now: DateTime::from_timestamp(1_700_000_000, 0).unwrap(),
            ids: SeededIds::new(1),
            events: Vec::new(),
        }
    }

    /// Decides, and checks that the events fold to what was decided.
    fn give(&mut self, command: Command) -> usize {
        self.now += TimeDelta::milliseconds(1);
        let context =
            Context { now: self.now, ids: &mut self.ids, config: &self.config, source: "/test".into() };
        let decision = decide(&self.state, command, context);
        let mut folded = self.state.clone();
        for event in &decision.events {
            if let Payload::Agent(agent_event) = &event.payload {
                assert_eq!(event.envelope.sequence, Some(folded.sequence + 1));
                if let AgentEvent::CheckpointTaken(checkpoint) = &**agent_event {
                    assert_eq!(checkpoint.state_hash, folded.hash());
                }
                folded.apply(agent_event);
            } else {
                assert_eq!(event.envelope.sequence, None);
            }
        }
        assert_eq!(folded, decision.state);
        self.state = decision.state;
        let count = decision.events.len();
        self.events.extend(decision.events);
        count
    }

    /// The answer to what the agent waits for, chosen by `dice`; nothing where it waits for nothing.
    fn answer(&mut self, dice: u8) -> Option<Command> {
        Some(match self.state.open_effect()? {
            Effect::Timer { at } => Command::TimerDue { at },
            Effect::Think { effect, attempt, .. } => {
                let call = |tool: &str| {
                    let tool = ToolName::new(tool).unwrap();
                    Action::Call(ActionCall { tool, args: json!({"n": dice % 3}) })
                };
                let outcome = match dice % 8 {
                    0 => ThinkOutcome::Failed { tier: ErrorTier::Transient, error: "engine".to_owned() },
                    1 => ThinkOutcome::Failed { tier: ErrorTier::Fatal, error: "too long".to_owned() },
                    2 => ThinkOutcome::Answered {
                        completion: completion("nonsense".to_owned()),
                        queue_ms: 0.0,
                    },
                    3 => {
                        let text = decision_text("done", &Action::Finish { answer: "yes".to_owned() });
                        ThinkOutcome::Answered { completion: completion(text), queue_ms: 0.0 }
                    }
                    other => {
                        let tool = ["look", "pay", "book", "book"][usize::from(other - 4)];
                        let text = decision_text("go on", &call(tool));
                        ThinkOutcome::Answered { completion: completion(text), queue_ms: 0.0 }
                    }
                };
                Command::ThinkDone { effect, attempt, outcome }
            }
            Effect::Call(open) => {
                let outcome = match dice % 5 {
                    0 => ActionOutcome::Failed { tier: ErrorTier::Transient, error: "busy".to_owned() },
                    1 => ActionOutcome::Failed { tier: ErrorTier::Recoverable, error: "no".to_owned() },
                    2 => ActionOutcome::Failed { tier: ErrorTier::Fatal, error: "401".to_owned() },
                    _ => ActionOutcome::Answered { output: r#"{"ok":true}"#.into() },
                };
                Command::ActionDone { effect: open.effect, attempt: open.attempt, outcome, tool_ms: 2.0 }
            }
        })
    }

    /// A plan for a loop that the step under way shows.
    fn plan_for_loop(&mut self, action: RecoveryAction, health: f64) -> Command {
        let Command::Recover { mut plan, planned_at } = self.plan(action) else { panic!("no plan") };
        plan.fault_type = FaultType::Loop;
        plan.health_before = Some(Score::new(health));
        Command::Recover { plan, planned_at }
    }

    fn phases(&self) -> Vec<RecoveryPhase> {
        let recoveries = self.events.iter().filter_map(|event| match &event.payload {
            Payload::Recovery(recovery) => Some(recovery.phase),
            _ => None,
        });
        recoveries.collect()
    }

    fn plan(&mut self, action: RecoveryAction) -> Command {
        let (goal, step) =
            self.state.run.as_ref().map_or((None, 0), |run| (Some(run.goal_id.clone()), run.step));
        Command::Recover {
            plan: Box::new(Recovery {
                recovery: RecoveryId::new(&mut self.ids),
                diagnosis: DiagnosisId::from_uuid(self.ids.next_uuid()),
                agent: Subject::Agent(self.state.agent.clone()),
                goal,
                phase: RecoveryPhase::Planned,
                action,
                rung: None,
                parameters: serde_json::Map::new(),
                policy: None,
                attempt: 1,
                mode: Mode::Act,
                health_before: None,
                health_after: None,
                state_before: None,
                state_after: None,
                duration_ms: None,
                outcome: None,
                sequence: self.state.sequence,
                step,
                fault_type: FaultType::ToolFailure,
            }),
            planned_at: self.now,
        }
    }

    fn results(&self) -> BTreeMap<GoalId, Vec<GoalStatus>> {
        let mut results: BTreeMap<GoalId, Vec<GoalStatus>> = BTreeMap::new();
        for event in &self.events {
            if let Payload::Result(result) = &event.payload {
                results.entry(result.goal.clone()).or_default().push(result.status);
            }
        }
        results
    }
}

const ACTIONS: [RecoveryAction; 10] = [
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
                6 if detail > 250 => Command::Quarantine { reason: "test".to_owned() },
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
        prop_assert_eq!(results.len(), usize::from(accepted));
        prop_assert!(results.values().all(|statuses| statuses.len() == 1));
    }
}
