//! An agent with its clock and its ids, and whatever answers it gets.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta};
use kintsugi_agent::prompt::{Action, decision_text};
use kintsugi_agent::{
    ActionOutcome, AgentState, Command, Context, Effect, KindConfig, Limits, OpenCall, Prices, ThinkOutcome,
    decide,
};
use kintsugi_events::health::HealthThresholds;
use kintsugi_events::{
    ActionCall, AgentEvent, Event, FaultType, Goal, GoalStatus, Metric, Mode, Payload, Recovery,
    RecoveryAction, RecoveryPhase, Subject,
};
use kintsugi_types::{
    AgentId, AgentKind, Completion, DiagnosisId, ErrorTier, FinishReason, GoalId, IdSource, RecoveryId,
    Score, SeededIds, TenantId, Timestamp, TokenUsage, ToolName, ToolSafety, ToolSpec,
};
use serde_json::json;

pub(crate) fn config() -> KindConfig {
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
        population: 3,
        context_tokens: 1024,
        smaller: None,
    }
}

pub(crate) fn goal(number: u8) -> Arc<Goal> {
    let mut goal: Goal = serde_json::from_value(json!({"text": "do it"})).unwrap();
    goal.id = Some(GoalId::new(format!("goal-{number}")).unwrap());
    Arc::new(goal)
}

pub(crate) fn completion(text: String) -> Completion {
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
pub(crate) struct World {
    pub(crate) config: KindConfig,
    pub(crate) state: AgentState,
    pub(crate) now: Timestamp,
    pub(crate) ids: SeededIds,
    pub(crate) events: Vec<Event>,
}

impl World {
    pub(crate) fn new() -> Self {
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
    pub(crate) fn give(&mut self, command: Command) -> usize {
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
    pub(crate) fn answer(&mut self, dice: u8) -> Option<Command> {
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
                        contradictions: 0,
                        model: None,
                    },
                    3 => {
                        let text = decision_text("done", &Action::Finish { answer: "yes".to_owned() });
                        ThinkOutcome::Answered {
                            completion: completion(text),
                            queue_ms: 0.0,
                            contradictions: 0,
                            model: None,
                        }
                    }
                    other => {
                        let tool = ["look", "pay", "book", "book"][usize::from(other - 4)];
                        let text = decision_text("go on", &call(tool));
                        ThinkOutcome::Answered {
                            completion: completion(text),
                            queue_ms: 0.0,
                            contradictions: 0,
                            model: None,
                        }
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
    pub(crate) fn plan_for_loop(&mut self, action: RecoveryAction, health: f64) -> Command {
        let Command::Recover { mut plan, planned_at } = self.plan(action) else { panic!("no plan") };
        plan.fault_type = FaultType::Loop;
        plan.health_before = Some(Score::new(health));
        Command::Recover { plan, planned_at }
    }

    /// A plan that counts as failed from now on.
    pub(crate) fn overdue(&self, plan: Command) -> Command {
        let Command::Recover { mut plan, planned_at } = plan else { panic!("no plan") };
        plan.parameters.insert(Recovery::DEADLINE.to_owned(), self.now.to_rfc3339().into());
        Command::Recover { plan, planned_at }
    }

    /// Works a goal that was handed over, from a state of its own.
    pub(crate) fn taking(goal: Goal) -> Self {
        let mut world = Self::new();
        world.give(Command::AcceptGoal { goal: goal.into() });
        world.give(Command::StartGoal { seed: 8 });
        world
    }

    /// The newest metric.
    pub(crate) fn last_metric(&self) -> &Metric {
        let mut metrics = self.events.iter().filter_map(|event| match &event.payload {
            Payload::Metric(metric) => Some(&**metric),
            _ => None,
        });
        metrics.next_back().unwrap()
    }

    /// The call that the agent waits for.
    pub(crate) fn open_call(&self) -> OpenCall {
        match self.state.open_effect() {
            Some(Effect::Call(open)) => open,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn phases(&self) -> Vec<RecoveryPhase> {
        let recoveries = self.events.iter().filter_map(|event| match &event.payload {
            Payload::Recovery(recovery) => Some(recovery.phase),
            _ => None,
        });
        recoveries.collect()
    }

    pub(crate) fn plan(&mut self, action: RecoveryAction) -> Command {
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

    pub(crate) fn results(&self) -> BTreeMap<GoalId, Vec<GoalStatus>> {
        let mut results: BTreeMap<GoalId, Vec<GoalStatus>> = BTreeMap::new();
        for event in &self.events {
            if let Payload::Result(result) = &event.payload {
                results.entry(result.goal.clone()).or_default().push(result.status);
            }
        }
        results
    }

    /// The goals that went to other agents, as they went.
    pub(crate) fn handed_over(&self) -> Vec<Goal> {
        let goals = self.events.iter().filter_map(|event| match &event.payload {
            Payload::Goal(goal) => Some((**goal).clone()),
            _ => None,
        });
        goals.collect()
    }

    /// Gives the answers that these dice choose, one after the other.
    pub(crate) fn answer_all(&mut self, dice: &[u8]) {
        for dice in dice {
            let answer = self.answer(*dice).unwrap();
            self.give(answer);
        }
    }
}
