//! What can go wrong when tools are loaded and when they are called.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use kintsugi_types::ErrorTier;

/// Why a call failed. The message is written for the model that made the call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ToolError {
    /// What can mend it.
    pub tier: ErrorTier,
    /// A stable name, for example `busy`, `invalid_arguments` or the code of a guard.
    pub code: Cow<'static, str>,
    /// What is wrong, in words.
    pub message: String,
    /// How long the other side asked to be left alone.
    pub retry_after: Option<Duration>,
}

impl ToolError {
    /// Goes away by itself.
    pub fn transient(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { tier: ErrorTier::Transient, code: code.into(), message: message.into(), retry_after: None }
    }

    /// Needs another call than this one.
    pub fn recoverable(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { tier: ErrorTier::Recoverable, code: code.into(), message: message.into(), retry_after: None }
    }

    /// Nothing that the agent does will help.
    pub fn fatal(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { tier: ErrorTier::Fatal, code: code.into(), message: message.into(), retry_after: None }
    }
}

/// One mistake in a tool's declaration: where it stands and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct LoadError {
    /// The file.
    pub file: PathBuf,
    /// The key within it, for example `guard[1].sql`; empty where the whole file is meant.
    pub key: String,
    /// What is wrong.
    pub problem: String,
    /// The next step, where there is an obvious one.
    pub hint: Option<String>,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file.display())?;
        if !self.key.is_empty() {
            write!(f, "`{}` ", self.key)?;
        }
        f.write_str(&self.problem)?;
        self.hint.iter().try_for_each(|hint| write!(f, "; {hint}"))
    }
}

/// All mistakes in a folder of tools, so that one look mends them all. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct LoadErrors(pub Vec<LoadError>);

impl fmt::Display for LoadErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}
