//! Recoveries in: from the topic to the agent, or to the breaker of the tool, that is to be mended.

use actix::prelude::*;
use kintsugi_agent::Command;
use kintsugi_events::{Payload, Recovery, RecoveryAction, RecoveryPhase, Subject};
use kintsugi_types::Timestamp;
use tracing::{error, warn};

use super::Partition;
use super::slot::{Item, Origin};

/// Recoveries that are on their way at the same time; further ones wait in the log.
const DISPATCHING_MAX: usize = 256;

/// Bytes that are read from the log at once.
const READ_BYTES_MAX: usize = 1 << 20;

impl Partition {
    /// Reads recoveries from the log and hands the planned ones on.
    pub(super) fn pump_recoveries(&mut self, ctx: &mut Context<Self>) {
        while self.recoveries.outstanding() < DISPATCHING_MAX {
            let room = DISPATCHING_MAX - self.recoveries.outstanding();
            let read =
                self.lane.core.log.read(self.recoveries.of(), self.recoveries.next(), room, READ_BYTES_MAX);
            let records = match read {
                Ok(records) => records,
                Err(failure) => {
                    error!(%failure, "read recoveries");
                    return;
                }
            };
            if records.is_empty() {
                return;
            }
            for record in records {
                self.recoveries.begin(record.offset);
                match record.to_event() {
                    Ok(event) => match event.payload {
                        Payload::Recovery(plan)
                            if plan.phase == RecoveryPhase::Planned && !plan.is_forbidden() =>
                        {
                            self.dispatch(plan, event.envelope.time, record.offset, ctx);
                        }
                        _ => self.recoveries.settle(record.offset),
                    },
                    Err(failure) => {
                        warn!(offset = record.offset, %failure, "recovery refused");
                        self.recoveries.settle(record.offset);
                    }
                }
            }
        }
    }

    fn dispatch(&mut self, plan: Box<Recovery>, planned_at: Timestamp, offset: u64, ctx: &mut Context<Self>) {
        match plan.agent.clone() {
            Subject::Agent(agent) => {
                let item = Item::from(Command::Recover { plan, planned_at }, Origin::Recoveries(offset));
                self.enqueue(&agent, item, ctx);
            }
            Subject::Tool(tool) if plan.action == RecoveryAction::CircuitBreaker => {
                let events = self.open_gate(&tool, &plan, planned_at);
                self.recoveries.settle(offset);
                let position = self.recoveries.position();
                self.append_own(events, vec![position]);
            }
            subject if self.is_of_an_engine(&subject) => {
                let payloads = self.mend_engine(&plan, planned_at);
                self.tell_shared(&plan, payloads, offset);
            }
            Subject::Tool(_) | Subject::Model(_) | Subject::Engine => {
                let why = "nothing of the kind can be done to a shared part";
                let payload = self.told(&plan, planned_at, RecoveryPhase::Abandoned, why);
                self.tell_shared(&plan, vec![payload], offset);
            }
        }
    }

    /// Whether `subject` is an engine of this node: the main one, or the smaller model's.
    fn is_of_an_engine(&self, subject: &Subject) -> bool {
        match subject {
            Subject::Engine => true,
            Subject::Model(name) => self.lane.node.smaller_asked(Some(name)).is_some(),
            _ => false,
        }
    }

    fn tell_shared(&mut self, plan: &Recovery, payloads: Vec<Payload>, offset: u64) {
        let events =
            payloads.into_iter().map(|payload| self.own_event(plan.agent.clone(), payload)).collect();
        self.recoveries.settle(offset);
        let position = self.recoveries.position();
        self.append_own(events, vec![position]);
    }
}
