//! Scenarios of the whole: callers, actor and engine thread, over a backend that misbehaves on cue.
//!
//! Nothing sleeps to wait: a test waits for a condition of the stats, a report, or an answer.

mod faults;
mod giving_back;
mod leases;
mod random;
mod residency;
mod stage;
mod two;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use actix::System;
use kintsugi_types::{
    AgentId, ByteCount, Clock, CompletionRequest, Grammar, Invariants, ManualClock, Message, RetryPolicy,
    Role, Sampling, Score, SeededIds, TenantId, Timestamp,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::config::{BackendFactory, EngineReport, RebuildPolicy, SchedulerConfig};
use crate::lease::LeaseRequest;
use crate::{GpuScheduler, Lease, SchedulerContext, SchedulerHandle, ThinkError, Thought};
use stage::Stage;

/// A scheduler on a stage, with what it reports.
struct Node {
    handle: SchedulerHandle,
    stage: Arc<Stage>,
    reports: mpsc::UnboundedReceiver<EngineReport>,
    invariants: Arc<Invariants>,
    clock: Arc<ManualClock>,
}

impl Node {
    fn start(config: &SchedulerConfig, stage: Arc<Stage>) -> Self {
        let factory = stage.factory();
        Self::start_with(config, stage, factory)
    }

    fn start_with(config: &SchedulerConfig, stage: Arc<Stage>, factory: BackendFactory) -> Self {
        let (sender, reports) = mpsc::unbounded_channel();
        let invariants = Arc::new(Invariants::new());
        let clock = Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH));
        let context = SchedulerContext {
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            ids: Box::new(SeededIds::new(1)),
            invariants: Arc::clone(&invariants),
            on_fault: Box::new(move |report| {
                let _ = sender.send(report);
            }),
        };
        let handle = GpuScheduler::start(config, factory, context).unwrap();
        Self { handle, stage, reports, invariants, clock }
    }

    /// Asks on a task of its own.
    fn think(&self, agent: &str, text: &str) -> JoinHandle<Result<Thought, ThinkError>> {
        self.think_as(ask(agent), text)
    }

    fn think_as(&self, lease: LeaseRequest, text: &str) -> JoinHandle<Result<Thought, ThinkError>> {
        let handle = self.handle.clone();
        let request = completion(text, lease.tokens_max);
        actix::spawn(async move { handle.think(lease, request).await })
    }

    /// Waits until `active` requests are in the batch.
    async fn until_active(&self, active: usize) {
        self.handle.wait_until(|stats| stats.active == active).await.unwrap();
    }

    /// Waits until `queued` calls wait for a lease.
    async fn until_queued(&self, queued: usize) {
        self.handle.wait_until(|stats| stats.queued == queued).await.unwrap();
    }

    /// Nothing is out, nothing waits, nothing is held; and no promise was broken on the way.
    async fn assert_empty(&self) {
        let stats = self
            .handle
            .wait_until(|stats| stats.leases_out == 0 && stats.queued == 0 && stats.active == 0)
            .await
            .unwrap();
        assert_eq!(stats.memory.kv_used, ByteCount(0));
        assert_eq!(self.invariants.total(), 0);
    }

    async fn report(&mut self) -> EngineReport {
        self.reports.recv().await.unwrap()
    }
}

/// Small limits, no delay between rebuilds, and a window that no test outlives.
fn config() -> SchedulerConfig {
    SchedulerConfig {
        slots: 2,
        queue_max: 16,
        lease_ms_max: 60_000,
        memory_budget: ByteCount::mib(8),
        rebuild: RebuildPolicy {
            attempts_max: 50,
            window: Duration::from_hours(1),
            backoff: RetryPolicy {
                attempts_max: 1,
                first_delay_ms: 0,
                factor: 1.0,
                delay_max_ms: 0,
                jitter: 0.0,
            },
        },
    }
}

fn one_slot() -> SchedulerConfig {
    SchedulerConfig { slots: 1, ..config() }
}

fn agent(name: &str) -> AgentId {
    AgentId::new(name).unwrap()
}

fn ask(name: &str) -> LeaseRequest {
    LeaseRequest {
        agent: agent(name),
        tenant: TenantId::default(),
        urgency: Score::new(0.5),
        prompt_tokens_estimate: 10,
        tokens_max: 10,
        goal_started: false,
        deadline: None,
    }
}

fn completion(text: &str, tokens_max: u32) -> CompletionRequest {
    CompletionRequest {
        messages: vec![Message::new(Role::User, text)],
        grammar: Grammar::Free,
        sampling: Sampling { temperature: 0.0, top_p: 1.0, seed: 0 },
        tokens_max,
    }
}

/// What a thought said.
fn text(thought: Result<Result<Thought, ThinkError>, tokio::task::JoinError>) -> Result<String, ThinkError> {
    thought.unwrap().map(|thought| thought.completion.text)
}

/// What the stage answers to `text`.
#[expect(clippy::unnecessary_wraps, reason = "compared with what `text` returns")]
fn answer(text: &str) -> Result<String, ThinkError> {
    Ok(stage::answer_to(text))
}

/// The engine answers its callers directly, so an answer may overtake what the actor tells the lease.
async fn until_epoch(lease: &Lease, epoch: u64) {
    while lease.epoch() < epoch {
        tokio::task::yield_now().await;
    }
    assert_eq!(lease.epoch(), epoch);
}

/// Runs `test` in a system of its own. A test that hangs fails.
fn scenario(test: impl Future<Output = ()>) {
    System::new().block_on(async {
        tokio::time::timeout(Duration::from_mins(2), test).await.expect("the test hangs");
    });
}

/// Runs `test` on a clock that jumps to the next timer whenever nothing else is to be done.
fn scenario_paused(test: impl Future<Output = ()>) {
    System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
    })
    .block_on(test);
}
