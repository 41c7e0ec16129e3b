//! How a command ends when it does not end well: a message for a person, a status for a program.

use std::fmt;
use std::process::ExitCode;

use kintsugi_eventlog::LogError;

use crate::terminal::say;

/// Why the command failed. The number is the exit status, an outside contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum FailureKind {
    /// The job itself failed: an invariant broke, a goal was lost.
    Job = 1,
    /// Wrong usage or configuration.
    Usage = 2,
    /// Something outside is missing or unreachable.
    Outside = 3,
    /// Interrupted; the same command resumes.
    Interrupted = 130,
}

/// A failure with its message: what, where, and the next step.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn job(message: impl fmt::Display) -> Self {
        Self { kind: FailureKind::Job, message: message.to_string() }
    }

    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self { kind: FailureKind::Usage, message: message.to_string() }
    }

    pub(crate) fn outside(message: impl fmt::Display) -> Self {
        Self { kind: FailureKind::Outside, message: message.to_string() }
    }

    pub(crate) fn interrupted(message: impl fmt::Display) -> Self {
        Self { kind: FailureKind::Interrupted, message: message.to_string() }
    }

    /// Writes the message to stderr and gives the status.
    pub(crate) fn report(&self) -> ExitCode {
        match self.kind {
            FailureKind::Interrupted => say(&self.message),
            _ => say(&format!("error: {}", self.message)),
        }
        ExitCode::from(self.kind as u8)
    }
}

/// The log names the place; what is to be done about it depends on what a log is part of.
impl From<LogError> for Failure {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Corrupt { .. } => Self::outside(format_args!(
                "{error}; nothing was changed: put the file back from a copy, or begin anew with \
                 --data-dir NEW"
            )),
            LogError::Version { .. } => {
                Self::outside(format_args!("{error}: use the version of kintsugi that wrote it"))
            }
            LogError::Trimmed { .. } => Self::outside(format_args!(
                "{error}, faster than this could read them: ask again, or keep more (`log.retention_bytes`; on Kafka \
                 `retention.ms` of the topic)"
            )),
            _ => {
                let told = error.to_string();
                Self::outside(format_args!("{told}{}", when_full(&told)))
            }
        }
    }
}

/// How the system tells that a disk, or somebody's share of it, is full, or that a file may not grow.
const FULL: [&str; 6] =
    ["(os error 28)", "StorageFull", "(os error 122)", "QuotaExceeded", "(os error 27)", "FileTooLarge"];

/// What to do where an error tells of a full disk; nothing of others.
pub(crate) fn when_full(told: &str) -> &'static str {
    if FULL.iter().any(|full| told.contains(full)) {
        "; make room there, or name a folder on another disk with --data-dir"
    } else {
        ""
    }
}

/// Gives an outside error its place and next step.
pub(crate) trait Explain<T> {
    /// The failure says `what` before the error.
    fn outside(self, what: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: fmt::Display> Explain<T> for Result<T, E> {
    fn outside(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|error| {
            let told = format!("{}: {error}", what());
            Failure::outside(format_args!("{told}{}", when_full(&told)))
        })
    }
}
