//! The right to run inference on the model for a while.

use actix::Addr;
use kintsugi_types::{AgentId, Completion, CompletionRequest, LeaseId, Score, TenantId, Timestamp};
use tokio::sync::{oneshot, watch};

use crate::actor::GpuScheduler;
use crate::error::ThinkError;
use crate::messages::{Abort, Pending, Release, Submit};

/// What an agent says of itself when it asks for a lease.
#[derive(Debug, Clone, PartialEq)]
pub struct LeaseRequest {
    /// Who asks.
    pub agent: AgentId,
    /// For whom. Agents of different tenants share no keys and values but those of system prompt and tools.
    pub tenant: TenantId,
    /// How much it matters; the larger is served first, and keeps its keys and values on the device longest.
    pub urgency: Score,
    /// About how many tokens the prompt has. Read for the time after which a refused caller may try again.
    pub prompt_tokens_estimate: u32,
    /// The most tokens that an answer under this lease may have.
    pub tokens_max: u32,
    /// Whether the goal is in progress; such goals go before new ones.
    pub goal_started: bool,
    /// When the answer is of no more use. A near one goes before urgency.
    pub deadline: Option<Timestamp>,
}

impl LeaseRequest {
    /// About how many tokens the work is, prompt and answer.
    pub(crate) fn tokens(&self) -> u64 {
        u64::from(self.prompt_tokens_estimate) + u64::from(self.tokens_max)
    }
}

/// What the actor tells a lease about itself.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LeaseState {
    pub(crate) epoch: u64,
    pub(crate) deadline: Timestamp,
    pub(crate) ended: Option<ThinkError>,
}

/// One of the engine's slots, held until dropped, until its deadline, or until its agent is released.
///
/// When the engine is rebuilt the lease is granted again by itself: its epoch and its deadline rise, and a running
/// completion runs again. When the engine went down in between, the lease is stale and every use says so.
#[derive(Debug)]
pub struct Lease {
    id: LeaseId,
    tokens_max: u32,
    desk: Addr<GpuScheduler>,
    state: watch::Receiver<LeaseState>,
}

impl Lease {
    pub(crate) fn new(
        id: LeaseId,
        tokens_max: u32,
        desk: Addr<GpuScheduler>,
        state: watch::Receiver<LeaseState>,
    ) -> Self {
        Self { id, tokens_max, desk, state }
    }

    /// Its name.
    pub const fn id(&self) -> LeaseId {
        self.id
    }

    /// The engine that it is granted on, counted from 1; 0 while the first is being built.
    pub fn epoch(&self) -> u64 {
        self.state.borrow().epoch
    }

    /// When it ends by itself. Rises when the engine is rebuilt, and does not count while the engine is away.
    pub fn deadline(&self) -> Timestamp {
        self.state.borrow().deadline
    }

    /// Why it has ended, if it has.
    pub fn ended(&self) -> Option<ThinkError> {
        self.state.borrow().ended.clone()
    }

    /// Runs `request` on the model. May be called again: a lease is for a time, not for one answer.
    ///
    /// Dropping the returned future cancels the work and keeps the lease. Fails when the lease has ended or ends
    /// meanwhile, when the request asks for more tokens than the lease covers, when the model cannot take it, or
    /// when the engine failed and could not be brought back within bounds.
    pub async fn complete(&mut self, request: CompletionRequest) -> Result<Completion, ThinkError> {
        if let Some(error) = self.ended() {
            return Err(error);
        }
        if request.tokens_max > self.tokens_max {
            let reason =
                format!("asks for {} tokens, its lease covers {}", request.tokens_max, self.tokens_max);
            return Err(ThinkError::Malformed { reason });
        }
        let (answer, answered) = oneshot::channel();
        self.desk.do_send(Submit { lease: self.id, pending: Pending { request, answer } });
        let mut abort = AbortOnDrop { desk: &self.desk, lease: self.id, is_armed: true };
        // An answer that is there counts, even when the lease ended right after it.
        let outcome = tokio::select! {
            biased;
            answer = answered => answer.unwrap_or_else(|_| Err(why_unanswered(&self.state))),
            error = until_ended(self.state.clone()) => Err(error),
        };
        abort.is_armed = false;
        outcome
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.desk.do_send(Release(self.id));
    }
}

/// Waits until the lease ends otherwise than by its holder.
async fn until_ended(mut state: watch::Receiver<LeaseState>) -> ThinkError {
    match state.wait_for(|state| state.ended.is_some()).await {
        Ok(state) => state.ended.clone().unwrap_or(ThinkError::Stopped),
        Err(_) => ThinkError::Stopped,
    }
}

/// Why nobody answered: the lease ended, the actor is gone, or the engine thread is.
fn why_unanswered(state: &watch::Receiver<LeaseState>) -> ThinkError {
    if let Some(error) = state.borrow().ended.clone() {
        return error;
    }
    if state.has_changed().is_err() {
        return ThinkError::Stopped;
    }
    ThinkError::EngineFault { reason: "the engine thread ended".to_owned() }
}

/// Takes the work back when a caller stops waiting for it.
struct AbortOnDrop<'a> {
    desk: &'a Addr<GpuScheduler>,
    lease: LeaseId,
    is_armed: bool,
}

impl Drop for AbortOnDrop<'_> {
    fn drop(&mut self) {
        if self.is_armed {
            self.desk.do_send(Abort(self.lease));
        }
    }
}
