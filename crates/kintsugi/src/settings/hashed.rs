//! What of the settings makes a configuration: what unfinished work goes by, and may not be changed under it.

use kintsugi_agent::Prices;
use kintsugi_events::Mode;
use kintsugi_events::health::HealthThresholds;
use kintsugi_monitor::MonitorSettings;
use serde::Serialize;

use super::{
    HealingSettings, HttpSettings, KafkaSettings, ModelSettings, NodeSettings, Settings, StageSettings,
};
use crate::diagnose_settings::DiagnoseSettings;

/// The settings as they are hashed. A section that a later version brings is left out where nobody set it, so that
/// what an earlier one began can be gone on with.
#[derive(Serialize)]
struct Hashed<'a> {
    node: &'a NodeSettings,
    model: &'a ModelSettings,
    healing: HashedHealing<'a>,
    stages: StageSettings,
    prices: &'a Prices,
    http: HttpSettings,
    kafka: &'a KafkaSettings,
}

#[derive(Serialize)]
struct HashedHealing<'a> {
    mode: &'a Mode,
    thresholds: &'a HealthThresholds,
    monitor: &'a MonitorSettings,
    #[serde(skip_serializing_if = "Option::is_none")]
    diagnose: Option<&'a DiagnoseSettings>,
}

impl Settings {
    /// What of them makes a configuration, as text.
    pub(crate) fn hashed_text(&self) -> Result<String, toml::ser::Error> {
        // How long a log is kept changes nothing about the work.
        let Self { node, model, healing, stages, prices, http: _, log: _, kafka } = self;
        let HealingSettings { mode, thresholds, monitor, diagnose } = healing;
        let diagnose = Some(diagnose).filter(|diagnose| **diagnose != DiagnoseSettings::default());
        toml::to_string(&Hashed {
            node,
            model,
            healing: HashedHealing { mode, thresholds, monitor, diagnose },
            stages: *stages,
            prices,
            // Where a node listens is no part of what its agents are. The section stands there for the sake of what
            // was begun with it.
            http: HttpSettings::default(),
            kafka,
        })
    }
}

#[cfg(test)]
mod tests {
    use toml::{Table, Value};

    use super::*;

    fn hashed(text: &str) -> String {
        toml::from_str::<Settings>(text).unwrap().hashed_text().unwrap()
    }

    #[test]
    fn settings_that_nobody_changed_make_the_configuration_of_before_there_were_any() {
        let mut before = Table::try_from(Settings::default()).unwrap();
        before.remove("log").unwrap();
        before.get_mut("healing").and_then(Value::as_table_mut).unwrap().remove("diagnose").unwrap();
        let text = hashed("");
        assert_eq!(toml::from_str::<Table>(&text).unwrap(), before);
        let at_their_defaults =
            "[log]\nretention_hours = 168\n[healing.diagnose]\nask_below = 0.7\ndeadline_ms = 5000\n";
        assert_eq!(hashed(at_their_defaults), text);
    }

    #[test]
    fn what_agents_go_by_makes_another_configuration_and_nothing_else_does() {
        let text = hashed("");
        for same in ["[log]\nretention_hours = 1\n", "[http]\nlisten = \"127.0.0.1:0\"\n"] {
            assert_eq!(hashed(same), text, "{same}");
        }
        for other in ["[healing.diagnose]\nby_model = \"unsure\"\n", "[node]\nseed = 8\n"] {
            assert_ne!(hashed(other), text, "{other}");
        }
    }
}
