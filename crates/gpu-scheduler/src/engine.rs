//! The engine thread: owns the backend, runs what the actor sends, survives what the backend does.

mod guarded;
mod intensity;
mod job;
mod worker;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use actix::WeakAddr;
use kintsugi_types::Invariants;
use tokio::sync::watch;

use crate::actor::GpuScheduler;
use crate::config::{BackendFactory, OnFault, SchedulerConfig};
use crate::messages::{Command, EngineEvent};
use crate::stats::{EnginePicture, EngineState};
use worker::Worker;

/// What the thread takes along.
pub(crate) struct EngineParts {
    pub(crate) factory: BackendFactory,
    pub(crate) on_fault: OnFault,
    pub(crate) invariants: Arc<Invariants>,
    pub(crate) is_to_break: Arc<AtomicBool>,
    pub(crate) picture: watch::Sender<EnginePicture>,
    /// Weak, so that the engine does not keep alive an actor that nobody can reach any more.
    pub(crate) desk: WeakAddr<GpuScheduler>,
}

/// Starts the thread. It ends when the returned sender is dropped.
pub(crate) fn spawn(
    config: &SchedulerConfig,
    parts: EngineParts,
) -> std::io::Result<(SyncSender<Command>, JoinHandle<()>)> {
    // A run and a cancel for each slot, and one list of agents to forget.
    let commands_max = config.slots.saturating_mul(2).saturating_add(1);
    let (sender, commands) = sync_channel(commands_max);
    let (memory_budget, rebuild) = (config.memory_budget, config.rebuild.clone());
    let thread = std::thread::Builder::new().name("kintsugi-engine".to_owned()).spawn(move || {
        let picture = Arc::new(parts.picture);
        // Dropped last, by a panic as well: the actor has to hear of the end, whatever its cause.
        let _exit = ExitGuard { desk: parts.desk.clone(), picture: Arc::clone(&picture) };
        let desk = parts.desk;
        let emit = Box::new(move |event| emit(&desk, event));
        Worker::new(
            worker::Limits { commands_max, memory_budget, rebuild },
            worker::Links {
                commands,
                factory: parts.factory,
                on_fault: parts.on_fault,
                invariants: parts.invariants,
                is_to_break: parts.is_to_break,
                picture,
                emit,
            },
        )
        .run();
    })?;
    Ok((sender, thread))
}

fn emit(desk: &WeakAddr<GpuScheduler>, event: EngineEvent) {
    // An actor that is gone needs no report.
    if let Some(desk) = desk.upgrade() {
        desk.do_send(event);
    }
}

struct ExitGuard {
    desk: WeakAddr<GpuScheduler>,
    picture: Arc<watch::Sender<EnginePicture>>,
}

impl Drop for ExitGuard {
    fn drop(&mut self) {
        self.picture.send_modify(|picture| picture.state = EngineState::Stopped);
        emit(&self.desk, EngineEvent::Exited);
    }
}
