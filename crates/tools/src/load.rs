//! Declarations of tools: TOML, one tool a file.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kintsugi_types::{ToolName, ToolSafety, ToolSpec};
use serde_json::{Value, json};

use crate::binding::Bindings;
use crate::document::Section;
use crate::error::LoadError;
use crate::http::HttpTool;
use crate::schema::Schema;
use crate::sql::SqlTool;
use crate::tool::{OUTPUT_BYTES_MAX_DEFAULT, TIMEOUT_DEFAULT, Tool};

/// A database that several tools share.
pub type SharedConnection = Arc<Mutex<rusqlite::Connection>>;

/// Where the databases of SQL tools are.
#[derive(Clone)]
pub enum DatabaseSource {
    /// Files in this folder; each tool keeps a connection of its own. The folder must be a copy that may be
    /// written: opening sets the journal mode and creates the table of effects.
    Folder(PathBuf),
    /// This one connection, whatever file a tool names: a database in memory, for tests and traces.
    Shared(SharedConnection),
}

impl fmt::Debug for DatabaseSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => f.debug_tuple("Folder").field(folder).finish(),
            Self::Shared(_) => f.write_str("Shared"),
        }
    }
}

/// What declarations refer to and do not hold themselves.
#[derive(Clone, Copy)]
pub struct LoadContext<'a> {
    /// Where the databases are.
    pub databases: &'a DatabaseSource,
    /// The value of a secret by its name. This crate does not read the environment.
    pub secrets: &'a dyn Fn(&str) -> Option<String>,
}

impl fmt::Debug for LoadContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadContext").field("databases", self.databases).finish_non_exhaustive()
    }
}

/// Keys that every kind of tool takes.
const COMMON_KEYS: [&str; 9] = [
    "name",
    "kind",
    "description",
    "safety",
    "parameters",
    "bind",
    "timeout_ms",
    "output_bytes_max",
    "output_schema",
];

const SAFETIES: [(&str, ToolSafety); 3] =
    [("read_only", ToolSafety::ReadOnly), ("keyed", ToolSafety::Keyed), ("unkeyed", ToolSafety::Unkeyed)];

#[derive(Debug, Clone, Copy)]
enum Kind {
    Sql,
    Http,
}

const KINDS: [(&str, Kind); 2] = [("sql", Kind::Sql), ("http", Kind::Http)];

/// What all kinds have in common, read and checked.
pub(crate) struct Declaration {
    pub(crate) section: Section,
    pub(crate) name: ToolName,
    pub(crate) description: String,
    pub(crate) parameters: Value,
    pub(crate) safety: Option<ToolSafety>,
    pub(crate) bindings: Bindings,
    pub(crate) timeout: Duration,
    pub(crate) output_bytes_max: usize,
    pub(crate) output_schema: Option<Value>,
}

impl Declaration {
    fn read(section: Section) -> Result<Self, LoadError> {
        let name =
            ToolName::new(section.text("name")?).map_err(|error| section.error("name", error.to_string()))?;
        let description = section.text("description")?.trim().to_owned();
        let parameters = read_parameters(&section)?;
        let output_schema = section.json("output_schema")?;
        if let Some(schema) = &output_schema {
            Schema::compile(schema).map_err(|problem| section.error("output_schema", problem))?;
        }
        let output_bytes_max = section.optional_count("output_bytes_max")?;
        Ok(Self {
            name,
            description,
            safety: section.optional_choice("safety", &SAFETIES)?,
            bindings: Bindings::read(&section, &parameters)?,
            timeout: section.optional_count("timeout_ms")?.map_or(TIMEOUT_DEFAULT, Duration::from_millis),
            output_bytes_max: output_bytes_max
                .map_or(OUTPUT_BYTES_MAX_DEFAULT, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
            output_schema,
            parameters,
            section,
        })
    }

    /// Refuses keys that are neither common nor among `own`.
    pub(crate) fn expect_keys(&self, own: &[&str]) -> Result<(), LoadError> {
        let known: Vec<&str> = COMMON_KEYS.iter().chain(own).copied().collect();
        self.section.expect_keys(&known)
    }

    /// The specification with this safety.
    pub(crate) fn spec(&self, safety: ToolSafety) -> ToolSpec {
        ToolSpec {
            name: self.name.clone(),
            description: self.description.clone(),
            parameters: self.parameters.clone(),
            safety,
        }
    }
}

/// The schema of the arguments: an object, closed unless it says otherwise, so that a model cannot give what no
/// statement takes.
fn read_parameters(section: &Section) -> Result<Value, LoadError> {
    let mut parameters = section.json("parameters")?.unwrap_or_else(|| json!({}));
    let wrong = |problem: &str| section.error("parameters", problem);
    let members = parameters.as_object_mut().ok_or_else(|| wrong("must be a table (a JSON Schema)"))?;
    let kind = members.entry("type").or_insert_with(|| json!("object"));
    if kind != "object" {
        return Err(wrong("must be the schema of an object"));
    }
    members.entry("properties").or_insert_with(|| json!({}));
    members.entry("additionalProperties").or_insert(Value::Bool(false));
    Schema::compile(&parameters).map_err(|problem| wrong(&problem))?;
    Ok(parameters)
}

/// Makes the tool that `text`, the content of `file`, declares.
pub(crate) fn read_tool(
    file: &Path,
    text: &str,
    context: &LoadContext<'_>,
) -> Result<Arc<dyn Tool>, LoadError> {
    let section = Section::parse(file, text)?;
    let kind = section.optional_choice("kind", &KINDS)?.ok_or_else(|| section.error("kind", "is missing"))?;
    let declaration = Declaration::read(section)?;
    match kind {
        Kind::Sql => Ok(Arc::new(SqlTool::open(declaration, context.databases)?)),
        Kind::Http => Ok(Arc::new(HttpTool::open(declaration, context)?)),
    }
}
