//! Opening a database, bounding a call's time, and what SQLite's errors mean for an agent.

use std::path::{Component, Path};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::error::ToolError;
use crate::load::SharedConnection;

/// How long a call waits for another writer before it reports the database as busy.
const BUSY_WAIT_MAX: Duration = Duration::from_secs(2);

/// How often SQLite asks whether a call's time is over, in its virtual machine's instructions: some tens of
/// microseconds.
const INSTRUCTIONS_PER_CHECK: i32 = 1_000;

/// Statements kept prepared per connection; a tool has a handful.
const STATEMENTS_KEPT: usize = 64;

/// Opens `name` within `folder`. The name must stay inside of it and the file must exist.
pub(super) fn open(folder: &Path, name: &str) -> Result<SharedConnection, String> {
    let relative = Path::new(name);
    if !relative.components().all(|component| matches!(component, Component::Normal(_))) {
        return Err("must be a path within the folder of data files".to_owned());
    }
    let path = folder.join(relative);
    if !path.is_file() {
        return Err(format!(
            "names {name}, and there is no file {}: put {name} at the top of the example's folder, from where \
             data files are copied, or mend the name",
            path.display()
        ));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let describe = |error: rusqlite::Error| format!("{}: {error}", path.display());
    let connection = Connection::open_with_flags(&path, flags).map_err(describe)?;
    connection.busy_timeout(BUSY_WAIT_MAX).map_err(describe)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(describe)?;
    // An outcome that the journal holds must survive a power cut, so every commit is synced.
    connection.pragma_update(None, "synchronous", "FULL").map_err(describe)?;
    connection.pragma_update(None, "foreign_keys", "ON").map_err(describe)?;
    Ok(Arc::new(Mutex::new(connection)))
}

/// Creates what writes need.
pub(super) fn prepare_for_writes(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .execute_batch("CREATE TABLE IF NOT EXISTS kintsugi_effects (effect TEXT PRIMARY KEY, outcome TEXT)")
}

/// Room for the prepared statements of all tools on this connection.
pub(super) fn keep_statements(connection: &Connection) {
    connection.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
}

/// Lets whatever runs on `connection` from now on end at `deadline`.
pub(super) fn interrupt_at(connection: &Connection, deadline: Instant) -> Result<(), ToolError> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(timeout());
    }
    connection.busy_timeout(left.min(BUSY_WAIT_MAX)).map_err(|error| tool_error(&error))?;
    connection
        .progress_handler(INSTRUCTIONS_PER_CHECK, Some(move || Instant::now() >= deadline))
        .map_err(|error| tool_error(&error))
}

/// Takes the deadline off again: a shared connection may serve others than tools.
pub(super) fn interrupt_never(connection: &Connection) {
    // This fails only for a connection that is not our own.
    let _ = connection.progress_handler(0, None::<fn() -> bool>);
}

fn timeout() -> ToolError {
    ToolError::transient("timeout", "the database did not answer in time")
}

/// What an error of SQLite's means for the agent that made the call.
pub(super) fn tool_error(error: &rusqlite::Error) -> ToolError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            ToolError::transient("busy", "the database is busy")
        }
        Some(ErrorCode::OperationInterrupted) => timeout(),
        Some(ErrorCode::ConstraintViolation) => {
            ToolError::recoverable("constraint", format!("the database refuses this: {error}"))
        }
        Some(ErrorCode::TypeMismatch) => {
            ToolError::recoverable("invalid_arguments", format!("the database refuses this: {error}"))
        }
        _ => ToolError::fatal("database", format!("the database failed: {error}")),
    }
}
