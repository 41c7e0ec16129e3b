//! A broker that one test has for itself.

use std::fs;
use std::path::PathBuf;
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::BrokerError;
use crate::process::{self, Life};
use crate::settings::{self, Ports};
use crate::tls::{Secured, Validity};
use crate::{folder, jars, shared};

/// How often other ports are tried where somebody took one first.
const TRIES_MAX: u32 = 5;

/// What the broker prints where a port is taken.
const PORT_TAKEN: [&str; 2] = ["Address already in use", "BindException"];

/// A broker that ends, with its data, when this is dropped.
#[derive(Debug)]
pub struct Broker {
    folder: PathBuf,
    jars: PathBuf,
    ports: Ports,
    /// `None` while it is down.
    child: Option<Child>,
}

impl Broker {
    /// Starts a broker without any topic. It ends with the thread that starts it, so that none is left behind.
    pub fn start() -> Result<Self, BrokerError> {
        Self::start_with(Validity::Month)
    }

    /// The same, with a protected listener whose certificate is no longer good.
    pub fn start_with_expired_certificate() -> Result<Self, BrokerError> {
        Self::start_with(Validity::Expired)
    }

    fn start_with(validity: Validity) -> Result<Self, BrokerError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        jars::check_java()?;
        let jars = shared::fetch_jars()?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = folder().join(format!("own-{}-{number}", std::process::id()));
        let mut tries = 0;
        loop {
            tries += 1;
            // What a process with this number left behind belongs to nobody.
            drop(fs::remove_dir_all(&folder));
            fs::create_dir_all(&folder).map_err(BrokerError::io("create", &folder))?;
            let ports = Ports::free()?;
            settings::write(&folder, ports, validity)?;
            process::format(&folder, &jars)?;
            match process::start(&folder, &jars, ports.clients, Life::OfThread) {
                Ok(child) => return Ok(Self { folder, jars, ports, child: Some(child) }),
                Err(BrokerError::Failed { printed, .. })
                    if tries < TRIES_MAX && PORT_TAKEN.iter().any(|taken| printed.contains(taken)) => {}
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Where clients find it.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.ports.clients)
    }

    /// How its protected listener is reached.
    pub fn secured(&self) -> Secured {
        Secured::of(&self.folder, self.ports.secured)
    }

    /// Kills it as a crash does. Its data stays.
    pub fn kill(&mut self) -> Result<(), BrokerError> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        // A frozen process dies of this too.
        let killed = child.kill().and_then(|()| child.wait());
        killed.map(drop).map_err(BrokerError::io("kill the broker in", &self.folder))
    }

    /// Ends it as an operator does. Its data stays.
    pub fn stop(&mut self) -> Result<(), BrokerError> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        process::stop(child.id(), &self.folder, Some(&mut child))
    }

    /// Starts it again with its data, at its address.
    pub fn restart(&mut self) -> Result<(), BrokerError> {
        self.kill()?;
        let child = process::start(&self.folder, &self.jars, self.ports.clients, Life::OfThread)?;
        self.child = Some(child);
        Ok(())
    }

    /// Stops it in the middle of whatever it does: connections stay open and nothing is answered.
    pub fn freeze(&self) -> Result<(), BrokerError> {
        self.child.as_ref().map_or(Ok(()), |child| process::signal(child.id(), "STOP"))
    }

    /// Lets it go on.
    pub fn thaw(&self) -> Result<(), BrokerError> {
        self.child.as_ref().map_or(Ok(()), |child| process::signal(child.id(), "CONT"))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Nobody is left to be told; what stays behind lies in the target folder.
        let _ = self.kill();
        drop(fs::remove_dir_all(&self.folder));
    }
}
