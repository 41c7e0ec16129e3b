//! `agents show --at`: an agent as it was, folded from the log.

use std::ops::ControlFlow;

use kintsugi_agent::AgentState;
use kintsugi_events::{Payload, Subject};
use kintsugi_types::{AgentId, AgentKind, TenantId};
use serde::Serialize;

use super::{agents, open};
use crate::cli::{Format, Where};
use crate::documents::AgentDocument;
use crate::failure::Failure;
use crate::outsiders::event_of;
use crate::terminal::{document, entry};
use crate::view::RunView;

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
    let log = open(&place.log)?;
    let id = AgentId::new(id).map_err(Failure::usage)?;
    let kind = AgentKind::new(id.as_str()).map_err(Failure::usage)?;
    // Its first event tells the kind and the tenant.
    let mut state = AgentState::new(id.clone(), kind, TenantId::default());
    let mut view = RunView::default();
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
            && *of == id
        {
            if event.envelope.sequence.is_none_or(|sequence| sequence > at) {
                return ControlFlow::Break(());
            }
            state.apply(journal);
        }
        view.take(event, record.offset);
        ControlFlow::Continue(())
    })?;
    if let Some(failure) = failed {
        return Err(failure);
    }
    let Some(agent) = view.agents.get(&id) else {
        return Err(Failure::usage(format_args!(
            "agent {id} had no event at {at}: `kintsugi agents list` names those that had work, and the first \
             event is 1"
        )));
    };
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
