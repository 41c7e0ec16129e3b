//! What is said between callers, the actor and the engine thread. None of it is seen outside this crate.

use std::time::Instant;

use actix::Message;
use kintsugi_inference::RequestId;
use kintsugi_types::{AgentId, Completion, CompletionRequest, LeaseId, Score};
use tokio::sync::oneshot;

use crate::error::{Refusal, ThinkError};
use crate::lease::{Lease, LeaseRequest};
use crate::queue::Ticket;
use crate::residency::Owner;

/// Where the answer to a completion goes. Dropped without an answer, the lease's state says why.
pub(crate) type CompletionAnswer = oneshot::Sender<Result<Completion, ThinkError>>;

/// Where a lease or a refusal goes.
pub(crate) type LeaseAnswer = oneshot::Sender<Result<Lease, Refusal>>;

/// A caller asks for a lease.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Acquire {
    pub(crate) ticket: Ticket,
    pub(crate) request: LeaseRequest,
    pub(crate) answer: LeaseAnswer,
}

/// A caller no longer waits for a lease.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Withdraw(pub(crate) Ticket);

/// A lease's holder wants a completion.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Submit {
    pub(crate) lease: LeaseId,
    pub(crate) pending: Pending,
}

/// A completion that was asked for and is not with the engine yet.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) request: CompletionRequest,
    pub(crate) answer: CompletionAnswer,
}

/// A lease's holder no longer waits for its completion, and keeps the lease.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Abort(pub(crate) LeaseId);

/// A lease was dropped.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Release(pub(crate) LeaseId);

/// An agent died or was taken off: whatever it has or waits for is given back.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct ReleaseAgent(pub(crate) AgentId);

/// The scheduler is to end; told once the engine thread was joined.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Shutdown(pub(crate) oneshot::Sender<()>);

/// A completion on its way to the engine.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: RequestId,
    pub(crate) lease: LeaseId,
    pub(crate) owner: Owner,
    pub(crate) urgency: Score,
    pub(crate) request: CompletionRequest,
    /// When its lease's holder had the way to the engine free.
    pub(crate) since: Instant,
    pub(crate) answer: CompletionAnswer,
}

/// From the actor to the engine thread. Closing the channel tells the thread to end.
#[derive(Debug)]
pub(crate) enum Command {
    /// Run this and say [`EngineEvent::Ended`] exactly once, whatever comes of it.
    Run(Box<Job>),
    /// Drop this without an answer. Ignored for what has ended.
    Cancel(RequestId),
    /// Drop the keys and values that these agents left, and say [`EngineEvent::Forgotten`].
    Forget(Vec<AgentId>),
}

/// From the engine thread to the actor.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) enum EngineEvent {
    /// A job left the engine. Sent before its caller is answered, so that a lease that the caller then drops is
    /// found idle.
    Ended { lease: LeaseId, request: RequestId },
    /// What was to be forgotten is.
    Forgotten,
    /// The engine is away; jobs wait for the next one.
    Faulted,
    /// An engine is up.
    Up { epoch: u64 },
    /// The engine stays away; all its jobs were ended before.
    Down { reason: String },
    /// The thread is about to end and holds nothing any more.
    Exited,
}
