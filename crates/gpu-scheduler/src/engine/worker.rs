//! The loop of the engine thread: obey, admit, step; rebuild what broke; block when there is nothing to do.

mod room;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use kintsugi_inference::{AdmitError, ContextId, Finished, KvHeld, ModelInfo, Origin, RequestId};
use kintsugi_types::{ByteCount, Completion, Invariants};
use tokio::sync::watch;

use super::guarded::{Guarded, message_of};
use super::intensity::{Intensity, Plan};
use super::job::{Jobs, Next};
use crate::config::{BackendFactory, EngineReport, OnFault, RebuildPolicy};
use crate::error::ThinkError;
use crate::ledger::{Discrepancy, Ledger};
use crate::messages::{Command, EngineEvent};
use crate::residency::Residency;
use crate::stats::{EnginePicture, EngineState, SwapCounts};

/// What bounds the worker.
pub(super) struct Limits {
    pub(super) commands_max: usize,
    pub(super) memory_budget: ByteCount,
    pub(super) rebuild: RebuildPolicy,
}

/// What connects the worker with the rest.
pub(super) struct Links {
    pub(super) commands: Receiver<Command>,
    pub(super) factory: BackendFactory,
    pub(super) on_fault: OnFault,
    pub(super) invariants: Arc<Invariants>,
    pub(super) is_to_break: Arc<AtomicBool>,
    pub(super) picture: Arc<watch::Sender<EnginePicture>>,
    pub(super) emit: Box<dyn Fn(EngineEvent)>,
}

/// Whether there is a backend.
enum Phase {
    /// There is.
    Up(Guarded),
    /// There is none; the next attempt is due then.
    Away { due: Instant },
}

/// How long the worker may block for a command.
enum Patience {
    Never,
    Until(Instant),
    Forever,
}

/// The state of the engine thread.
pub(super) struct Worker {
    links: Links,
    commands_max: usize,
    ledger: Ledger,
    intensity: Intensity,
    jobs: Jobs,
    residency: Residency,
    swaps: SwapCounts,
    phase: Phase,
    /// The engine was given up; jobs are answered at once.
    down: Option<String>,
    /// When the engine broke that has not been replaced yet.
    away_since: Option<Instant>,
    /// The oldest waiting job found no room; nothing is admitted until something leaves the batch.
    is_blocked: bool,
    /// Whose admission is tried, and since when.
    turn: Option<(RequestId, Instant)>,
    /// What the last audit found, so that a lasting disagreement is logged once.
    discrepancies: Vec<Discrepancy>,
}

impl Worker {
    pub(super) fn new(limits: Limits, links: Links) -> Self {
        Self {
            links,
            commands_max: limits.commands_max.max(1),
            ledger: Ledger::new(limits.memory_budget),
            intensity: Intensity::new(limits.rebuild),
            jobs: Jobs::default(),
            residency: Residency::default(),
            swaps: SwapCounts::default(),
            phase: Phase::Away { due: Instant::now() },
            down: None,
            away_since: None,
            is_blocked: false,
            turn: None,
            discrepancies: Vec::new(),
        }
    }

    /// Runs until the command channel is closed. Jobs that are left are dropped unanswered: whoever closed the
    /// channel has told their leases why.
    pub(super) fn run(mut self) {
        match self.build() {
            Ok((backend, model)) => self.come_up(backend, model),
            Err(reason) => self.fault(&reason, None),
        }
        while self.take_commands() {
            match self.phase {
                Phase::Up(_) => {
                    self.admit_waiting();
                    self.step();
                }
                Phase::Away { due } if due <= Instant::now() => self.rebuild(),
                Phase::Away { .. } => {}
            }
        }
    }

    fn patience(&self) -> Patience {
        match self.phase {
            Phase::Up(_) if self.jobs.is_empty() => Patience::Forever,
            Phase::Up(_) => Patience::Never,
            Phase::Away { due } => Patience::Until(due),
        }
    }

    /// Obeys what has arrived, and waits for it where there is nothing else to do. False when the channel is closed.
    fn take_commands(&mut self) -> bool {
        let first = match self.patience() {
            Patience::Never => self.links.commands.try_recv(),
            Patience::Forever => self.links.commands.recv().map_err(|_| TryRecvError::Disconnected),
            Patience::Until(due) => {
                let wait = due.saturating_duration_since(Instant::now());
                self.links.commands.recv_timeout(wait).map_err(|error| match error {
                    RecvTimeoutError::Timeout => TryRecvError::Empty,
                    RecvTimeoutError::Disconnected => TryRecvError::Disconnected,
                })
            }
        };
        let mut next = first;
        // Bounded, so that a stream of commands cannot keep the batch from its step.
        for _ in 0..self.commands_max {
            match next {
                Ok(command) => self.obey(command),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
            next = self.links.commands.try_recv();
        }
        if let Ok(command) = next {
            self.obey(command);
        }
        true
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Run(job) => {
                let id = job.id;
                self.jobs.insert(*job);
                if let Some(reason) = self.down.clone() {
                    self.settle(vec![(id, Err(ThinkError::EngineFault { reason }))]);
                }
            }
            Command::Cancel(id) => self.cancel(id),
            Command::Forget(agents) => {
                match self.forget(&agents) {
                    Ok(()) => self.audit(),
                    Err(reason) => self.fault(&reason, None),
                }
                (self.links.emit)(EngineEvent::Forgotten);
            }
        }
    }

    /// Drops a job without an answer, for nobody waits for one.
    fn cancel(&mut self, id: RequestId) {
        let context = self.jobs.context_of(id);
        let Some(job) = self.jobs.remove(id) else { return };
        // What waited behind it is asked again: it was the oldest, or it leaves room.
        self.is_blocked = false;
        if let Some(context) = context {
            self.ledger.release(id);
            self.residency.cancel(context);
            if let Phase::Up(backend) = &mut self.phase
                && let Err(reason) = backend.cancel(id)
            {
                self.fault(&reason, None);
            }
            self.audit();
        }
        (self.links.emit)(EngineEvent::Ended { lease: job.lease, request: id });
    }

    fn admit_waiting(&mut self) {
        while !self.is_blocked {
            let Next::Admit(id) = self.jobs.next() else { return };
            let Some(job) = self.jobs.get(id) else { return };
            if self.turn.is_none_or(|(of, _)| of != id) {
                self.turn = Some((id, Instant::now()));
            }
            let (request, urgency) = (job.request.clone(), job.urgency);
            let context = self.residency.context_of(&job.owner, urgency);
            let origin = Origin { context: Some(context), salt: job.owner.tenant.as_str().into() };
            let Phase::Up(backend) = &mut self.phase else { return };
            match backend.admit(id, request, &origin) {
                Err(reason) => return self.fault(&reason, Some(id)),
                Ok(Ok(admitted)) => self.entered(id, context, urgency, &admitted),
                Ok(Err(error)) => self.refused(id, context, error),
            }
            self.residency.drop_if_empty(context);
        }
    }

    /// Makes room for a request that found none, or lets it wait; whatever else is wrong with it will not change.
    fn refused(&mut self, id: RequestId, context: ContextId, error: AdmitError) {
        if let AdmitError::NoRoom { needed, free } = &error {
            match self.make_room(context, ByteCount(needed.0.saturating_sub(free.0))) {
                Err(reason) => return self.fault(&reason, None),
                Ok(true) => return,
                Ok(false) => {}
            }
        }
        if error.is_retryable() && self.ledger.requests() > 0 {
            self.is_blocked = true;
            self.turn = None;
        } else {
            // With the batch to itself there will never be more room.
            self.settle(vec![(id, Err(error.into()))]);
        }
    }

    fn step(&mut self) {
        if self.ledger.requests() == 0 {
            return;
        }
        let Phase::Up(backend) = &mut self.phase else { return };
        let finished = match backend.step() {
            Err(reason) => return self.fault(&reason, None),
            Ok(finished) if finished.is_empty() => return self.audit(),
            Ok(finished) => finished,
        };
        let mut outcomes = Vec::with_capacity(finished.len());
        for Finished { id, outcome, kept } in finished {
            let Some(context) = self.jobs.context_of(id) else { continue };
            self.ledger.release(id);
            self.ledger.keep(context, kept);
            self.residency.finish(context, kept != KvHeld::default());
            if outcome.is_ok() {
                self.intensity.answered();
            }
            outcomes.push((id, outcome.map_err(|reason| ThinkError::Failed { reason })));
        }
        self.settle(outcomes);
        if let Err(reason) = self.relieve() {
            return self.fault(&reason, None);
        }
        self.audit();
    }

    /// Ends jobs: first the books, then the actor, then the callers. So a caller finds its tokens counted, and the
    /// lease that it drops finds itself idle.
    fn settle(&mut self, outcomes: Vec<(RequestId, Result<Completion, ThinkError>)>) {
        let mut ended = Vec::with_capacity(outcomes.len());
        for (id, outcome) in outcomes {
            let Some(job) = self.jobs.remove(id) else { continue };
            self.ledger.release(id);
            ended.push((job, outcome));
        }
        self.is_blocked = false;
        self.links.picture.send_modify(|picture| {
            for completion in ended.iter().filter_map(|(_, outcome)| outcome.as_ref().ok()) {
                let usage = completion.usage;
                picture.completions += 1;
                picture.usage += usage;
                let computed = usage.prompt.saturating_sub(usage.cached) + usage.completion;
                picture.pace.measure(computed, completion.think_ms);
            }
        });
        self.audit();
        for (job, outcome) in ended {
            (self.links.emit)(EngineEvent::Ended { lease: job.lease, request: job.id });
            // A caller that went away has sent an abort or dropped its lease; neither needs this answer.
            let _ = job.answer.send(outcome);
        }
    }

    /// Holds the ledger against the engine and publishes it. A batch that is not the ledger's is a fault: a request
    /// that the engine lost would never end.
    fn audit(&mut self) {
        let Phase::Up(backend) = &mut self.phase else {
            self.publish_ledger();
            return;
        };
        let (memory, active) = match backend.holdings() {
            Ok(holdings) => holdings,
            Err(reason) => return self.fault(&reason, None),
        };
        let found = self.ledger.audit(&memory, active);
        for discrepancy in &found {
            self.links.invariants.check(discrepancy.invariant(), false);
        }
        self.publish_ledger();
        let lost = found.iter().find(|found| matches!(found, Discrepancy::Requests { .. })).copied();
        if found != self.discrepancies {
            for discrepancy in &found {
                tracing::error!(invariant = discrepancy.invariant().name(), "{discrepancy}");
            }
            self.discrepancies = found;
        }
        if let Some(lost) = lost {
            self.fault(&lost.to_string(), None);
        }
    }

    fn publish_ledger(&mut self) {
        let ledger = &self.ledger;
        let residences = self.residency.news().map(Arc::new);
        self.links.picture.send_modify(|picture| {
            picture.active = ledger.requests();
            picture.active_peak = picture.active_peak.max(ledger.requests());
            picture.memory = *ledger.held();
            picture.memory_peak = ledger.total_peak();
            picture.kv_used_peak = ledger.kv_used_peak();
            picture.kv_host_peak = ledger.kv_host_peak();
            picture.waiting_on_device = self.residency.on_device();
            picture.residents_peak =
                picture.residents_peak.max(ledger.requests() + picture.waiting_on_device);
            picture.waiting_in_host_memory = self.residency.in_host_memory();
            picture.swaps = self.swaps;
            if let Some(residences) = residences {
                picture.residences = residences;
            }
        });
    }

    /// Throws the engine away and plans the next. Its requests run again in that one, under the same names, unless
    /// they were there too often when an engine broke.
    fn fault(&mut self, reason: &str, culprit: Option<RequestId>) {
        let now = Instant::now();
        // Dropped before the next is built: two engines do not fit into one budget.
        self.phase = Phase::Away { due: now };
        self.ledger.clear();
        self.residency.clear();
        self.discrepancies.clear();
        self.is_blocked = false;
        self.away_since.get_or_insert(now);
        let (lost, condemned) = self.jobs.fault(culprit);
        tracing::error!(reason, requests = lost, "engine fault");
        self.links.picture.send_modify(|picture| {
            picture.faults += 1;
            if self.down.is_none() {
                picture.state = EngineState::Rebuilding;
            }
        });
        if self.down.is_none() {
            (self.links.emit)(EngineEvent::Faulted);
        }
        self.report(EngineReport::Fault { reason: reason.to_owned(), requests: lost });
        self.fail_jobs(condemned, reason);
        match self.intensity.plan(now) {
            Plan::Attempt { delay } if self.down.is_none() => self.phase = Phase::Away { due: now + delay },
            Plan::Attempt { .. } | Plan::GiveUp => self.go_down(reason, now + self.intensity.pause()),
        }
    }

    fn go_down(&mut self, reason: &str, due: Instant) {
        self.phase = Phase::Away { due };
        let was_down = self.down.replace(reason.to_owned()).is_some();
        self.links
            .picture
            .send_modify(|picture| picture.state = EngineState::Down { reason: reason.to_owned() });
        self.fail_jobs(self.jobs.ids(), reason);
        // After the jobs, so that the actor finds idle leases to take back.
        (self.links.emit)(EngineEvent::Down { reason: reason.to_owned() });
        if !was_down {
            self.report(EngineReport::Down { reason: reason.to_owned() });
        }
    }

    fn fail_jobs(&mut self, ids: Vec<RequestId>, reason: &str) {
        if ids.is_empty() {
            self.publish_ledger();
            return;
        }
        let error = || ThinkError::EngineFault { reason: reason.to_owned() };
        self.settle(ids.into_iter().map(|id| (id, Err(error()))).collect());
    }

    fn rebuild(&mut self) {
        let attempt = self.intensity.record(Instant::now());
        match self.build() {
            Ok((backend, model)) => {
                let away = self.away_since.map_or(Duration::ZERO, |since| since.elapsed());
                self.links.picture.send_modify(|picture| picture.rebuilds += 1);
                self.come_up(backend, model);
                let ms = u64::try_from(away.as_millis()).unwrap_or(u64::MAX);
                self.report(EngineReport::Rebuilt { ms, attempt });
            }
            Err(reason) => self.fault(&reason, None),
        }
    }

    /// Makes a backend and refuses one that holds more than it may.
    fn build(&mut self) -> Result<(Guarded, ModelInfo), String> {
        let mut backend = Guarded::build(&mut self.links.factory, self.links.is_to_break.clone())?;
        let model = backend.info()?;
        let (memory, active) = backend.holdings()?;
        let found = self.ledger.audit(&memory, active);
        for discrepancy in &found {
            self.links.invariants.check(discrepancy.invariant(), false);
        }
        match found.first() {
            Some(discrepancy) => Err(discrepancy.to_string()),
            None => Ok((backend, model)),
        }
    }

    fn come_up(&mut self, backend: Guarded, model: ModelInfo) {
        self.phase = Phase::Up(backend);
        self.down = None;
        self.away_since = None;
        let mut epoch = 0;
        self.links.picture.send_modify(|picture| {
            picture.epoch += 1;
            picture.state = EngineState::Up;
            picture.model = Some(model);
            epoch = picture.epoch;
        });
        tracing::info!(epoch, "engine is up");
        self.publish_ledger();
        (self.links.emit)(EngineEvent::Up { epoch });
    }

    fn report(&self, report: EngineReport) {
        let on_fault = &self.links.on_fault;
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| on_fault(report))) {
            tracing::error!(reason = message_of(payload.as_ref()), "fault listener panicked");
        }
    }
}
