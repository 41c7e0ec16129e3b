//! What everyone else holds of the scheduler.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use actix::Addr;
use kintsugi_inference::ModelInfo;
use kintsugi_types::{AgentId, ByteCount, Completion, CompletionRequest};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::actor::GpuScheduler;
use crate::error::{Refusal, RefusalReason, ThinkError};
use crate::lease::{Lease, LeaseRequest};
use crate::messages::{Acquire, ReleaseAgent, Shutdown, Withdraw};
use crate::queue::Ticket;
use crate::residency::Residence;
use crate::stats::{DeskPicture, EnginePicture, EngineState, SchedulerStats};

/// A completion and how long it had to wait.
#[derive(Debug, Clone, PartialEq)]
pub struct Thought {
    /// What the model answered.
    pub completion: Completion,
    /// All time that was not thinking: waiting for a lease, for memory, for the engine to come back, in
    /// milliseconds.
    pub queue_ms: f64,
}

/// The way to the scheduler. Cheap to clone, usable from any thread.
#[derive(Debug, Clone)]
pub struct SchedulerHandle {
    desk: Addr<GpuScheduler>,
    tickets: Arc<AtomicU64>,
    desk_picture: watch::Receiver<DeskPicture>,
    engine_picture: watch::Receiver<EnginePicture>,
    memory_budget: ByteCount,
    is_to_break: Arc<AtomicBool>,
}

impl SchedulerHandle {
    pub(crate) fn new(
        desk: Addr<GpuScheduler>,
        (desk_picture, engine_picture): (watch::Receiver<DeskPicture>, watch::Receiver<EnginePicture>),
        memory_budget: ByteCount,
        is_to_break: Arc<AtomicBool>,
    ) -> Self {
        Self { desk, tickets: Arc::default(), desk_picture, engine_picture, memory_budget, is_to_break }
    }

    /// Makes the engine panic at its next step, as a bug would; for faults on purpose.
    pub fn break_engine(&self) {
        self.is_to_break.store(true, Ordering::Relaxed);
    }

    /// Asks for one of the engine's slots and waits for it. Dropping the returned future withdraws the call.
    ///
    /// Refused when the queue is full, the engine is down, the agent is released meanwhile, or the scheduler stops.
    pub async fn acquire(&self, request: LeaseRequest) -> Result<Lease, Refusal> {
        let ticket = Ticket(self.tickets.fetch_add(1, Ordering::Relaxed));
        let (answer, answered) = oneshot::channel();
        self.desk.do_send(Acquire { ticket, request, answer });
        let mut withdraw = WithdrawOnDrop { desk: &self.desk, ticket, is_armed: true };
        let outcome = answered
            .await
            .unwrap_or_else(|_| Err(Refusal { reason: RefusalReason::Stopped, retry_after: None }));
        withdraw.is_armed = false;
        outcome
    }

    /// Acquires a lease, completes `request` under it and gives it back. Dropping the returned future takes all of
    /// that back.
    pub async fn think(
        &self,
        lease: LeaseRequest,
        request: CompletionRequest,
    ) -> Result<Thought, ThinkError> {
        let asked = Instant::now();
        let completion = self.acquire(lease).await?.complete(request).await.map_err(|error| match error {
            // The lease is no concern of the caller here: the engine went down just after it was granted.
            ThinkError::StaleLease { .. } => ThinkError::EngineFault { reason: error.to_string() },
            other => other,
        })?;
        let elapsed_ms = asked.elapsed().as_secs_f64() * 1000.0;
        Ok(Thought { queue_ms: (elapsed_ms - completion.think_ms).max(0.0), completion })
    }

    /// Gives back whatever `agent` holds or waits for: its leases, its calls for one, its running completions, and the
    /// keys and values of what it said so far. What it asks for afterwards is served as ever.
    pub fn release_agent(&self, agent: &AgentId) {
        self.desk.do_send(ReleaseAgent(agent.clone()));
    }

    /// Waits until the first engine is built and tells what model it runs. Fails when that was tried too often.
    pub async fn ready(&self) -> Result<ModelInfo, ThinkError> {
        let mut engine = self.engine_picture.clone();
        let picture = engine
            .wait_for(|picture| {
                picture.model.is_some()
                    || matches!(picture.state, EngineState::Down { .. } | EngineState::Stopped)
            })
            .await
            .map_err(|_| ThinkError::Stopped)?;
        match (&picture.model, &picture.state) {
            (Some(model), _) => Ok(model.clone()),
            (None, EngineState::Down { reason }) => Err(ThinkError::EngineFault { reason: reason.clone() }),
            (None, _) => Err(ThinkError::Stopped),
        }
    }

    /// Counts, peaks and totals as of now. Works even after the scheduler has stopped.
    pub fn stats(&self) -> SchedulerStats {
        SchedulerStats::of(&self.desk_picture.borrow(), &self.engine_picture.borrow(), self.memory_budget)
    }

    /// Those of this scheduler and of `other` taken together: budgets, bytes and counts add up, peaks too, so that they
    /// are no less than what was the case at one time. Engine, epoch and model are this one's.
    pub fn stats_with(&self, other: &Self) -> SchedulerStats {
        let desk = self.desk_picture.borrow().with(&other.desk_picture.borrow());
        let engine = self.engine_picture.borrow().with(&other.engine_picture.borrow());
        SchedulerStats::of(&desk, &engine, ByteCount(self.memory_budget.0 + other.memory_budget.0))
    }

    /// Where the keys and values of each agent are that has any, as of now.
    pub fn residences(&self) -> Arc<BTreeMap<AgentId, Residence>> {
        self.engine_picture.borrow().residences.clone()
    }

    /// Waits until `condition` holds of the stats and returns those; `None` when the scheduler stopped before.
    pub async fn wait_until(
        &self,
        mut condition: impl FnMut(&SchedulerStats) -> bool,
    ) -> Option<SchedulerStats> {
        let mut desk = self.desk_picture.clone();
        let mut engine = self.engine_picture.clone();
        loop {
            let stats = SchedulerStats::of(
                &desk.borrow_and_update(),
                &engine.borrow_and_update(),
                self.memory_budget,
            );
            if condition(&stats) {
                return Some(stats);
            }
            let changed = tokio::select! {
                changed = desk.changed() => changed,
                changed = engine.changed() => changed,
            };
            if changed.is_err() {
                let stats = self.stats();
                return condition(&stats).then_some(stats);
            }
        }
    }

    /// Ends the scheduler: refuses what waits, cancels what runs, drops the backend, joins the engine thread.
    /// Returns when all of that is done; a step of the engine that is under way is waited for.
    pub async fn shutdown(&self) {
        let (done, is_done) = oneshot::channel();
        self.desk.do_send(Shutdown(done));
        // An error says that the actor has stopped already.
        let _ = is_done.await;
    }
}

/// Takes a call for a lease back when its caller stops waiting.
struct WithdrawOnDrop<'a> {
    desk: &'a Addr<GpuScheduler>,
    ticket: Ticket,
    is_armed: bool,
}

impl Drop for WithdrawOnDrop<'_> {
    fn drop(&mut self) {
        if self.is_armed {
            self.desk.do_send(Withdraw(self.ticket));
        }
    }
}
