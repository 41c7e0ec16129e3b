//! Diagnoses in, recoveries out; and what came of them back in.

use kintsugi_events::{Event, Mode, Payload, Topic};
use kintsugi_recover::Recoverer;
use kintsugi_types::{DerivedIds, Timestamp};
use serde_json::value::{RawValue, to_raw_value};

use crate::config::StageName;
use crate::policies::SharedPolicies;
use crate::stage::Stage;

/// The recoverer as a stage.
pub(crate) struct RecoverStage {
    policies: SharedPolicies,
    mode: Mode,
    recoverer: Recoverer,
    seed: u64,
}

impl RecoverStage {
    /// A recoverer that has planned nothing yet.
    pub(crate) fn new(policies: SharedPolicies, mode: Mode, seed: u64) -> Self {
        Self { recoverer: Recoverer::new(policies.get(), mode), policies, mode, seed }
    }
}

fn payloads(recoveries: Vec<kintsugi_events::Recovery>) -> Vec<Payload> {
    recoveries.into_iter().map(|recovery| Payload::Recovery(Box::new(recovery))).collect()
}

impl Stage for RecoverStage {
    const NAME: StageName = StageName::Recover;
    // What was planned stands there too; planned again in another order it might come out otherwise.
    const FOLDED: &'static [Topic] = &[Topic::Recoveries];

    fn consume(&mut self, event: &Event, ids: &mut DerivedIds) -> Vec<Payload> {
        match &event.payload {
            Payload::Diagnosis(diagnosis) => {
                // Each diagnosis draws for itself, the same again after a restart.
                let seed = self.seed ^ diagnosis.diagnosis.as_uuid().as_u64_pair().1;
                self.recoverer.policies = self.policies.get();
                payloads(self.recoverer.plan(diagnosis, event.envelope.time, seed, ids))
            }
            Payload::Recovery(recovery) => {
                self.recoverer.observe(recovery);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn tick(&mut self, now: Timestamp) -> Vec<Payload> {
        payloads(self.recoverer.tick(now))
    }

    fn save(&self) -> serde_json::Result<Box<RawValue>> {
        to_raw_value(self.recoverer.account())
    }

    fn load(&mut self, state: &RawValue) -> serde_json::Result<()> {
        let account = serde_json::from_str(state.get())?;
        self.recoverer = Recoverer::restore(self.policies.get(), self.mode, account);
        Ok(())
    }
}
