//! What a model answered, how sure it measurably is, and whether that changes the rules' finding.

use kintsugi_events::{Diagnosis, FaultType, RecoveryAction};
use kintsugi_types::Score;
use serde::Deserialize;

use crate::symptom::Symptom;

/// Who made a diagnosis for which the model was asked.
pub const DIAGNOSED_BY_MODEL: &str = "model";

/// Who made a diagnosis by what the model answered to the same symptom before.
pub const DIAGNOSED_BY_CACHE: &str = "cache";

/// The most opinions that are kept. At the bound the one that was used least recently goes.
pub const OPINIONS_MAX: usize = 256;

/// Why an answer cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("its answer cannot be read: {reason}")]
pub struct Unreadable {
    reason: String,
}

impl Unreadable {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

impl From<serde_json::Error> for Unreadable {
    fn from(error: serde_json::Error) -> Self {
        // Without the place in the text, which is one line: the reason of two such failures shall be the same.
        Self::new(if error.is_eof() { "it is cut".to_owned() } else { error.to_string() })
    }
}

/// What a model chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// What is wrong.
    #[serde(rename = "fault_type")]
    pub fault: FaultType,
    /// What to do.
    #[serde(rename = "recommended_action")]
    pub action: RecoveryAction,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CauseText {
    root_cause: String,
}

pub(crate) fn read_choice(answer: &str) -> Result<Choice, Unreadable> {
    Ok(serde_json::from_str(answer)?)
}

/// The cause in one line, for it stands in lists.
pub(crate) fn read_cause(answer: &str) -> Result<String, Unreadable> {
    let CauseText { root_cause } = serde_json::from_str(answer)?;
    let words: Vec<&str> =
        root_cause.split(|letter: char| letter.is_whitespace() || letter.is_control()).collect();
    let line = words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    if line.is_empty() {
        return Err(Unreadable::new("the cause is empty"));
    }
    Ok(line)
}

/// What a model thinks of a symptom.
#[derive(Debug, Clone, PartialEq)]
pub struct Opinion {
    /// What it chose.
    pub choice: Choice,
    /// The probability of the least probable token that it had a choice about when it chose. Whoever draws one of two
    /// equal faults and then writes down the rest without doubt is not sure: a mean over the tokens would hide that.
    pub confidence: Score,
    /// Why; missing where it was not asked, because it is not surer than the rules.
    pub cause: Option<String>,
}

impl Opinion {
    /// Why it thinks so, where it is surer than `rules`.
    fn surer_than(&self, rules: &Diagnosis) -> Option<&str> {
        self.cause.as_deref().filter(|_| self.confidence > rules.confidence)
    }

    fn in_words(&self) -> String {
        let Choice { fault, action } = self.choice;
        format!("{} and {} ({:.2} sure)", fault.name(), action.name(), self.confidence.get())
    }
}

/// What was heard when the rules were not sure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Heard<'a> {
    /// The model's answer.
    Answer(&'a Opinion),
    /// Its answer to the same symptom, earlier.
    Before(&'a Opinion),
    /// No answer, and why: goes on from "the model".
    Nothing(&'a str),
}

impl Heard<'_> {
    /// The diagnosis where the rules found `rules`: the model's finding if that is surer, else the rules'. Its reasoning
    /// says what was asked and heard.
    pub fn settle(self, rules: Diagnosis) -> Diagnosis {
        let ours = format!(
            "the rules say {} and {} ({:.2} sure)",
            rules.fault_type.name(),
            rules.recommended_action.name(),
            rules.confidence.get()
        );
        let (opinion, asked, by) = match self {
            Self::Answer(opinion) => (opinion, "asked", DIAGNOSED_BY_MODEL),
            Self::Before(opinion) => (opinion, "asked about the same symptom before", DIAGNOSED_BY_CACHE),
            Self::Nothing(why) => {
                let reasoning = format!("{}; {ours}; the model {why}", rules.reasoning);
                return Diagnosis { reasoning, ..rules };
            }
        };
        let theirs = format!("the model, {asked}, says {}", opinion.in_words());
        let Some(cause) = opinion.surer_than(&rules) else {
            let reasoning = format!("{}; {ours}; {theirs}, which is not surer", rules.reasoning);
            return Diagnosis { reasoning, ..rules };
        };
        Diagnosis {
            fault_type: opinion.choice.fault,
            root_cause: cause.to_owned(),
            recommended_action: opinion.choice.action,
            recoverable: opinion.choice.action != RecoveryAction::NotifyHuman,
            confidence: opinion.confidence,
            diagnosed_by: by.to_owned(),
            reasoning: format!("{}; {ours}; {theirs}", rules.reasoning),
            ..rules
        }
    }
}

/// What the model thought of symptoms before: [`OPINIONS_MAX`] at most.
#[derive(Debug, Clone, Default)]
pub struct Opinions {
    /// Most recently used last; so few that walking them costs nothing beside asking.
    known: Vec<(Symptom, Opinion)>,
}

impl Opinions {
    /// What the model thought of `symptom`, which is used now.
    pub fn get(&mut self, symptom: &Symptom) -> Option<&Opinion> {
        let at = self.known.iter().position(|(known, _)| known == symptom)?;
        let entry = self.known.remove(at);
        self.known.push(entry);
        self.known.last().map(|(_, opinion)| opinion)
    }

    /// Whether the model was asked about `symptom`, without using it.
    pub fn has(&self, symptom: &Symptom) -> bool {
        self.known.iter().any(|(known, _)| known == symptom)
    }

    /// Remembers what the model thinks of `symptom`.
    pub fn put(&mut self, symptom: Symptom, opinion: Opinion) {
        self.known.retain(|(known, _)| *known != symptom);
        if self.known.len() >= OPINIONS_MAX {
            self.known.remove(0);
        }
        self.known.push((symptom, opinion));
    }
}
