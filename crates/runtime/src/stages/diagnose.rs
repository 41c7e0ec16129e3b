//! Anomalies in, diagnoses out.

use std::collections::VecDeque;

use kintsugi_diagnose::Rules;
use kintsugi_events::{Anomaly, Event, Payload, Topic};
use kintsugi_types::{DerivedIds, Timestamp};
use serde_json::value::{RawValue, to_raw_value};

use crate::stage::Stage;

/// How many anomalies the rules may look back at; the oldest is forgotten.
const RECENT_MAX: usize = 64;

/// The diagnoser as a stage.
#[derive(Default)]
pub(crate) struct DiagnoseStage {
    recent: VecDeque<Anomaly>,
}

impl Stage for DiagnoseStage {
    const NAME: &'static str = "diagnose";
    const INPUTS: &'static [Topic] = &[Topic::Anomalies];

    fn consume(&mut self, event: &Event, ids: &mut DerivedIds) -> Vec<Payload> {
        let Payload::Anomaly(anomaly) = &event.payload else { return Vec::new() };
        let diagnosis = Rules.diagnose(anomaly, self.recent.make_contiguous(), ids);
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back((**anomaly).clone());
        vec![Payload::Diagnosis(Box::new(diagnosis))]
    }

    fn tick(&mut self, _: Timestamp) -> Vec<Payload> {
        Vec::new()
    }

    fn save(&self) -> serde_json::Result<Box<RawValue>> {
        to_raw_value(&self.recent)
    }

    fn load(&mut self, state: &RawValue) -> serde_json::Result<()> {
        self.recent = serde_json::from_str(state.get())?;
        Ok(())
    }
}
