//! Metrics in, anomalies out.

use kintsugi_events::{Event, Payload};
use kintsugi_monitor::{Monitor, MonitorSettings, MonitorState};
use kintsugi_types::{DerivedIds, Timestamp};
use serde_json::value::{RawValue, to_raw_value};

use crate::config::StageName;
use crate::stage::Stage;

/// The monitor as a stage.
pub(crate) struct MonitorStage {
    settings: MonitorSettings,
    monitor: Monitor,
}

impl MonitorStage {
    /// A monitor that has seen nothing.
    pub(crate) fn new(settings: MonitorSettings) -> Self {
        Self { monitor: Monitor::new(settings), settings }
    }
}

impl Stage for MonitorStage {
    const NAME: StageName = StageName::Monitor;

    fn consume(&mut self, event: &Event, ids: &mut DerivedIds) -> Vec<Payload> {
        let Payload::Metric(metric) = &event.payload else { return Vec::new() };
        let found = self.monitor.observe(metric, event.envelope.time, ids);
        found.into_iter().map(|anomaly| Payload::Anomaly(Box::new(anomaly))).collect()
    }

    fn tick(&mut self, _: Timestamp) -> Vec<Payload> {
        Vec::new()
    }

    fn save(&self) -> serde_json::Result<Box<RawValue>> {
        to_raw_value(self.monitor.state())
    }

    fn load(&mut self, state: &RawValue) -> serde_json::Result<()> {
        let state: MonitorState = serde_json::from_str(state.get())?;
        self.monitor = Monitor::restore(self.settings, state);
        Ok(())
    }
}
