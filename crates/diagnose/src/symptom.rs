//! What makes two anomalies the same symptom, so that the answer about one serves the other.

use kintsugi_events::{Anomaly, AnomalyKind, Severity, Subject};
use kintsugi_types::ErrorTier;

use crate::rules::{RECURRENCE, error_in_words};

/// The most characters of a name or a message that tell two symptoms apart.
const CHARS_MAX: usize = 96;

/// The signature of an anomaly: what the rules look at, without the numbers.
///
/// Equal are anomalies of one kind, one metric and one severity, of the same sort of subject, with the same tool or
/// model behind them and the same error of it (its digits left out), that recur as much. Which agent, which goal,
/// which step and by how much do not count: severity says how bad it is. All that the rules go by is in it, so for
/// equal symptoms they find the same fault and are as sure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symptom {
    kind: AnomalyKind,
    metric: String,
    severity: Severity,
    subject: SubjectSort,
    recurrence: Recurrence,
    tool: Option<FailingTool>,
}

/// Of what sort a subject is. Of agents there are many, and they have their symptoms in common.
#[derive(Debug, Clone, PartialEq, Eq)]
enum SubjectSort {
    Agent,
    Tool(String),
    Model(String),
    Engine,
}

/// How often it was told of the subject in its goal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recurrence {
    First,
    Again,
    /// Often enough to be no accident, as the rules have it.
    Often,
}

/// The tool behind it, and what that says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FailingTool {
    name: String,
    ok: bool,
    tier: Option<ErrorTier>,
    error: String,
}

impl Symptom {
    /// The symptom of `anomaly`, before which `earlier` ones of its kind came.
    pub fn of(anomaly: &Anomaly, earlier: u32) -> Self {
        Self {
            kind: anomaly.kind,
            metric: cut(&anomaly.metric),
            severity: anomaly.severity,
            subject: match &anomaly.agent {
                Subject::Agent(_) => SubjectSort::Agent,
                Subject::Tool(name) => SubjectSort::Tool(cut(name.as_str())),
                Subject::Model(name) => SubjectSort::Model(cut(name.as_str())),
                Subject::Engine => SubjectSort::Engine,
            },
            recurrence: match earlier {
                0 => Recurrence::First,
                earlier if earlier < RECURRENCE - 1 => Recurrence::Again,
                _ => Recurrence::Often,
            },
            tool: anomaly.tool.as_ref().map(|tool| FailingTool {
                name: cut(tool.name.as_str()),
                ok: tool.ok,
                tier: tool.error_tier,
                error: error_in_words(tool)
                    .chars()
                    .filter(|letter| !letter.is_ascii_digit())
                    .take(CHARS_MAX)
                    .collect(),
            }),
        }
    }
}

fn cut(text: &str) -> String {
    text.chars().take(CHARS_MAX).collect()
}
