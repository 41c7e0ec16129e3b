//! `agents show --at`: an agent as it was, folded from the log.

use std::ops::ControlFlow;

use kintsugi_agent::AgentState;
use kintsugi_eventlog::{LogReader, Lsn};
use kintsugi_events::{Payload, Subject, Topic};
use kintsugi_types::{AgentId, AgentKind, TenantId};
use serde::Serialize;

use super::{agents, open, read_whole};
use crate::cli::{Format, Where};
use crate::documents::AgentDocument;
use crate::failure::Failure;
use crate::outsiders::event_of;
use crate::terminal::{document, entry};
use crate::view::{Origin, RunView, snapshot_in};

/// An agent as it was.
#[derive(Serialize)]
struct AsItWas<'a> {
    at: u64,
    #[serde(flatten)]
    agent: AgentDocument<'a>,
    /// All that the agent's next decision would rest on.
    journal_state: &'a AgentState,
}

pub(crate) fn show(id: &str, at: u64, place: &Where) -> Result<(), Failure> {
    let id = AgentId::new(id).map_err(Failure::usage)?;
    let log = open(&place.log)?;
    let (state, view) = read_whole(log.as_ref(), |log| fold(&id, at, log))?;
    let Some(agent) = view.agents.get(&id) else { return Err(unknown(&id, at, log.as_ref())) };
    if agent.sequence < at {
        return Err(Failure::usage(format_args!(
            "the journal of agent {id} has {} events: --at takes 1 to {}",
            agent.sequence, agent.sequence
        )));
    }
    match place.format {
        Format::Json => {
            document(&AsItWas { at, agent: AgentDocument::of(&id, agent, &view), journal_state: &state })
        }
        Format::Text => {
            entry("at", &at.to_string())?;
            agents::write(&id, agent, &view)
        }
    }
}

fn unknown(id: &AgentId, at: u64, log: &dyn LogReader) -> Failure {
    if log.start_lsn() > Lsn(0) {
        return Failure::usage(format_args!(
            "agent {id} had no event at {at}, or what tells of it is deleted"
        ));
    }
    Failure::usage(format_args!(
        "agent {id} had no event at {at}: `kintsugi agents list` names those that had work, and the first event is 1"
    ))
}

/// The agent and all that the log tells, up to the agent's event `at`.
fn fold(id: &AgentId, at: u64, log: &dyn LogReader) -> Result<(AgentState, RunView), Failure> {
    let kind = AgentKind::new(id.as_str()).map_err(Failure::usage)?;
    // Its first event tells the kind and the tenant.
    let mut state = AgentState::new(id.clone(), kind, TenantId::default());
    let mut view = RunView::default();
    let is_trimmed = log.start_lsn() > Lsn(0);
    if is_trimmed {
        // The newest snapshot that is not too new; a journal's beginning may be deleted.
        log.replay_topics(&[Topic::Snapshots], log.start_lsn(), &mut |record| {
            if record.key == id.as_str()
                && let Some(found) = snapshot_in(&record)
                && (state.sequence..=at).contains(&found.sequence)
            {
                state = found;
            }
            ControlFlow::Continue(())
        })?;
        view = RunView::beginning_with(&state);
    }
    let mut failed = None;
    log.replay(log.start_lsn(), &mut |record| {
        let event = match event_of(&record) {
            Ok(Some(event)) => event,
            Ok(None) => return ControlFlow::Continue(()),
            Err(failure) => {
                failed = Some(Failure::outside(format_args!(
                    "{} offset {}: {failure}",
                    record.topic, record.offset
                )));
                return ControlFlow::Break(());
            }
        };
        if let (Payload::Agent(journal), Subject::Agent(of)) = (&event.payload, &event.envelope.subject)
            && of == id
        {
            let sequence = event.envelope.sequence.unwrap_or(u64::MAX);
            if sequence > at {
                return ControlFlow::Break(());
            }
            if is_trimmed && sequence > state.sequence + 1 {
                failed = Some(Failure::usage(format_args!(
                    "the journal of agent {id} before event {sequence} is deleted, and no snapshot is left of it"
                )));
                return ControlFlow::Break(());
            }
            if sequence > state.sequence {
                state.apply(journal);
            }
        }
        view.take(event, Origin::of(&record));
        ControlFlow::Continue(())
    })?;
    failed.map_or(Ok((state, view)), Err)
}
