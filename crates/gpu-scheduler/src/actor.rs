//! The one actor that stands between everyone and the engine. It keeps the leases and the queue; what computes
//! is on a thread of its own and reports here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::thread::JoinHandle;
use std::time::Duration;

use actix::{Actor, ActorContext, AsyncContext, Context, Handler, SpawnHandle};
use chrono::TimeDelta;
use kintsugi_types::{AgentId, Clock, IdSource, Invariants, LeaseId, Timestamp};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::config::{BackendFactory, OnFault, SchedulerConfig};
use crate::engine;
use crate::error::{Refusal, RefusalReason, ThinkError};
use crate::expiry::Expiries;
use crate::handle::SchedulerHandle;
use crate::lease::{Lease, LeaseRequest, LeaseState};
use crate::messages::{
    Abort, Acquire, Command, EngineEvent, LeaseAnswer, Release, ReleaseAgent, Shutdown, Submit, Withdraw,
};
use crate::queue::{Queue, Waiting};
use crate::stats::{DeskPicture, EnginePicture};
use crate::table::LeaseTable;

/// What a scheduler takes from its surroundings.
pub struct SchedulerContext {
    /// Stamps the deadlines.
    pub clock: Arc<dyn Clock>,
    /// Names the leases.
    pub ids: Box<dyn IdSource + Send>,
    /// Where broken promises are counted.
    pub invariants: Arc<Invariants>,
    /// Hears of faults and rebuilds.
    pub on_fault: OnFault,
}

impl std::fmt::Debug for SchedulerContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SchedulerContext").field("clock", &self.clock).finish_non_exhaustive()
    }
}

/// Why a scheduler did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Nobody could ever be served.
    #[error("the scheduler needs at least one slot")]
    NoSlots,
    /// The system gave no thread.
    #[error("cannot start the engine thread: {0}")]
    Thread(#[source] std::io::Error),
}

/// What the actor knows of the engine.
#[derive(Debug, PartialEq)]
enum Engine {
    /// Being built or rebuilt: leases are given and do not age.
    Away,
    /// Computing.
    Up,
    /// Given up for now: every call is refused.
    Down { reason: String },
    /// Its thread has ended.
    Gone,
}

/// Hands out the engine's slots. Everyone talks to it through a [`SchedulerHandle`].
pub struct GpuScheduler {
    slots: usize,
    queue_max: usize,
    lease_length: Duration,
    down_pause: Duration,
    clock: Arc<dyn Clock>,
    ids: Box<dyn IdSource + Send>,
    queue: Queue<LeaseAnswer>,
    table: LeaseTable,
    expiries: Expiries,
    /// When the timer fires that looks at `expiries`; it may fire in vain.
    timer: Option<(Instant, SpawnHandle)>,
    /// Agents whose keys and values are to be dropped; sent when the engine has done so with the last it was sent.
    forgetting: BTreeSet<AgentId>,
    is_forgetting: bool,
    engine: Engine,
    epoch: u64,
    /// Closing it ends the engine thread.
    commands: Option<SyncSender<Command>>,
    thread: Option<JoinHandle<()>>,
    picture: watch::Sender<DeskPicture>,
    engine_picture: watch::Receiver<EnginePicture>,
    /// Who waits for the end. Not empty: the scheduler is stopping.
    stopping: Vec<oneshot::Sender<()>>,
}

impl std::fmt::Debug for GpuScheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GpuScheduler")
            .field("engine", &self.engine)
            .field("epoch", &self.epoch)
            .field("leases", &self.table.len())
            .field("queued", &self.queue.len())
            .finish_non_exhaustive()
    }
}

impl GpuScheduler {
    /// Starts the actor on the current arbiter and the engine on its own thread, where `factory` is run. Returns at
    /// once; calls are taken while the first engine is being built.
    ///
    /// The engine thread lives in real time. On a paused tokio clock, which jumps to the next timer whenever the
    /// runtime is idle, a lease expires while the engine works: let such a clock run while a request is out.
    ///
    /// Fails when the limits leave no slot or the system gives no thread.
    pub fn start(
        config: &SchedulerConfig,
        factory: BackendFactory,
        context: SchedulerContext,
    ) -> Result<SchedulerHandle, StartError> {
        if config.slots == 0 {
            return Err(StartError::NoSlots);
        }
        let (picture, desk_picture) = watch::channel(DeskPicture::default());
        let (engine_sender, engine_picture) = watch::channel(EnginePicture::default());
        let SchedulerContext { clock, ids, invariants, on_fault } = context;
        let is_to_break = Arc::<AtomicBool>::default();
        let mut failure = None;
        let desk = Self::create(|actix_context| {
            let parts = engine::EngineParts {
                factory,
                on_fault,
                invariants,
                is_to_break: is_to_break.clone(),
                picture: engine_sender,
                desk: actix_context.address().downgrade(),
            };
            let (commands, thread) = match engine::spawn(config, parts) {
                Ok((commands, thread)) => (Some(commands), Some(thread)),
                Err(error) => {
                    failure = Some(error);
                    (None, None)
                }
            };
            Self {
                slots: config.slots,
                queue_max: config.queue_max,
                lease_length: Duration::from_millis(config.lease_ms_max),
                down_pause: config.rebuild.window,
                clock,
                ids,
                queue: Queue::new(config.queue_max),
                table: LeaseTable::default(),
                expiries: Expiries::default(),
                timer: None,
                forgetting: BTreeSet::new(),
                is_forgetting: false,
                engine: Engine::Away,
                epoch: 0,
                commands,
                thread,
                picture,
                engine_picture: engine_picture.clone(),
                stopping: Vec::new(),
            }
        });
        if let Some(error) = failure {
            // The actor ends by itself: nobody holds its address.
            return Err(StartError::Thread(error));
        }
        let pictures = (desk_picture, engine_picture);
        Ok(SchedulerHandle::new(desk, pictures, config.memory_budget, is_to_break))
    }

    /// Why no lease can be given now or soon, if so.
    fn closed(&self) -> Option<Refusal> {
        if !self.stopping.is_empty() {
            return Some(Refusal { reason: RefusalReason::Stopped, retry_after: None });
        }
        match &self.engine {
            Engine::Away | Engine::Up => None,
            Engine::Down { reason } => Some(Refusal {
                reason: RefusalReason::EngineDown { reason: reason.clone() },
                retry_after: Some(self.down_pause),
            }),
            Engine::Gone => Some(Refusal {
                reason: RefusalReason::EngineDown { reason: "the engine thread ended".to_owned() },
                retry_after: None,
            }),
        }
    }

    /// Gives free slots to those who wait, in the queue's order.
    fn serve(&mut self, context: &mut Context<Self>) {
        while self.table.len() < self.slots {
            let Some(waiting) = self.queue.pop() else { break };
            if waiting.answer.is_closed() {
                continue;
            }
            let lease = self.grant(&waiting.request, waiting.since, context);
            // A caller that went away just now drops the lease here, which gives it back as any other.
            let _ = waiting.answer.send(Ok(lease));
        }
        self.publish();
    }

    /// Gives a slot to a call that came at `since`.
    fn grant(&mut self, request: &LeaseRequest, since: Instant, context: &mut Context<Self>) -> Lease {
        let id = LeaseId::new(self.ids.as_mut());
        let state = LeaseState { epoch: self.epoch, deadline: self.deadline(), ended: None };
        let (sender, receiver) = watch::channel(state);
        self.table.open(id, request, sender);
        if self.engine == Engine::Up {
            self.age(id, context);
        }
        self.picture.send_modify(|picture| {
            picture.leases_granted += 1;
            picture.lease_waits.record(since.elapsed());
        });
        Lease::new(id, request.tokens_max, context.address(), receiver)
    }

    fn deadline(&self) -> Timestamp {
        let length = TimeDelta::from_std(self.lease_length).unwrap_or(TimeDelta::MAX);
        self.clock.now().checked_add_signed(length).unwrap_or(Timestamp::MAX_UTC)
    }

    /// Lets a lease end by itself after its length.
    fn age(&mut self, id: LeaseId, context: &mut Context<Self>) {
        self.expiries.set(id, Instant::now() + self.lease_length);
        self.arm(context);
    }

    /// Keeps one timer armed for the first lease to end.
    fn arm(&mut self, context: &mut Context<Self>) {
        let Some(first) = self.expiries.first() else { return };
        if let Some((armed, handle)) = self.timer {
            if armed <= first {
                return;
            }
            context.cancel_future(handle);
        }
        let pause = first.saturating_duration_since(Instant::now());
        let handle = context.run_later(pause, |desk, context| {
            desk.timer = None;
            desk.expire(context);
            desk.arm(context);
        });
        self.timer = Some((first, handle));
    }

    fn expire(&mut self, context: &mut Context<Self>) {
        while let Some(id) = self.expiries.pop_due(Instant::now()) {
            tracing::warn!(lease = %id, "lease expired");
            self.picture.send_modify(|picture| picture.expired += 1);
            self.close(id, Some(ThinkError::LeaseExpired));
        }
        self.serve(context);
    }

    fn close(&mut self, id: LeaseId, why: Option<ThinkError>) {
        self.expiries.remove(id);
        let command = self.table.close(id, why);
        self.tell(command);
    }

    /// Hands a command to the engine thread. The channel has room for all that can be under way (see
    /// [`LeaseTable`]), so a failure means that the thread has ended, which is reported on its own.
    fn tell(&mut self, command: Option<Command>) {
        let Some(command) = command else { return };
        let Some(commands) = &self.commands else { return };
        if let Err(TrySendError::Full(Command::Run(job)) | TrySendError::Disconnected(Command::Run(job))) =
            commands.try_send(command)
        {
            tracing::error!(request = job.id.0, "the engine takes no more work");
            let reason = "the engine takes no more work".to_owned();
            let _ = job.answer.send(Err(ThinkError::EngineFault { reason }));
            self.table.ended(job.lease, job.id);
        }
    }

    /// Sends the engine whom to forget, one list at a time.
    fn forget(&mut self) {
        if !self.is_forgetting && !self.forgetting.is_empty() {
            self.is_forgetting = true;
            let agents = std::mem::take(&mut self.forgetting);
            self.tell(Some(Command::Forget(agents.into_iter().collect())));
        }
    }

    fn refuse_all_waiting(&mut self, refusal: &Refusal) {
        while let Some(waiting) = self.queue.pop() {
            self.refuse(waiting.answer, refusal.clone());
        }
    }

    fn refuse(&self, answer: LeaseAnswer, refusal: Refusal) {
        self.picture.send_modify(|picture| picture.refused += 1);
        // Who is gone need not be told.
        let _ = answer.send(Err(refusal));
    }

    fn publish(&self) {
        let (leases_out, queued) = (self.table.len(), self.queue.len());
        self.picture.send_modify(|picture| {
            picture.leases_out = leases_out;
            picture.leases_out_peak = picture.leases_out_peak.max(leases_out);
            picture.queued = queued;
            picture.queued_peak = picture.queued_peak.max(queued);
        });
    }

    /// Grants every lease again on the engine that has come up.
    fn regrant_all(&mut self, epoch: u64, context: &mut Context<Self>) {
        self.epoch = epoch;
        self.engine = Engine::Up;
        let deadline = self.deadline();
        for id in self.table.open_ids() {
            self.table.regrant(id, epoch, deadline);
            self.age(id, context);
        }
    }

    /// Takes every lease back: they are of an engine that will not return.
    fn go_down(&mut self, reason: String) {
        for id in self.table.open_ids() {
            let epoch = self.table.epoch_of(id).unwrap_or(self.epoch);
            self.close(id, Some(ThinkError::StaleLease { epoch }));
        }
        self.engine = Engine::Down { reason };
        if let Some(refusal) = self.closed() {
            self.refuse_all_waiting(&refusal);
        }
    }

    fn exited(&mut self, context: &mut Context<Self>) {
        // The thread has dropped all that it held and is at its very end.
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the engine thread panicked outside the engine");
        }
        self.commands = None;
        self.engine = Engine::Gone;
        self.expiries.clear();
        let is_stopping = !self.stopping.is_empty();
        let why = if is_stopping {
            ThinkError::Stopped
        } else {
            ThinkError::EngineFault { reason: "the engine thread ended".to_owned() }
        };
        self.table.end_all(&why);
        if let Some(refusal) = self.closed() {
            self.refuse_all_waiting(&refusal);
        }
        self.publish();
        for waiter in self.stopping.drain(..) {
            let _ = waiter.send(());
        }
        if is_stopping {
            context.stop();
        }
    }
}

impl Actor for GpuScheduler {
    type Context = Context<Self>;
}

impl Handler<Acquire> for GpuScheduler {
    type Result = ();

    fn handle(&mut self, message: Acquire, context: &mut Context<Self>) {
        let Acquire { ticket, request, answer } = message;
        if let Some(refusal) = self.closed() {
            self.refuse(answer, refusal);
            return;
        }
        if self.table.len() < self.slots {
            // Nobody waits while a slot is free.
            let lease = self.grant(&request, Instant::now(), context);
            let _ = answer.send(Ok(lease));
            self.publish();
            return;
        }
        let waiting = Waiting { ticket, request, since: Instant::now(), answer };
        if let Err(waiting) = self.queue.push(waiting, self.clock.now()) {
            let tokens_ahead = self.queue.tokens() + waiting.request.tokens();
            let retry_after = self.engine_picture.borrow().pace.retry_after(tokens_ahead, self.slots);
            let reason = RefusalReason::QueueFull { queue_max: self.queue_max };
            self.refuse(waiting.answer, Refusal { reason, retry_after: Some(retry_after) });
        }
        self.publish();
    }
}

impl Handler<Withdraw> for GpuScheduler {
    type Result = ();

    fn handle(&mut self, Withdraw(ticket): Withdraw, _: &mut Context<Self>) {
        self.queue.withdraw(ticket);
        self.publish();
    }
}

impl Handler<Submit> for GpuScheduler {
    type Result = ();

    fn handle(&mut self, message: Submit, _: &mut Context<Self>) {
        let command = self.table.submit(message.lease, message.pending);
        self.tell(command);
    }
}

impl Handler<Abort> for GpuScheduler {
    type Result = ();

    fn handle(&mut self, Abort(lease): Abort, _: &mut Context<Self>) {
        let command = self.table.abort(lease);
        self.tell(command);
    }
}

impl Handler<Release> for GpuScheduler {
    type Result = ();

    fn handle(&mut self, Release(lease): Release, context: &mut Context<Self>) {
        self.close(lease, None);
        self.serve(context);
    }
}

impl Handler<ReleaseAgent> for GpuScheduler {
    type Result = ();

    fn handle(&mut self, ReleaseAgent(agent): ReleaseAgent, context: &mut Context<Self>) {
        for waiting in self.queue.withdraw_agent(&agent) {
            self.refuse(waiting.answer, Refusal { reason: RefusalReason::AgentReleased, retry_after: None });
        }
        for lease in self.table.ids_of(&agent) {
            self.close(lease, Some(ThinkError::Cancelled));
        }
        self.forgetting.insert(agent);
        self.forget();
        self.serve(context);
    }
}

impl Handler<EngineEvent> for GpuScheduler {
    type Result = ();

    fn handle(&mut self, event: EngineEvent, context: &mut Context<Self>) {
        match event {
            EngineEvent::Ended { lease, request } => {
                let command = self.table.ended(lease, request);
                self.tell(command);
                self.serve(context);
            }
            EngineEvent::Forgotten => {
                self.is_forgetting = false;
                self.forget();
            }
            EngineEvent::Faulted => {
                // A lease does not age while there is nothing to use it on.
                self.engine = Engine::Away;
                self.expiries.clear();
            }
            EngineEvent::Up { epoch } => self.regrant_all(epoch, context),
            EngineEvent::Down { reason } => {
                self.go_down(reason);
                self.publish();
            }
            EngineEvent::Exited => self.exited(context),
        }
    }
}

impl Handler<Shutdown> for GpuScheduler {
    type Result = ();

    fn handle(&mut self, Shutdown(done): Shutdown, context: &mut Context<Self>) {
        self.stopping.push(done);
        for lease in self.table.open_ids() {
            self.close(lease, Some(ThinkError::Stopped));
        }
        if let Some(refusal) = self.closed() {
            self.refuse_all_waiting(&refusal);
        }
        self.publish();
        self.commands = None;
        if self.thread.is_none() {
            self.exited(context);
        }
    }
}
