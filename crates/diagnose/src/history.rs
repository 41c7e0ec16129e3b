//! What was seen before, of whom, within which goal.

use kintsugi_events::{Anomaly, AnomalyKind, Subject};
use kintsugi_types::{Bounded, GoalId, Timestamp};
use serde::{Deserialize, Serialize};

/// How many subjects are remembered. At the bound the eighth that was well for longest is forgotten.
pub const SUBJECTS_MAX: usize = 16_384;

/// How often each kind of anomaly was told of each subject in its goal.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    subjects: Bounded<Subject, Seen>,
}

/// One subject's anomalies in one goal.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Seen {
    goal: Option<GoalId>,
    /// At most one entry a kind.
    counts: Vec<(AnomalyKind, u32)>,
}

impl History {
    /// How many of `anomaly`'s kind came before it, of the same subject in the same goal.
    pub fn earlier(&self, anomaly: &Anomaly) -> u32 {
        let seen = self.subjects.get(&anomaly.agent).filter(|seen| seen.goal == anomaly.goal);
        let counted = seen.and_then(|seen| seen.counts.iter().find(|(kind, _)| *kind == anomaly.kind));
        counted.map_or(0, |(_, count)| *count)
    }

    /// Takes in an anomaly and returns how many of its kind came before it, of the same subject in the same goal.
    pub fn note(&mut self, anomaly: &Anomaly, now: Timestamp) -> u32 {
        let seen = self.subjects.touch(&anomaly.agent, now, SUBJECTS_MAX, Seen::default);
        if seen.goal != anomaly.goal {
            *seen = Seen { goal: anomaly.goal.clone(), counts: Vec::new() };
        }
        if let Some((_, count)) = seen.counts.iter_mut().find(|(kind, _)| *kind == anomaly.kind) {
            *count = count.saturating_add(1);
            *count - 1
        } else {
            seen.counts.push((anomaly.kind, 1));
            0
        }
    }
}
