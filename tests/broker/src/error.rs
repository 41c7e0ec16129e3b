//! Why there is no broker.

use std::io;
use std::path::Path;

/// Why a broker could not be started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// A program is not there, or too old.
    #[error("a Kafka broker needs {program}: install it with `sudo apt-get install {package}`")]
    Missing {
        /// Which program, in words.
        program: String,
        /// The Debian package that brings it.
        package: &'static str,
    },
    /// The operating system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, with its place.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A program ended with an error, or took too long.
    #[error("{what}; it printed last:\n{printed}")]
    Failed {
        /// What went wrong.
        what: String,
        /// The end of what it printed.
        printed: String,
    },
}

impl BrokerError {
    /// For `map_err`: names what was tried on which path.
    pub(crate) fn io(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let what = format!("{what} {}", path.display());
        move |source| Self::Io { what, source }
    }
}
