//! Anomalies in, diagnoses out.

use kintsugi_diagnose::{History, Rules};
use kintsugi_events::{Event, Payload};
use kintsugi_types::{DerivedIds, Timestamp};
use serde_json::value::{RawValue, to_raw_value};

use crate::config::StageName;
use crate::stage::Stage;

/// The diagnoser as a stage.
#[derive(Default)]
pub(crate) struct DiagnoseStage {
    history: History,
}

impl Stage for DiagnoseStage {
    const NAME: StageName = StageName::Diagnose;

    fn consume(&mut self, event: &Event, ids: &mut DerivedIds) -> Vec<Payload> {
        let Payload::Anomaly(anomaly) = &event.payload else { return Vec::new() };
        let earlier = self.history.note(anomaly, event.envelope.time);
        let diagnosis = Rules.diagnose(anomaly, earlier, ids);
        vec![Payload::Diagnosis(Box::new(diagnosis))]
    }

    fn tick(&mut self, _: Timestamp) -> Vec<Payload> {
        Vec::new()
    }

    fn save(&self) -> serde_json::Result<Box<RawValue>> {
        to_raw_value(&self.history)
    }

    fn load(&mut self, state: &RawValue) -> serde_json::Result<()> {
        self.history = serde_json::from_str(state.get())?;
        Ok(())
    }
}
