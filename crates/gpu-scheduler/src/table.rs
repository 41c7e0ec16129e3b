//! The leases that are out, and what each has in the engine.
//!
//! A slot is free again only when its lease was given back *and* the engine has let go of its work. So the batch
//! never holds more than `slots` requests, and at most one run and one cancel per slot are ever on their way to
//! the engine; with the one list of agents to forget, its command channel is bounded and never full.

use std::collections::BTreeMap;
use std::time::Instant;

use kintsugi_inference::RequestId;
use kintsugi_types::{AgentId, LeaseId, Score, Timestamp};
use tokio::sync::watch;

use crate::error::ThinkError;
use crate::lease::{LeaseRequest, LeaseState};
use crate::messages::{Command, Job, Pending};
use crate::residency::Owner;

/// What a lease has in the engine.
#[derive(Debug)]
enum Work {
    /// Nothing.
    Idle,
    /// A request that its caller waits for.
    Running(RequestId),
    /// A request that nobody waits for and that the engine has not let go of yet, and what comes after it.
    Cancelling { request: RequestId, next: Option<Pending> },
}

#[derive(Debug)]
struct Entry {
    owner: Owner,
    urgency: Score,
    state: watch::Sender<LeaseState>,
    work: Work,
    /// Given back: goes as soon as its work is idle.
    is_closing: bool,
}

/// The leases that are out.
#[derive(Debug, Default)]
pub(crate) struct LeaseTable {
    entries: BTreeMap<LeaseId, Entry>,
    requests: u64,
}

impl LeaseTable {
    /// Slots that are taken.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The leases that are out and not yet given back.
    pub(crate) fn open_ids(&self) -> Vec<LeaseId> {
        self.entries.iter().filter(|(_, entry)| !entry.is_closing).map(|(id, _)| *id).collect()
    }

    /// The leases of `agent`.
    pub(crate) fn ids_of(&self, agent: &AgentId) -> Vec<LeaseId> {
        self.entries.iter().filter(|(_, entry)| entry.owner.agent == *agent).map(|(id, _)| *id).collect()
    }

    /// Takes a slot for a new lease.
    pub(crate) fn open(&mut self, id: LeaseId, request: &LeaseRequest, state: watch::Sender<LeaseState>) {
        let owner = Owner { tenant: request.tenant.clone(), agent: request.agent.clone() };
        let urgency = request.urgency;
        self.entries.insert(id, Entry { owner, urgency, state, work: Work::Idle, is_closing: false });
    }

    /// Grants a lease again on a new engine.
    pub(crate) fn regrant(&mut self, id: LeaseId, epoch: u64, deadline: Timestamp) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.state.send_modify(|state| {
                state.epoch = epoch;
                state.deadline = deadline;
            });
        }
    }

    /// The engine on which a lease was last granted.
    pub(crate) fn epoch_of(&self, id: LeaseId) -> Option<u64> {
        self.entries.get(&id).map(|entry| entry.state.borrow().epoch)
    }

    /// Starts a completion. One for a lease that has ended is dropped: the lease's state says why.
    pub(crate) fn submit(&mut self, id: LeaseId, pending: Pending) -> Option<Command> {
        let entry = self.entries.get_mut(&id).filter(|entry| !entry.is_closing)?;
        if let Work::Cancelling { next, .. } = &mut entry.work {
            *next = Some(pending);
            return None;
        }
        Some(run(&mut self.requests, id, entry, pending))
    }

    /// Takes a completion back; the lease stays.
    pub(crate) fn abort(&mut self, id: LeaseId) -> Option<Command> {
        let entry = self.entries.get_mut(&id)?;
        match &mut entry.work {
            Work::Idle => None,
            Work::Running(request) => {
                let request = *request;
                entry.work = Work::Cancelling { request, next: None };
                Some(Command::Cancel(request))
            }
            Work::Cancelling { next, .. } => {
                *next = None;
                None
            }
        }
    }

    /// Takes a lease back, saying `why` to whoever still holds it. Its slot is free at once if it is idle, else
    /// when the engine has let go of its work.
    pub(crate) fn close(&mut self, id: LeaseId, why: Option<ThinkError>) -> Option<Command> {
        let entry = self.entries.get_mut(&id)?;
        entry.is_closing = true;
        if let Some(why) = why {
            entry.state.send_modify(|state| state.ended = state.ended.take().or(Some(why)));
        }
        let command = self.abort(id);
        self.remove_if_done(id);
        command
    }

    /// The engine has let go of `request`.
    pub(crate) fn ended(&mut self, id: LeaseId, request: RequestId) -> Option<Command> {
        let entry = self.entries.get_mut(&id)?;
        let next = match &mut entry.work {
            Work::Running(running) if *running == request => None,
            Work::Cancelling { request: cancelled, next } if *cancelled == request => next.take(),
            _ => return None,
        };
        entry.work = Work::Idle;
        if let Some(pending) = next {
            return Some(run(&mut self.requests, id, entry, pending));
        }
        self.remove_if_done(id);
        None
    }

    /// Ends every lease, because there is no engine thread any more that could let go of its work.
    pub(crate) fn end_all(&mut self, why: &ThinkError) {
        for entry in self.entries.values_mut() {
            entry.state.send_modify(|state| state.ended = state.ended.take().or_else(|| Some(why.clone())));
        }
        self.entries.clear();
    }

    fn remove_if_done(&mut self, id: LeaseId) {
        if self.entries.get(&id).is_some_and(|entry| entry.is_closing && matches!(entry.work, Work::Idle)) {
            self.entries.remove(&id);
        }
    }
}

/// Gives `pending` a name of its own and the lease's slot in the engine.
fn run(requests: &mut u64, lease: LeaseId, entry: &mut Entry, pending: Pending) -> Command {
    *requests += 1;
    let id = RequestId(*requests);
    entry.work = Work::Running(id);
    let Pending { request, answer } = pending;
    let (owner, urgency) = (entry.owner.clone(), entry.urgency);
    Command::Run(Box::new(Job { id, lease, owner, urgency, request, since: Instant::now(), answer }))
}
