//! A scripted node with a second, smaller model, whose main one answers sensibly only who is asked for less.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use kintsugi_agent::SmallerModel;
use kintsugi_agent::prompt::{Action, decision_text};
use kintsugi_eventlog::EventLog;
use kintsugi_gpu_scheduler::scripted::{self, ScriptedShape};
use kintsugi_runtime::SmallerParts;
use kintsugi_runtime::node::NodeParts;
use kintsugi_types::{ByteCount, CompletionRequest, ModelName, Role};

use crate::scripted_node::{AGENTS, Wiring, answer, parts_with, tools};

/// What the smaller model is called.
pub const SMALLER: &str = "scripted-small";

/// Memory that the smaller model may take, beside the main one's.
pub const SMALLER_BUDGET: ByteCount = ByteCount::mib(64);

/// Tokens that an agent may be answered in that is not asked for less.
const ORDINARY_ANSWER_TOKENS: u32 = 160;

/// The script's next step, whatever a remedy made of the conversation.
pub fn sound(request: &CompletionRequest) -> String {
    let is_recorded = request
        .messages
        .iter()
        .filter(|message| message.role == Role::Tool)
        .any(|message| message.content.contains("recorded"));
    if is_recorded {
        return decision_text("all is recorded", &Action::Finish { answer: "charged".to_owned() });
    }
    answer(request)
}

/// Charges; then says nonsense, unless less is asked for.
pub fn ill_unless_light(request: &CompletionRequest) -> String {
    let has_charged = request.messages.iter().any(|message| message.role == Role::Tool);
    if has_charged && !is_light(request) { "nonsense".to_owned() } else { sound(request) }
}

/// Whether less is asked for than of an agent that is well.
pub const fn is_light(request: &CompletionRequest) -> bool {
    request.tokens_max < ORDINARY_ANSWER_TOKENS
}

/// The parts of a node whose model says nonsense after a charge unless less is asked for. No policy applies, so that
/// the cascade mends.
pub fn ill_parts(folder: &Path, log: Arc<dyn EventLog>, wiring: Wiring) -> Result<NodeParts> {
    let wiring = Wiring { without_policies: true, park_ms: Some(2_000), ..wiring };
    parts_with(folder, log, tools(folder)?, AGENTS, ill_unless_light, wiring)
}

/// The same node with a smaller model that answers by `answer`.
pub fn with_smaller(
    mut parts: NodeParts,
    answer: impl Fn(&CompletionRequest) -> String + Send + Sync + 'static,
) -> Result<NodeParts> {
    let name = ModelName::new(SMALLER)?;
    let shape =
        ScriptedShape { kv_pool: ByteCount::mib(32), kv_host: ByteCount::mib(8), ..ScriptedShape::default() };
    for kind in parts.config.kinds.values_mut() {
        let context_tokens = shape.context_tokens;
        Arc::make_mut(kind).smaller = Some(SmallerModel { name: name.clone(), context_tokens });
    }
    let mut scheduler = parts.scheduler.clone();
    scheduler.memory_budget = SMALLER_BUDGET;
    parts.smaller = Some(SmallerParts { name, scheduler, backend: scripted::shaped(shape, answer) });
    Ok(parts)
}
