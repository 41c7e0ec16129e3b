//! Signals that end a long-lived node, told apart: a person at the terminal, or whoever manages the service.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::signal::unix::{SignalKind, signal};

use crate::failure::{Explain, Failure};

/// Who wants the node to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// SIGINT: a person.
    Interrupted,
    /// SIGTERM or SIGHUP: a service manager, or a terminal that is gone.
    Terminated,
}

const INTERRUPTED: u8 = 1;
const TERMINATED: u8 = 2;

/// Hears signals.
#[derive(Debug, Clone)]
pub(crate) struct Signals {
    heard: Arc<AtomicU8>,
}

impl Signals {
    /// Listens from now on, on a thread of its own. Further signals change nothing: the node is stopping already.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let what = || "listen to signals".to_owned();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().outside(what)?;
        let entered = runtime.enter();
        let mut interrupt = signal(SignalKind::interrupt()).outside(what)?;
        let mut terminate = signal(SignalKind::terminate()).outside(what)?;
        let mut hang_up = signal(SignalKind::hangup()).outside(what)?;
        drop(entered);
        let heard = Arc::new(AtomicU8::new(0));
        let tell = heard.clone();
        let wait = move || {
            let ending = runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => INTERRUPTED,
                    _ = terminate.recv() => TERMINATED,
                    _ = hang_up.recv() => TERMINATED,
                }
            });
            tell.store(ending, Ordering::Relaxed);
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(wait).outside(what)?;
        Ok(Self { heard })
    }

    /// The first signal, if there was one.
    pub(crate) fn heard(&self) -> Option<Ending> {
        match self.heard.load(Ordering::Relaxed) {
            INTERRUPTED => Some(Ending::Interrupted),
            TERMINATED => Some(Ending::Terminated),
            _ => None,
        }
    }
}
