//! The one broker that tests share. It stays up until somebody calls [`down`].

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::error::BrokerError;
use crate::process::{self, Life};
use crate::settings::{self, Ports};
use crate::tls::{Secured, Validity};
use crate::{folder, jars};

/// Starts the broker where it is not up, and returns where clients find it.
pub fn up() -> Result<String, BrokerError> {
    let home = home()?;
    let _lock = lock(&home)?;
    if let Some(running) = running(&home) {
        return Ok(running.bootstrap());
    }
    jars::check_java()?;
    let jars = jars::fetch(&folder())?;
    // Tests make what they need: nothing of an earlier broker is missed.
    for left in ["data", "state"] {
        let path = home.join(left);
        drop(if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) });
    }
    let ports = Ports::free()?;
    settings::write(&home, ports, Validity::Month)?;
    process::format(&home, &jars)?;
    let child = process::start(&home, &jars, ports.clients, Life::Daemon)?;
    let started = Running { pid: child.id(), port: ports.clients, secured: ports.secured };
    let state = home.join("state");
    fs::write(&state, started.to_text()).map_err(BrokerError::io("write", &state))?;
    Ok(started.bootstrap())
}

/// Starts the broker where it is not up, and returns how its protected listener is reached.
pub fn secured() -> Result<Secured, BrokerError> {
    up()?;
    let home = home()?;
    let port = running(&home).map_or(0, |running| running.secured);
    Ok(Secured::of(&home, port))
}

/// Whether the broker is up.
pub fn is_up() -> Result<bool, BrokerError> {
    Ok(running(&home()?).is_some())
}

/// Stops the broker. Returns whether there was one.
pub fn down() -> Result<bool, BrokerError> {
    let home = home()?;
    let _lock = lock(&home)?;
    let Some(running) = running(&home) else { return Ok(false) };
    process::stop(running.pid, &home, None)?;
    drop(fs::remove_file(home.join("state")));
    drop(fs::remove_dir_all(home.join("data")));
    Ok(true)
}

/// The jars, fetched by one process at a time.
pub(crate) fn fetch_jars() -> Result<PathBuf, BrokerError> {
    let home = home()?;
    let _lock = lock(&home)?;
    jars::fetch(&folder())
}

fn home() -> Result<PathBuf, BrokerError> {
    let home = folder().join("shared");
    fs::create_dir_all(&home).map_err(BrokerError::io("create", &home))?;
    Ok(home)
}

/// Held while the broker is started or stopped.
fn lock(home: &Path) -> Result<File, BrokerError> {
    let path = home.join("lock");
    let file = File::create(&path).map_err(BrokerError::io("create", &path))?;
    file.lock().map_err(BrokerError::io("lock", &path))?;
    Ok(file)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Running {
    pid: u32,
    port: u16,
    secured: u16,
}

impl Running {
    fn bootstrap(self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn to_text(self) -> String {
        format!("{} {} {}", self.pid, self.port, self.secured)
    }

    fn from_text(text: &str) -> Option<Self> {
        let mut numbers = text.split_whitespace();
        let pid = numbers.next()?.parse().ok()?;
        Some(Self { pid, port: numbers.next()?.parse().ok()?, secured: numbers.next()?.parse().ok()? })
    }
}

fn running(home: &Path) -> Option<Running> {
    let running = Running::from_text(&fs::read_to_string(home.join("state")).ok()?)?;
    process::is_broker_of(running.pid, home).then_some(running)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_running_comes_back_as_it_was_written() {
        let running = Running { pid: 4711, port: 9092, secured: 9093 };
        assert_eq!(Running::from_text(&running.to_text()), Some(running));
        assert_eq!(Running::from_text(""), None);
    }

    #[test]
    fn a_number_that_another_process_took_over_is_no_broker() {
        assert!(!process::is_broker_of(std::process::id(), Path::new("/nowhere")));
    }
}
