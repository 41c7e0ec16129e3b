//! Work that takes no time of its own: an instant model that calls an instant tool so many times.

use std::sync::Arc;

use anyhow::Result;
use kintsugi_agent::prompt::{Action, decision_text};
use kintsugi_events::{ActionCall, Goal};
use kintsugi_tools::{Registry, Tool, ToolCall, ToolError, ToolOutput};
use kintsugi_types::{CompletionRequest, GoalId, Role, ToolName, ToolSafety, ToolSpec};
use serde_json::json;

struct Instantly<F> {
    spec: ToolSpec,
    on_call: F,
}

impl<F> std::fmt::Debug for Instantly<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Instantly")
    }
}

impl<F: Fn(&ToolCall) + Send + Sync> Tool for Instantly<F> {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn call(&self, call: &ToolCall) -> Result<ToolOutput, ToolError> {
        (self.on_call)(call);
        Ok(ToolOutput { text: r#"{"done":true}"#.to_owned(), truncated: false })
    }
}

/// The tool, which tells `on_call` of each call.
pub(crate) fn registry(on_call: impl Fn(&ToolCall) + Send + Sync + 'static) -> Result<Registry> {
    let spec = ToolSpec {
        name: ToolName::new("act")?,
        description: "do it".to_owned(),
        parameters: json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}),
        safety: ToolSafety::Keyed,
    };
    let mut registry = Registry::default();
    registry.insert(Arc::new(Instantly { spec, on_call })).map_err(anyhow::Error::msg)?;
    Ok(registry)
}

/// What the model answers in a run of `steps` steps, the last of which finishes.
pub(crate) fn answer(steps: usize, tool: &ToolName, request: &CompletionRequest) -> String {
    let said = request.messages.iter().filter(|message| message.role == Role::Assistant).count();
    let action = if said + 1 < steps {
        Action::Call(ActionCall { tool: tool.clone(), args: json!({ "n": said }) })
    } else {
        Action::Finish { answer: "done".to_owned() }
    };
    decision_text(&format!("step {said} of the work"), &action)
}

/// So many runs, whose ids begin with `name`.
pub(crate) fn runs(name: &str, count: usize) -> Result<Vec<Goal>> {
    (0..count)
        .map(|run| {
            let mut goal: Goal = serde_json::from_value(json!({"text": format!("work {run}")}))?;
            goal.id = Some(GoalId::new(format!("{name}-{run}"))?);
            Ok(goal)
        })
        .collect()
}

/// The middle one.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
