//! Tools that are statements against a SQLite database.
//!
//! A write is one immediate transaction: guards first, then the effect's id, then the statements, then the outcome
//! beside the id. So a repeat under the same id finds the outcome and returns it, whatever was killed in between.

mod connection;
mod declaration;
mod rows;
mod statement;

use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kintsugi_types::{EffectId, ToolSpec};
use rusqlite::{Connection, OptionalExtension, TransactionBehavior};
use serde_json::Value;

use crate::binding::Template;
use crate::error::ToolError;
use crate::load::SharedConnection;
use crate::tool::{Tool, ToolCall, ToolOutput};
use connection::{interrupt_at, interrupt_never, tool_error};
use rows::Answer;
use statement::Statement;

/// A tool of the kind `sql`.
pub struct SqlTool {
    spec: ToolSpec,
    connection: SharedConnection,
    guards: Vec<Guard>,
    writes: Vec<Statement>,
    answer: Answer,
    timeout: Duration,
    output_bytes_max: usize,
    output_schema: Option<Value>,
}

/// A condition that must hold before anything is written.
struct Guard {
    /// Must return a row whose first column is neither null nor 0.
    statement: Statement,
    /// The refusal's stable name.
    code: String,
    /// The refusal in words.
    message: Template,
}

impl std::fmt::Debug for SqlTool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqlTool").field("spec", &self.spec).finish_non_exhaustive()
    }
}

impl Tool for SqlTool {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn call(&self, call: &ToolCall) -> Result<ToolOutput, ToolError> {
        let deadline = call.deadline_within(self.timeout);
        let mut connection = self.lock();
        interrupt_at(&connection, deadline)?;
        let result = if self.spec.safety.is_write() {
            self.write(&mut connection, call)
        } else {
            self.read(&connection, call)
        };
        interrupt_never(&connection);
        result.map_err(|failure| match failure {
            Failure::Tool(error) => error,
            Failure::Sqlite(error) => tool_error(&error),
        })
    }

    fn post_condition(&self, effect: EffectId) -> Option<bool> {
        if !self.spec.safety.is_write() {
            return None;
        }
        let connection = self.lock();
        interrupt_at(&connection, Instant::now() + self.timeout).ok()?;
        let outcome = recorded(&connection, effect);
        interrupt_never(&connection);
        outcome.ok().map(|outcome| outcome.is_some())
    }

    fn output_schema(&self) -> Option<&Value> {
        self.output_schema.as_ref()
    }

    fn output_bytes_max(&self) -> usize {
        self.output_bytes_max
    }
}

/// A refusal of ours or an error of SQLite's.
enum Failure {
    Tool(ToolError),
    Sqlite(rusqlite::Error),
}

impl From<ToolError> for Failure {
    fn from(error: ToolError) -> Self {
        Self::Tool(error)
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl SqlTool {
    /// A thread that panicked inside a call has rolled its transaction back, so the connection is as good as new.
    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, connection: &Connection, call: &ToolCall) -> Result<ToolOutput, Failure> {
        self.check_guards(connection, call)?;
        self.answer.read(connection, call, self.output_bytes_max)
    }

    fn write(&self, connection: &mut Connection, call: &ToolCall) -> Result<ToolOutput, Failure> {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if let Some(outcome) = recorded(&transaction, call.effect)? {
            // It was kept within the limit, but for the mark that says so, when it was recorded.
            return Ok(ToolOutput { truncated: outcome.len() > self.output_bytes_max, text: outcome });
        }
        self.check_guards(&transaction, call)?;
        let effect = call.effect.to_string();
        transaction
            .prepare_cached("INSERT INTO kintsugi_effects (effect, outcome) VALUES (?1, '')")?
            .execute([&effect])?;
        for statement in &self.writes {
            statement.execute(&transaction, call)?;
        }
        let output = self.answer.read(&transaction, call, self.output_bytes_max)?;
        transaction
            .prepare_cached("UPDATE kintsugi_effects SET outcome = ?2 WHERE effect = ?1")?
            .execute([&effect, &output.text])?;
        transaction.commit()?;
        Ok(output)
    }

    fn check_guards(&self, connection: &Connection, call: &ToolCall) -> Result<(), Failure> {
        for guard in &self.guards {
            if !guard.statement.holds(connection, call)? {
                let message = guard.message.render(call, str::to_owned)?;
                return Err(ToolError::recoverable(guard.code.clone(), message).into());
            }
        }
        Ok(())
    }
}

/// The outcome that was recorded with `effect`, if it happened.
fn recorded(connection: &Connection, effect: EffectId) -> rusqlite::Result<Option<String>> {
    connection
        .prepare_cached("SELECT outcome FROM kintsugi_effects WHERE effect = ?1")?
        .query_row([effect.to_string()], |row| row.get(0))
        .optional()
}
