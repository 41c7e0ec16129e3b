//! The prompt of a step and the grammar of its answer.
//!
//! The same assembly serves agents at work and the traces that the shipped model is trained on. It only ever
//! appends while a goal goes on, so that keys and values of earlier steps stay valid.

use std::fmt::Write as _;
use std::sync::Arc;

use kintsugi_events::{ActionCall, Goal};
use kintsugi_types::{Grammar, Message, Role, ToolName, ToolSpec};
use serde_json::{Map, Value, json};

/// The built-in action that ends a goal with an answer.
pub const FINISH: &str = "finish";

/// The longest thought that the grammar lets through, in characters.
pub const THOUGHT_CHARS_MAX: usize = 120;

/// The longest answer that the grammar lets through, in characters.
pub const ANSWER_CHARS_MAX: usize = 400;

/// The longest thought of an agent on lighter work, in characters.
pub const PLAIN_THOUGHT_CHARS_MAX: usize = 60;

/// The longest answer of an agent on lighter work, in characters.
pub const PLAIN_ANSWER_CHARS_MAX: usize = 200;

/// What the model wants to do in a step.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Call a tool.
    Call(ActionCall),
    /// End the goal with this answer.
    Finish {
        /// The answer.
        answer: String,
    },
}

/// A model's answer, read.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Why it does what it does.
    pub thought: String,
    /// What it does.
    pub action: Action,
}

/// Why a model's answer is no decision.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecisionError {
    /// Not JSON, or not of the form.
    #[error("is no decision: {reason}")]
    Malformed {
        /// What is wrong.
        reason: String,
    },
    /// The action is no tool of this agent.
    #[error("there is no tool {tool:?}")]
    UnknownTool {
        /// The name that the model gave.
        tool: String,
    },
}

/// The system message: the kind's instructions and one line a tool.
pub fn system_message(instructions: &str, tools: &[ToolSpec]) -> Message {
    let mut content = instructions.trim().to_owned();
    content.push_str("\nTools:");
    for tool in tools {
        // Writing to a String cannot fail.
        let _ =
            write!(content, "\n{}({}): {}", tool.name, parameter_names(&tool.parameters), tool.description);
    }
    let _ = write!(content, "\n{FINISH}(answer): end with this answer");
    Message::new(Role::System, content)
}

fn parameter_names(parameters: &Value) -> String {
    let names = parameters.get("properties").and_then(Value::as_object);
    names.map(|names| names.keys().map(String::as_str).collect::<Vec<_>>().join(", ")).unwrap_or_default()
}

/// The goal's message: its inputs, one a line in the order given, then its text.
pub fn goal_message(goal: &Goal) -> Message {
    let mut content = String::with_capacity(goal.text.len() + 64);
    for (name, value) in &goal.input {
        let _ = match value {
            Value::String(text) => writeln!(content, "{name}: {text}"),
            other => writeln!(content, "{name}: {other}"),
        };
    }
    content.push_str(goal.text.trim());
    Message::new(Role::User, content)
}

/// A decision as the grammar writes it: compact JSON with the members in this order.
pub fn decision_text(thought: &str, action: &Action) -> String {
    let (name, args) = match action {
        Action::Call(call) => (call.tool.as_str(), call.args.clone()),
        Action::Finish { answer } => (FINISH, json!({ "answer": answer })),
    };
    format!(r#"{{"thought":{},"action":{},"args":{args}}}"#, Value::from(thought), Value::from(name))
}

/// Reads a model's answer. `tools` are those that the agent has.
pub fn read_decision(text: &str, tools: &[ToolSpec]) -> Result<Decision, DecisionError> {
    let malformed = |reason: &str| DecisionError::Malformed { reason: reason.to_owned() };
    let document: Map<String, Value> =
        serde_json::from_str(text).map_err(|error| malformed(&error.to_string()))?;
    let thought = document.get("thought").and_then(Value::as_str).unwrap_or_default().to_owned();
    let name =
        document.get("action").and_then(Value::as_str).ok_or_else(|| malformed("has no member `action`"))?;
    let args = document.get("args").cloned().unwrap_or_else(|| json!({}));
    if !args.is_object() {
        return Err(malformed("member `args` is no object"));
    }
    if name == FINISH {
        let answer = args
            .get("answer")
            .and_then(Value::as_str)
            .ok_or_else(|| malformed("`finish` without an answer"))?;
        return Ok(Decision { thought, action: Action::Finish { answer: answer.to_owned() } });
    }
    let unknown = || DecisionError::UnknownTool { tool: name.to_owned() };
    if !tools.iter().any(|tool| tool.name.as_str() == name) {
        return Err(unknown());
    }
    let tool = ToolName::new(name).map_err(|_| unknown())?;
    Ok(Decision { thought, action: Action::Call(ActionCall { tool, args }) })
}

/// The grammar of a step's answer: a thought, then one of `tools` with arguments of its schema, or `finish`.
pub fn decision_grammar(tools: &[ToolSpec]) -> Grammar {
    grammar(tools, THOUGHT_CHARS_MAX, ANSWER_CHARS_MAX)
}

/// The same with less room for words, for an agent on lighter work.
pub fn plain_decision_grammar(tools: &[ToolSpec]) -> Grammar {
    grammar(tools, PLAIN_THOUGHT_CHARS_MAX, PLAIN_ANSWER_CHARS_MAX)
}

fn grammar(tools: &[ToolSpec], thought_chars_max: usize, answer_chars_max: usize) -> Grammar {
    let branch = |name: &str, args: Value| {
        json!({
            "type": "object",
            "properties": {
                "thought": {"type": "string", "maxLength": thought_chars_max},
                "action": {"const": name},
                "args": args,
            },
            "required": ["thought", "action", "args"],
            "additionalProperties": false,
        })
    };
    let finish = json!({
        "type": "object",
        "properties": {"answer": {"type": "string", "maxLength": answer_chars_max}},
        "required": ["answer"],
        "additionalProperties": false,
    });
    let branches: Vec<Value> = tools
        .iter()
        .map(|tool| branch(tool.name.as_str(), tool.parameters.clone()))
        .chain(std::iter::once(branch(FINISH, finish)))
        .collect();
    Grammar::JsonSchema(Arc::from(json!({ "anyOf": branches }).to_string()))
}
