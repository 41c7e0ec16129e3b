//! Anomalies in, diagnoses out: by the rules, and where they are not sure and it may be asked, by the model.

use kintsugi_diagnose::{Heard, History, Opinion, Opinions, Question, Rules, Symptom};
use kintsugi_events::{Anomaly, Diagnosis, Event, Payload};
use kintsugi_types::{DerivedIds, EventId, Timestamp};
use serde_json::value::{RawValue, to_raw_value};

use crate::asking::{Asker, NoOpinion};
use crate::config::StageName;
use crate::stage::{Stage, Waiting};

/// The diagnoser as a stage.
///
/// What it remembers of answers is not part of its state: it changes who diagnosed, never what is counted, and is asked
/// for again after a restart.
#[derive(Default)]
pub(crate) struct DiagnoseStage {
    history: History,
    asker: Option<Asker>,
    opinions: Opinions,
    /// What was heard about the anomaly that is to be taken in next.
    heard: Option<(EventId, Result<Opinion, NoOpinion>)>,
}

impl DiagnoseStage {
    /// A diagnoser that has seen nothing. Without somebody to ask the rules alone diagnose.
    pub(crate) fn new(asker: Option<Asker>) -> Self {
        Self { asker, ..Self::default() }
    }

    /// The diagnosis where the rules found `rules`.
    fn settle(&mut self, event: EventId, anomaly: &Anomaly, earlier: u32, rules: Diagnosis) -> Diagnosis {
        let Some(asker) = self.asker.as_ref().filter(|asker| asker.is_for(rules.confidence)) else {
            return rules;
        };
        match self.heard.take().filter(|(about, _)| *about == event) {
            Some((_, heard)) => {
                asker.count(&heard);
                match heard {
                    Ok(opinion) => {
                        let diagnosis = Heard::Answer(&opinion).settle(rules);
                        self.opinions.put(Symptom::of(anomaly, earlier), opinion);
                        diagnosis
                    }
                    Err(why) => Heard::Nothing(&why.to_string()).settle(rules),
                }
            }
            // Where it is unknown, what follows was written before a restart, and is not written again.
            None => match self.opinions.get(&Symptom::of(anomaly, earlier)) {
                Some(opinion) => Heard::Before(opinion).settle(rules),
                None => rules,
            },
        }
    }
}

impl Stage for DiagnoseStage {
    const NAME: StageName = StageName::Diagnose;

    fn awaits(&mut self, event: &Event, now: Timestamp) -> Option<Waiting<Self>> {
        let Payload::Anomaly(anomaly) = &event.payload else { return None };
        let asker = self.asker.as_ref()?;
        let id = event.envelope.id;
        if self.heard.as_ref().is_some_and(|(about, _)| *about == id) {
            return None;
        }
        let earlier = self.history.earlier(anomaly);
        let rules = Rules.diagnose(anomaly, earlier, &mut DerivedIds::new(id.as_uuid(), Self::NAME.name()));
        if !asker.is_for(rules.confidence) || self.opinions.has(&Symptom::of(anomaly, earlier)) {
            return None;
        }
        let left = match asker.left(event.envelope.time, now) {
            Ok(left) => left,
            Err(late) => {
                self.heard = Some((id, Err(late)));
                return None;
            }
        };
        let question = Question::of(anomaly, earlier, &rules);
        let asker = asker.clone();
        Some(Box::pin(async move {
            let heard = asker.ask(&question, rules.confidence, left).await;
            let tell: Box<dyn FnOnce(&mut Self)> = Box::new(move |stage| stage.heard = Some((id, heard)));
            tell
        }))
    }

    fn consume(&mut self, event: &Event, ids: &mut DerivedIds) -> Vec<Payload> {
        let Payload::Anomaly(anomaly) = &event.payload else { return Vec::new() };
        let earlier = self.history.note(anomaly, event.envelope.time);
        let rules = Rules.diagnose(anomaly, earlier, ids);
        let diagnosis = self.settle(event.envelope.id, anomaly, earlier, rules);
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
