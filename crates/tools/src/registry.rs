//! All tools by name, and the checks around every call.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kintsugi_types::{EffectId, ToolName, ToolSpec};
use serde_json::Value;

use crate::document::did_you_mean;
use crate::error::{LoadError, LoadErrors, ToolError};
use crate::limit::bounded;
use crate::load::{LoadContext, read_tool};
use crate::schema::Schema;
use crate::tool::{Tool, ToolCall, ToolOutput};

/// The largest declaration that is read: far above any real one, and a bound on what a mistaken path can cost.
const DECLARATION_BYTES_MAX: u64 = 256 * 1024;

/// Tools by name. Cheap to clone; clones share the tools.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    tools: BTreeMap<ToolName, Arc<Guarded>>,
}

/// A tool with the compiled schemas that its calls are held against.
#[derive(Debug)]
struct Guarded {
    tool: Arc<dyn Tool>,
    parameters: Schema,
    output: Option<Schema>,
}

impl Registry {
    /// Loads every `*.toml` of `folder`, in order of name. Fails with all mistakes of all files.
    pub fn load(folder: &Path, context: &LoadContext<'_>) -> Result<Self, LoadErrors> {
        let unreadable = |path: &Path, error: &std::io::Error| LoadError {
            file: path.to_owned(),
            key: String::new(),
            problem: format!("cannot be read: {error}"),
            hint: None,
        };
        let entries =
            std::fs::read_dir(folder).map_err(|error| LoadErrors(vec![unreadable(folder, &error)]))?;
        let mut paths = Vec::new();
        let mut errors = Vec::new();
        for entry in entries {
            match entry {
                Ok(entry) => paths.push(entry.path()),
                Err(error) => errors.push(unreadable(folder, &error)),
            }
        }
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        paths.sort();
        let mut documents = Vec::new();
        for path in paths {
            match read_bounded(&path) {
                Ok(text) => documents.push((path, text)),
                Err(error) => errors.push(unreadable(&path, &error)),
            }
        }
        let loaded = Self::from_documents(&documents, context);
        match (loaded, errors.is_empty()) {
            (Ok(registry), true) => Ok(registry),
            (Ok(_), false) => Err(LoadErrors(errors)),
            (Err(LoadErrors(more)), _) => {
                errors.extend(more);
                Err(LoadErrors(errors))
            }
        }
    }

    /// Makes the tools that these documents (file and content) declare. Fails with all mistakes of all documents.
    pub fn from_documents(
        documents: &[(PathBuf, String)],
        context: &LoadContext<'_>,
    ) -> Result<Self, LoadErrors> {
        let mut registry = Self::default();
        let mut errors = Vec::new();
        for (file, text) in documents {
            let error = |key: &str, problem: String| LoadError {
                file: file.clone(),
                key: key.to_owned(),
                problem,
                hint: None,
            };
            match read_tool(file, text, context) {
                Err(mistake) => errors.push(mistake),
                Ok(tool) if registry.tools.contains_key(&tool.spec().name) => {
                    errors.push(error("name", format!("`{}` is declared twice", tool.spec().name)));
                }
                Ok(tool) => {
                    if let Err(problem) = registry.insert(tool) {
                        errors.push(error("", problem));
                    }
                }
            }
        }
        if errors.is_empty() { Ok(registry) } else { Err(LoadErrors(errors)) }
    }

    /// Adds `tool`, in place of an earlier one of the same name. Fails with the reason if a schema of it is none.
    pub fn insert(&mut self, tool: Arc<dyn Tool>) -> Result<(), String> {
        let parameters = Schema::compile(&tool.spec().parameters)?;
        let output = tool.output_schema().map(Schema::compile).transpose()?;
        self.tools.insert(tool.spec().name.clone(), Arc::new(Guarded { tool, parameters, output }));
        Ok(())
    }

    /// The tool `name`. Calling it directly skips the checks of [`Registry::call`].
    pub fn get(&self, name: &ToolName) -> Option<&Arc<dyn Tool>> {
        self.tools.get(name).map(|guarded| &guarded.tool)
    }

    /// The specification of the tool `name`.
    pub fn spec(&self, name: &ToolName) -> Option<&ToolSpec> {
        self.get(name).map(|tool| tool.spec())
    }

    /// All specifications, in order of name.
    pub fn specs(&self) -> impl Iterator<Item = &ToolSpec> {
        self.tools.values().map(|guarded| guarded.tool.spec())
    }

    /// Calls the tool `name`: checks the arguments, calls, keeps the answer within the tool's limit and holds it
    /// against the schema that the tool promised. A cut answer cannot be held against a schema and is not.
    pub fn call(&self, name: &ToolName, call: &ToolCall) -> Result<ToolOutput, ToolError> {
        let guarded = self.tools.get(name).ok_or_else(|| self.unknown(name))?;
        guarded.parameters.check(&call.args).map_err(|problem| {
            ToolError::recoverable("invalid_arguments", format!("wrong arguments: {problem}"))
        })?;
        let mut output = guarded.tool.call(call)?;
        let bytes_max = guarded.tool.output_bytes_max();
        if !output.truncated && output.text.len() > bytes_max {
            output = bounded(&output.text, bytes_max);
        }
        match &guarded.output {
            Some(schema) if !output.truncated => check_answer(schema, &output.text)?,
            _ => {}
        }
        Ok(output)
    }

    /// Whether `effect` of the tool `name` happened; `None` where nobody can tell.
    pub fn post_condition(&self, name: &ToolName, effect: EffectId) -> Option<bool> {
        self.get(name)?.post_condition(effect)
    }

    fn unknown(&self, name: &ToolName) -> ToolError {
        let hint = did_you_mean(name.as_str(), self.tools.keys().map(ToolName::as_str))
            .map_or_else(String::new, |hint| format!("; {hint}"));
        ToolError::recoverable("unknown_tool", format!("there is no tool `{name}`{hint}"))
    }
}

fn check_answer(schema: &Schema, text: &str) -> Result<(), ToolError> {
    let lie =
        |problem: String| ToolError::fatal("schema_lie", format!("tool lies about its schema: {problem}"));
    let answer: Value =
        serde_json::from_str(text).map_err(|error| lie(format!("its answer is no JSON: {error}")))?;
    schema.check(&answer).map_err(lie)
}

fn read_bounded(path: &Path) -> std::io::Result<String> {
    use std::io::{Error, Read};

    let mut text = String::new();
    std::fs::File::open(path)?.take(DECLARATION_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > DECLARATION_BYTES_MAX {
        return Err(Error::other(format!("it is larger than {DECLARATION_BYTES_MAX} bytes")));
    }
    Ok(text)
}
