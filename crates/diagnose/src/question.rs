//! What a model is asked about an anomaly, and the grammar of its answers.
//!
//! It is asked twice. First to choose, a fault and an action out of lists: the probabilities of that answer's tokens
//! measure nothing but the choice. Then, where the choice is surer than the rules are, why.

use std::fmt::Write as _;
use std::sync::Arc;

use kintsugi_events::{Anomaly, Diagnosis, FaultType, RecoveryAction, Subject};
use kintsugi_types::{CompletionRequest, Grammar, Message, Role, Sampling};
use serde_json::json;

use crate::opinion::{Choice, Unreadable, read_cause, read_choice};
use crate::rules::{error_in_words, rounded, tier_in_words};

/// The longest cause that the grammar lets through, in characters.
pub const CAUSE_CHARS_MAX: usize = 120;

/// The most characters of a metric's name that are shown.
const METRIC_CHARS_MAX: usize = 64;

/// All faults, and what each means.
const FAULTS: [(FaultType, &str); 9] = [
    (FaultType::StateDrift, "what the agent remembers is not what happened"),
    (FaultType::ToolFailure, "a tool does not work or refuses calls"),
    (FaultType::QualityDegradation, "the model's answers are unsure or poor"),
    (FaultType::Loop, "the agent repeats itself"),
    (FaultType::ContextOverflow, "the conversation takes too many tokens"),
    (FaultType::BudgetExceeded, "money, tokens, steps or time are spent"),
    (FaultType::EngineFault, "the engine that runs the model is broken"),
    (FaultType::LatencyDegradation, "steps or calls take too long"),
    (FaultType::Unknown, "none of these"),
];

/// What helps an agent in which no tool is involved.
const FOR_AGENT: [RecoveryAction; 9] = [
    RecoveryAction::Monitor,
    RecoveryAction::Retry,
    RecoveryAction::ResetState,
    RecoveryAction::PruneContext,
    RecoveryAction::ForceReplan,
    RecoveryAction::ModelDownshift,
    RecoveryAction::AgentRedistribute,
    RecoveryAction::DegradeGracefully,
    RecoveryAction::NotifyHuman,
];

/// What helps an agent with a tool.
const FOR_CALL: [RecoveryAction; 8] = [
    RecoveryAction::Monitor,
    RecoveryAction::Retry,
    RecoveryAction::RetryWithBackoff,
    RecoveryAction::RepairToolCall,
    RecoveryAction::CircuitBreaker,
    RecoveryAction::ForceReplan,
    RecoveryAction::ResetState,
    RecoveryAction::NotifyHuman,
];

/// What helps a tool that agents share.
const FOR_TOOL: [RecoveryAction; 3] =
    [RecoveryAction::Monitor, RecoveryAction::CircuitBreaker, RecoveryAction::NotifyHuman];

/// What helps the engine and its model.
const FOR_ENGINE: [RecoveryAction; 3] =
    [RecoveryAction::Monitor, RecoveryAction::RebuildEngine, RecoveryAction::NotifyHuman];

/// What an action does, for who has to choose one.
const fn meaning(action: RecoveryAction) -> &'static str {
    match action {
        RecoveryAction::Monitor => "only watch, it may pass",
        RecoveryAction::Retry => "do the step again",
        RecoveryAction::RetryWithBackoff => "call the tool again after a pause",
        RecoveryAction::ResetState => "go back to the last good step",
        RecoveryAction::PruneContext => "forget what is old",
        RecoveryAction::RepairToolCall => "let the agent correct its call",
        RecoveryAction::CircuitBreaker => "leave the tool alone until it works",
        RecoveryAction::ModelDownshift => "think less for each step",
        RecoveryAction::AgentRedistribute => "give the goal to another agent",
        RecoveryAction::DegradeGracefully => "reply simply without tools",
        RecoveryAction::CacheRollback => "go back to the last checkpoint",
        RecoveryAction::ForceReplan => "make a new plan",
        RecoveryAction::RebuildEngine => "start the engine anew",
        RecoveryAction::NotifyHuman => "nothing automatic helps, tell a person",
    }
}

/// The actions that make sense for the subject of `anomaly`.
fn actions_for(anomaly: &Anomaly) -> &'static [RecoveryAction] {
    match (&anomaly.agent, &anomaly.tool) {
        (Subject::Agent(_), None) => &FOR_AGENT,
        (Subject::Agent(_), Some(_)) => &FOR_CALL,
        (Subject::Tool(_), _) => &FOR_TOOL,
        (Subject::Model(_) | Subject::Engine, _) => &FOR_ENGINE,
    }
}

/// What a model is asked about one anomaly.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// The first begins with what is the same for all anomalies of such subjects, so that its keys and values are
    /// computed once.
    messages: Vec<Message>,
    actions: &'static [RecoveryAction],
}

impl Question {
    /// The question about `anomaly`, before which `earlier` ones of its kind came, and of which the rules found `rules`.
    pub fn of(anomaly: &Anomaly, earlier: u32, rules: &Diagnosis) -> Self {
        let actions = actions_for(anomaly);
        let messages = vec![
            Message::new(Role::System, instructions(actions)),
            Message::new(Role::User, evidence(anomaly, earlier, rules)),
        ];
        Self { messages, actions }
    }

    /// The first request: to choose.
    pub fn choice(&self, tokens_max: u32) -> CompletionRequest {
        let names = |names: Vec<&str>| json!({"enum": names});
        let schema = json!({
            "type": "object",
            "properties": {
                "fault_type": names(FAULTS.iter().map(|(fault, _)| fault.name()).collect()),
                "recommended_action": names(self.actions.iter().map(|action| action.name()).collect()),
            },
            "required": ["fault_type", "recommended_action"],
            "additionalProperties": false,
        });
        request(self.messages.clone(), &schema, tokens_max)
    }

    /// Reads the answer to [`Self::choice`].
    pub fn read_choice(&self, answer: &str) -> Result<Choice, Unreadable> {
        let choice = read_choice(answer)?;
        if self.actions.contains(&choice.action) {
            return Ok(choice);
        }
        Err(Unreadable::new(format!("{} is no action for this", choice.action.name())))
    }

    /// The second request: why, after the first was answered with `answer`.
    pub fn cause(&self, answer: &str, tokens_max: u32) -> CompletionRequest {
        let schema = json!({
            "type": "object",
            "properties": {"root_cause": {"type": "string", "minLength": 1, "maxLength": CAUSE_CHARS_MAX}},
            "required": ["root_cause"],
            "additionalProperties": false,
        });
        let mut messages = self.messages.clone();
        messages.push(Message::new(Role::Assistant, answer));
        messages.push(Message::new(Role::User, "Name the root cause in one short sentence."));
        request(messages, &schema, tokens_max)
    }

    /// Reads the answer to [`Self::cause`].
    pub fn read_cause(&self, answer: &str) -> Result<String, Unreadable> {
        read_cause(answer)
    }
}

/// The likeliest token each time: a diagnosis is no place for invention, and the same symptom shall get the same one.
fn request(messages: Vec<Message>, schema: &serde_json::Value, tokens_max: u32) -> CompletionRequest {
    CompletionRequest {
        messages,
        grammar: Grammar::JsonSchema(Arc::from(schema.to_string())),
        sampling: Sampling { temperature: 0.0, top_p: 1.0, seed: 0 },
        tokens_max,
    }
}

fn instructions(actions: &[RecoveryAction]) -> String {
    let mut text =
        "You diagnose AI agents that share a language model and tools. Given a symptom, choose what is \
                    wrong and what to do, as JSON.\nfault_type:"
            .to_owned();
    // Writing to a String cannot fail.
    for (fault, meaning) in FAULTS {
        let _ = write!(text, "\n{}: {meaning}", fault.name());
    }
    text.push_str("\nrecommended_action:");
    for action in actions {
        let _ = write!(text, "\n{}: {}", action.name(), meaning(*action));
    }
    text
}

/// What is known of the anomaly, one fact a line.
fn evidence(anomaly: &Anomaly, earlier: u32, rules: &Diagnosis) -> String {
    let Anomaly { metric, value, baseline, window, severity, .. } = anomaly;
    let subject = match &anomaly.agent {
        Subject::Agent(_) => "one agent".to_owned(),
        Subject::Tool(name) => format!("tool {name}, for all agents"),
        Subject::Model(name) => format!("model {name}, for all agents"),
        Subject::Engine => "the engine, for all agents".to_owned(),
    };
    let metric: String = metric.chars().take(METRIC_CHARS_MAX).collect();
    let mut text = format!(
        "symptom: {}, severity {}\nof: {subject}\nmetric: {metric} is {}, usual or allowed is {} (over {window})",
        anomaly.kind.name(),
        format!("{severity:?}").to_lowercase(),
        rounded(*value),
        rounded(*baseline),
    );
    if let Some(tool) = &anomaly.tool {
        let _ = if tool.ok {
            write!(text, "\ntool: {} answered on try {}", tool.name, tool.attempt)
        } else {
            let tier = tier_in_words(tool.error_tier);
            write!(
                text,
                "\ntool: {} failed on try {} ({tier}): {}",
                tool.name,
                tool.attempt,
                error_in_words(tool)
            )
        };
    }
    if anomaly.agent.agent().is_some() {
        let _ = write!(text, "\nhealth: {:.2} of 1, at step {}", anomaly.health.get(), anomaly.step);
    }
    if let Some(context_ratio) = anomaly.context_ratio {
        let _ = write!(text, "\ncontext: {:.0} % full", context_ratio * 100.0);
    }
    if earlier > 0 {
        let _ = write!(text, "\nseen before in this goal: {earlier} times");
    }
    let _ = write!(
        text,
        "\nfixed rules guess, {:.0} % sure: {}, {}",
        rules.confidence.get() * 100.0,
        rules.fault_type.name(),
        rules.recommended_action.name()
    );
    text
}
