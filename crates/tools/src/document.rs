//! Reading a TOML declaration with errors that name the file and the key.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::error::LoadError;

/// How alike two keys must be for one to be offered in place of the other (Jaro-Winkler, 0 to 1).
const LIKENESS_MIN: f64 = 0.8;

/// The candidate that `name` most likely meant.
pub(crate) fn did_you_mean<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let likeness = |candidate: &str| strsim::jaro_winkler(name, candidate);
    let best = candidates.into_iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(best) >= LIKENESS_MIN).then(|| format!("did you mean `{best}`?"))
}

/// A table of a declaration, which knows where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Section {
    file: PathBuf,
    path: String,
    table: Table,
}

impl Section {
    /// Reads the text of `file`.
    pub(crate) fn parse(file: &Path, text: &str) -> Result<Self, LoadError> {
        let table = text.parse::<Table>().map_err(|error| LoadError {
            file: file.to_owned(),
            key: String::new(),
            problem: format!("is no TOML: {}", error.to_string().trim_end()),
            hint: None,
        })?;
        Ok(Self { file: file.to_owned(), path: String::new(), table })
    }

    /// An error about `key` of this table.
    pub(crate) fn error(&self, key: &str, problem: impl Into<String>) -> LoadError {
        LoadError { file: self.file.clone(), key: self.key_path(key), problem: problem.into(), hint: None }
    }

    fn key_path(&self, key: &str) -> String {
        match (self.path.as_str(), key) {
            ("", key) => key.to_owned(),
            (path, "") => path.to_owned(),
            (path, key) => format!("{path}.{key}"),
        }
    }

    /// Refuses keys that are not among `known`.
    pub(crate) fn expect_keys(&self, known: &[&str]) -> Result<(), LoadError> {
        let Some(key) = self.table.keys().find(|key| !known.contains(&key.as_str())) else { return Ok(()) };
        let hint = did_you_mean(key, known.iter().copied())
            .unwrap_or_else(|| format!("known keys: {}", known.join(", ")));
        Err(LoadError { hint: Some(hint), ..self.error(key, "is no known key") })
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    fn missing(&self, key: &str) -> LoadError {
        self.error(key, "is missing")
    }

    fn wrong_type(&self, key: &str, wanted: &str, found: &Value) -> LoadError {
        self.error(key, format!("must be {wanted}, not {}", found.type_str()))
    }

    pub(crate) fn optional_text(&self, key: &str) -> Result<Option<&str>, LoadError> {
        match self.table.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong_type(key, "a string", other)),
        }
    }

    pub(crate) fn text(&self, key: &str) -> Result<&str, LoadError> {
        self.optional_text(key)?.ok_or_else(|| self.missing(key))
    }

    /// A positive whole number.
    pub(crate) fn optional_count(&self, key: &str) -> Result<Option<u64>, LoadError> {
        match self.table.get(key) {
            None => Ok(None),
            Some(Value::Integer(count)) if *count > 0 => Ok(Some(count.unsigned_abs())),
            Some(Value::Integer(_)) => Err(self.error(key, "must be greater than 0")),
            Some(other) => Err(self.wrong_type(key, "a whole number", other)),
        }
    }

    /// One of the words of `choices`.
    pub(crate) fn optional_choice<T: Copy>(
        &self,
        key: &str,
        choices: &[(&str, T)],
    ) -> Result<Option<T>, LoadError> {
        let Some(text) = self.optional_text(key)? else { return Ok(None) };
        if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == text) {
            return Ok(Some(*choice));
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let hint = did_you_mean(text, names.iter().copied());
        Err(LoadError {
            hint,
            ..self.error(key, format!("must be one of {}, not `{text}`", names.join(", ")))
        })
    }

    /// A value of any form as JSON, its members in the order written.
    pub(crate) fn json(&self, key: &str) -> Result<Option<serde_json::Value>, LoadError> {
        let Some(value) = self.table.get(key) else { return Ok(None) };
        serde_json::to_value(value).map(Some).map_err(|error| self.error(key, error.to_string()))
    }

    /// The subtable `key`.
    pub(crate) fn optional_section(&self, key: &str) -> Result<Option<Self>, LoadError> {
        match self.table.get(key) {
            None => Ok(None),
            Some(Value::Table(table)) => {
                Ok(Some(Self { file: self.file.clone(), path: self.key_path(key), table: table.clone() }))
            }
            Some(other) => Err(self.wrong_type(key, "a table", other)),
        }
    }

    /// The tables of the array `key`; none where it is missing.
    pub(crate) fn sections(&self, key: &str) -> Result<Vec<Self>, LoadError> {
        let items = match self.table.get(key) {
            None => return Ok(Vec::new()),
            Some(Value::Array(items)) => items,
            Some(other) => {
                return Err(self.wrong_type(key, &format!("an array of tables ([[{key}]])"), other));
            }
        };
        let section = |(index, item): (usize, &Value)| match item {
            Value::Table(table) => Ok(Self {
                file: self.file.clone(),
                path: self.key_path(&format!("{key}[{index}]")),
                table: table.clone(),
            }),
            other => Err(self.wrong_type(key, "an array of tables", other)),
        };
        items.iter().enumerate().map(section).collect()
    }

    /// The members of this table, all of which must be strings.
    pub(crate) fn texts(&self) -> Result<Vec<(&str, &str)>, LoadError> {
        self.table.keys().map(|key| Ok((key.as_str(), self.text(key)?))).collect()
    }
}
