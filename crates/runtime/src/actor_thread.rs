//! The one thread that all actors of a process live on.

use std::sync::mpsc;
use std::thread::JoinHandle;

use actix::System;
use tracing::debug;

use crate::node::NodeError;

/// A thread with an actix system.
#[derive(Debug)]
pub(crate) struct ActorThread {
    system: System,
    thread: Option<JoinHandle<()>>,
}

impl ActorThread {
    /// Starts it, and returns what `inside` made there. `blocking_threads` is how many further ones may block for it.
    pub(crate) fn start<T: Send + 'static>(
        name: &str,
        blocking_threads: usize,
        inside: impl FnOnce() -> Result<T, NodeError> + Send + 'static,
    ) -> Result<(Self, T), NodeError> {
        let (told, outcome) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let system = System::with_tokio_rt(move || {
                #[expect(
                    clippy::expect_used,
                    reason = "without a runtime there is no node; the thread's end is seen"
                )]
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .max_blocking_threads(blocking_threads)
                    .build()
                    .expect("build runtime")
            });
            system.block_on(async {
                let made = inside();
                // Whoever started the thread waits for this.
                let _ = told.send(made.map(|made| (made, System::current())));
            });
            if let Err(failure) = system.run() {
                // Only a number; the reason stands in the status.
                debug!(%failure, "actors stopped");
            }
        })?;
        let (made, system) = outcome.recv().map_err(|_| NodeError::Died)??;
        Ok((Self { system, thread: Some(thread) }, made))
    }

    /// The system that runs there.
    pub(crate) const fn system(&self) -> &System {
        &self.system
    }

    /// Waits for its end, which somebody has asked the system for.
    pub(crate) fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has nothing more to tell.
            let _ = thread.join();
        }
    }

    /// Whether its end was waited for.
    pub(crate) const fn is_joined(&self) -> bool {
        self.thread.is_none()
    }

    /// Whether it ended by itself.
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}
