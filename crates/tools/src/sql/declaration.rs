//! How a SQL tool is declared.

use std::sync::PoisonError;

use kintsugi_types::ToolSafety;
use rusqlite::Connection;
use serde_json::Value;

use super::connection::{keep_statements, open, prepare_for_writes};
use super::rows::Answer;
use super::statement::{Access, Statement};
use super::{Guard, SqlTool};
use crate::binding::{Bindings, Template};
use crate::document::Section;
use crate::error::LoadError;
use crate::load::{DatabaseSource, Declaration};

const ACCESSES: [(&str, Access); 2] = [("read", Access::Read), ("write", Access::Write)];

#[derive(Debug, Clone, Copy)]
enum RowCount {
    One,
    Many,
}

const ROW_COUNTS: [(&str, RowCount); 2] = [("one", RowCount::One), ("many", RowCount::Many)];

impl SqlTool {
    /// Opens the database and prepares every statement once, so that a mistake shows at load and not in a call.
    pub(crate) fn open(declaration: Declaration, databases: &DatabaseSource) -> Result<Self, LoadError> {
        declaration.expect_keys(&["database", "mode", "guard", "write", "result"])?;
        let section = &declaration.section;
        let database = section.text("database")?;
        let shared = match databases {
            DatabaseSource::Folder(folder) => {
                open(folder, database).map_err(|problem| section.error("database", problem))?
            }
            DatabaseSource::Shared(connection) => connection.clone(),
        };
        let access = section.optional_choice("mode", &ACCESSES)?;
        let access = access.ok_or_else(|| section.error("mode", "is missing: read or write"))?;
        let safety = safety(section, access, declaration.safety)?;

        let connection = shared.lock().unwrap_or_else(PoisonError::into_inner);
        keep_statements(&connection);
        if access == Access::Write {
            prepare_for_writes(&connection).map_err(|error| section.error("database", error.to_string()))?;
        }
        let bindings = &declaration.bindings;
        let guards = section.sections("guard")?;
        let guards: Vec<Guard> =
            guards.iter().map(|guard| read_guard(&connection, guard, bindings)).collect::<Result<_, _>>()?;
        let writes = section.sections("write")?;
        match access {
            Access::Read if !writes.is_empty() => {
                return Err(section.error("write", "stands in a tool of mode `read`"));
            }
            Access::Write if writes.is_empty() => {
                return Err(section.error("write", "is missing: a tool of mode `write` needs one at least"));
            }
            _ => {}
        }
        let writes = writes.iter().map(|write| {
            write.expect_keys(&["sql"])?;
            Statement::check(&connection, write, Access::Write, bindings)
        });
        let writes = writes.collect::<Result<_, _>>()?;
        let result =
            section.optional_section("result")?.ok_or_else(|| section.error("result", "is missing"))?;
        let answer = read_answer(&connection, &result, bindings)?;
        drop(connection);

        Ok(Self {
            spec: declaration.spec(safety),
            connection: shared,
            guards,
            writes,
            answer,
            timeout: declaration.timeout,
            output_bytes_max: declaration.output_bytes_max,
            output_schema: declaration.output_schema,
        })
    }
}

/// A read is `read_only`; a write is `keyed`, since it records the effect's id in its own transaction.
fn safety(section: &Section, access: Access, declared: Option<ToolSafety>) -> Result<ToolSafety, LoadError> {
    let actual = match access {
        Access::Read => ToolSafety::ReadOnly,
        Access::Write => ToolSafety::Keyed,
    };
    match declared {
        Some(declared) if declared != actual => {
            Err(section.error("safety", "does not fit `mode`: a read is read_only, a write is keyed"))
        }
        _ => Ok(actual),
    }
}

fn read_guard(connection: &Connection, section: &Section, bindings: &Bindings) -> Result<Guard, LoadError> {
    section.expect_keys(&["sql", "code", "message"])?;
    let message = section.text("message")?;
    let error = |problem, hint| LoadError { hint, ..section.error("message", problem) };
    Ok(Guard {
        statement: Statement::check(connection, section, Access::Read, bindings)?,
        code: section.text("code")?.to_owned(),
        message: Template::parse(message, bindings, error)?,
    })
}

fn read_answer(connection: &Connection, section: &Section, bindings: &Bindings) -> Result<Answer, LoadError> {
    section.expect_keys(&["sql", "rows", "empty", "value"])?;
    if let Some(value) = section.json("value")? {
        if section.has("sql") {
            return Err(section.error("value", "cannot stand beside `sql`"));
        }
        return Ok(Answer::Fixed(value.to_string()));
    }
    let statement = Statement::check(connection, section, Access::Read, bindings)?;
    let empty = section.json("empty")?;
    Ok(match section.optional_choice("rows", &ROW_COUNTS)?.unwrap_or(RowCount::Many) {
        RowCount::One => Answer::One { statement, empty: empty.unwrap_or(Value::Null).to_string() },
        RowCount::Many => {
            Answer::Many { statement, empty: empty.unwrap_or_else(|| Value::Array(Vec::new())).to_string() }
        }
    })
}
