//! The settings of the diagnosis by the model.

use std::time::Duration;

use kintsugi_runtime::AskSettings;
use kintsugi_types::Score;
use serde::{Deserialize, Serialize};

/// When the model is asked for a diagnosis.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ByModel {
    /// Never: the rules alone diagnose.
    #[default]
    Off,
    /// Where the rules are not sure.
    Unsure,
}

impl ByModel {
    /// Its name in settings.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Unsure => "unsure",
        }
    }
}

/// How anomalies are diagnosed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DiagnoseSettings {
    /// When the model is asked.
    pub(crate) by_model: ByModel,
    /// The rules are not sure where they are less sure than this.
    pub(crate) ask_below: f64,
    /// So long after an anomaly was found its diagnosis waits for the model, at most, in milliseconds.
    pub(crate) deadline_ms: u64,
    /// The most tokens of each of the model's two answers.
    pub(crate) tokens_max: u32,
}

impl Default for DiagnoseSettings {
    fn default() -> Self {
        Self { by_model: ByModel::default(), ask_below: 0.7, deadline_ms: 5_000, tokens_max: 96 }
    }
}

impl DiagnoseSettings {
    /// What a node goes by; nothing where the model is not asked.
    pub(crate) fn ask(&self) -> Option<AskSettings> {
        (self.by_model == ByModel::Unsure).then(|| AskSettings {
            below: Score::new(self.ask_below),
            deadline: Duration::from_millis(self.deadline_ms),
            tokens_max: self.tokens_max,
        })
    }

    /// What has to hold of each number: its key, the number, whether it does, and what it must be.
    pub(crate) fn facts(&self) -> [(&'static str, f64, bool, &'static str); 3] {
        let Self { by_model: _, ask_below, deadline_ms, tokens_max } = *self;
        [
            ("healing.diagnose.ask_below", ask_below, (0.0..=1.0).contains(&ask_below), "between 0 and 1"),
            (
                "healing.diagnose.deadline_ms",
                deadline_ms as f64,
                (1..=60_000).contains(&deadline_ms),
                "between 1 and 60000",
            ),
            (
                "healing.diagnose.tokens_max",
                f64::from(tokens_max),
                (16..=1_024).contains(&tokens_max),
                "between 16 and 1024",
            ),
        ]
    }
}
