//! Events about the running of the system itself: approvals, snapshots, dead letters.

use kintsugi_types::{AgentId, EffectId, GoalId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// What a person said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names say all there is")]
pub enum ApprovalDecision {
    Approved,
    Denied,
}

/// A question to a person, or its answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Approval {
    /// Who asks.
    pub agent: AgentId,
    /// The goal being worked.
    pub goal: Option<GoalId>,
    /// The effect in question, where there is one.
    pub effect: Option<EffectId>,
    /// The question.
    pub question: String,
    /// The answer; missing while it is asked.
    pub decision: Option<ApprovalDecision>,
    /// Who answered.
    pub decided_by: Option<String>,
}

/// An agent's or a stage's folded state at a sequence.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Snapshot {
    /// Whose state: an agent's id, or `stage:NAME`.
    pub of: String,
    /// Version of the state's form.
    pub version: u32,
    /// The last journal event that is folded in.
    pub sequence: u64,
    /// The state as JSON.
    pub state: Box<RawValue>,
}

impl PartialEq for Snapshot {
    fn eq(&self, other: &Self) -> bool {
        self.of == other.of
            && self.version == other.version
            && self.sequence == other.sequence
            && self.state.get() == other.state.get()
    }
}

impl JsonSchema for Snapshot {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Snapshot".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "object",
            "description": "An agent's or a stage's folded state at a sequence.",
            "required": ["of", "version", "sequence", "state"],
            "properties": {
                "of": {"type": "string"},
                "version": {"type": "integer", "minimum": 0},
                "sequence": {"type": "integer", "minimum": 0},
                "state": {"type": "object"},
            },
        })
    }
}

/// The most bytes of an original that a dead letter keeps.
pub const DEAD_LETTER_BYTES_MAX: usize = 256 * 1024;

/// Input that could not be taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DeadLetter {
    /// Why, and what to do about it.
    pub reason: String,
    /// The topic that it came from.
    pub source_topic: String,
    /// The partition that it came from.
    pub source_partition: u32,
    /// Its offset there; missing where it was refused before it had one.
    pub source_offset: Option<u64>,
    /// The first [`DEAD_LETTER_BYTES_MAX`] bytes, as text where they are UTF-8, else in base 16.
    pub original: String,
    /// Whether `original` is in base 16.
    pub original_is_hex: bool,
    /// How long the original was, in bytes.
    pub original_bytes: u64,
}

impl DeadLetter {
    /// A dead letter for `original` from a place in a topic.
    pub fn new(reason: impl Into<String>, source: (crate::Topic, u32, Option<u64>), original: &[u8]) -> Self {
        let (source_topic, source_partition, source_offset) = source;
        let kept = original.get(..DEAD_LETTER_BYTES_MAX).unwrap_or(original);
        let (text, original_is_hex) = match std::str::from_utf8(kept) {
            Ok(text) => (text.to_owned(), false),
            // A cut in the middle of a character leaves valid text before it.
            Err(error) if error.error_len().is_none() => {
                let valid = kept.get(..error.valid_up_to()).unwrap_or_default();
                (String::from_utf8_lossy(valid).into_owned(), false)
            }
            Err(_) => (to_hex(kept), true),
        };
        Self {
            reason: reason.into(),
            source_topic: source_topic.name().to_owned(),
            source_partition,
            source_offset,
            original: text,
            original_is_hex,
            original_bytes: original.len() as u64,
        }
    }
}

fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Topic;

    #[test]
    fn a_dead_letter_keeps_bytes_that_are_no_text_in_hex() {
        let letter = DeadLetter::new("not JSON", (Topic::Goals, 3, Some(17)), &[0xff, 0x00]);
        assert_eq!((letter.original.as_str(), letter.original_is_hex), ("ff00", true));
    }

    #[test]
    fn a_dead_letter_is_bounded_and_says_how_long_the_original_was() {
        let letter = DeadLetter::new("too long", (Topic::Goals, 0, None), "ä".repeat(200_000).as_bytes());
        assert!(letter.original.len() <= DEAD_LETTER_BYTES_MAX && !letter.original_is_hex);
        assert_eq!(letter.original_bytes, 400_000);
    }
}
