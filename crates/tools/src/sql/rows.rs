//! Rows as compact JSON within a limit.

use std::fmt::Write as _;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row};
use serde_json::{Map, Value};

use super::Failure;
use super::statement::Statement;
use crate::error::ToolError;
use crate::limit::{BoundedText, bounded};
use crate::tool::{ToolCall, ToolOutput};

/// What a tool says.
pub(super) enum Answer {
    /// Always the same.
    Fixed(String),
    /// The first row as an object, or `empty` where there is none.
    One { statement: Statement, empty: String },
    /// All rows as an array of objects, or `empty` where there is none.
    Many { statement: Statement, empty: String },
}

impl Answer {
    pub(super) fn read(
        &self,
        connection: &Connection,
        call: &ToolCall,
        bytes_max: usize,
    ) -> Result<ToolOutput, Failure> {
        match self {
            Self::Fixed(text) => Ok(bounded(text, bytes_max)),
            Self::One { statement, empty } => statement.query(connection, call, |rows, columns| {
                let Some(row) = rows.next()? else { return Ok(bounded(empty, bytes_max)) };
                let mut text = BoundedText::new(bytes_max);
                // An overflow is remembered by the text itself.
                let _ = write!(text, "{}", object(row, columns, bytes_max)?);
                Ok(text.into_output())
            }),
            Self::Many { statement, empty } => statement.query(connection, call, |rows, columns| {
                let mut text = BoundedText::new(bytes_max);
                let mut separator = '[';
                while let Some(row) = rows.next()? {
                    if write!(text, "{separator}{}", object(row, columns, bytes_max)?).is_err() {
                        return Ok(text.into_output());
                    }
                    separator = ',';
                }
                if separator == '[' {
                    return Ok(bounded(empty, bytes_max));
                }
                let _ = text.write_char(']');
                Ok(text.into_output())
            }),
        }
    }
}

/// A row as an object. Null columns are left out: they would only cost tokens.
fn object(row: &Row<'_>, columns: &[String], bytes_max: usize) -> Result<Value, Failure> {
    let mut members = Map::new();
    for (index, column) in columns.iter().enumerate() {
        let value = match row.get_ref(index)? {
            ValueRef::Null => continue,
            ValueRef::Integer(integer) => Value::from(integer),
            ValueRef::Real(real) => Value::from(real),
            ValueRef::Text(bytes) => {
                // Longer than the limit, it is cut there anyway.
                let kept = bytes.get(..=bytes_max).unwrap_or(bytes);
                Value::String(String::from_utf8_lossy(kept).into_owned())
            }
            ValueRef::Blob(_) => {
                return Err(
                    ToolError::fatal("blob", format!("column `{column}` holds bytes, not text")).into()
                );
            }
        };
        members.insert(column.clone(), value);
    }
    Ok(Value::Object(members))
}
