//! One statement with its named parameters.

use rusqlite::types::Value as SqlValue;
use rusqlite::{Connection, Rows};
use serde_json::Value;

use super::Failure;
use crate::binding::{Bindings, Source};
use crate::document::Section;
use crate::error::LoadError;
use crate::tool::ToolCall;

/// Whether a statement may change the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

/// A statement that was prepared once to prove that it is sound.
pub(super) struct Statement {
    sql: String,
    /// The source of each parameter, in SQLite's order.
    parameters: Vec<Source>,
}

impl Statement {
    /// Checks the statement `sql` that stands at the key `sql` of `section`.
    pub(super) fn check(
        connection: &Connection,
        section: &Section,
        access: Access,
        bindings: &Bindings,
    ) -> Result<Self, LoadError> {
        let key = "sql";
        let sql = section.text(key)?;
        let prepared =
            connection.prepare(sql).map_err(|error| section.error(key, format!("is refused: {error}")))?;
        if access == Access::Read && !prepared.readonly() {
            return Err(section.error(key, "changes the database; only [[write]] may"));
        }
        if access == Access::Write && prepared.readonly() {
            return Err(section.error(key, "changes nothing; conditions belong into [[guard]]"));
        }
        let mut parameters = Vec::new();
        for index in 1..=prepared.parameter_count() {
            let name = prepared.parameter_name(index).and_then(|name| name.strip_prefix(':'));
            let name = name.ok_or_else(|| section.error(key, "must name its parameters like `:order`"))?;
            let source = bindings
                .source(name)
                .map_err(|(problem, hint)| LoadError { hint, ..section.error(key, problem) })?;
            parameters.push(source.clone());
        }
        Ok(Self { sql: sql.to_owned(), parameters })
    }

    /// Runs it and hands its rows to `take`.
    pub(super) fn query<T>(
        &self,
        connection: &Connection,
        call: &ToolCall,
        take: impl FnOnce(&mut Rows<'_>, &[String]) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut statement = connection.prepare_cached(&self.sql)?;
        let columns: Vec<String> = statement.column_names().into_iter().map(str::to_owned).collect();
        for (index, source) in (1..).zip(&self.parameters) {
            statement.raw_bind_parameter(index, sql_value(source.value(call)?))?;
        }
        take(&mut statement.raw_query(), &columns)
    }

    /// Runs it for what it changes.
    pub(super) fn execute(&self, connection: &Connection, call: &ToolCall) -> Result<(), Failure> {
        self.query(connection, call, |rows, _| {
            while rows.next()?.is_some() {}
            Ok(())
        })
    }

    /// Whether its first row's first column is there and true.
    pub(super) fn holds(&self, connection: &Connection, call: &ToolCall) -> Result<bool, Failure> {
        self.query(connection, call, |rows, _| {
            let Some(row) = rows.next()? else { return Ok(false) };
            Ok(!matches!(row.get::<_, SqlValue>(0)?, SqlValue::Null | SqlValue::Integer(0)))
        })
    }
}

/// A JSON value as SQLite takes it; arrays and objects as their text.
fn sql_value(value: Value) -> SqlValue {
    match value {
        Value::Null => SqlValue::Null,
        Value::Bool(flag) => SqlValue::Integer(i64::from(flag)),
        Value::Number(number) => number
            .as_i64()
            .map(SqlValue::Integer)
            .or_else(|| number.as_f64().map(SqlValue::Real))
            .unwrap_or(SqlValue::Null),
        Value::String(text) => SqlValue::Text(text),
        Value::Array(_) | Value::Object(_) => SqlValue::Text(value.to_string()),
    }
}
