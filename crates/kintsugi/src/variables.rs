//! Environment variables that are settings, `KINTSUGI_SECTION__KEY`, and those that mean something else.

use std::path::Path;

use toml::{Table, Value};

use crate::cluster::security::PASSWORD_VARIABLE;
use crate::example::sorted_files;
use crate::failure::{Explain, Failure};
use crate::hint;
use crate::http::TOKEN_VARIABLE;
use crate::resolved::leaves;
use crate::settings::Settings;
use crate::telemetry::LOG_VARIABLE;

/// With this begin all variables that are ours.
const PREFIX: &str = "KINTSUGI_";

/// Variables with our prefix that are no settings: what they hold is a secret, or is read before settings are.
const OTHERS: [&str; 3] = [LOG_VARIABLE, TOKEN_VARIABLE, PASSWORD_VARIABLE];

/// The variable that sets `key`.
pub(crate) fn name_of(key: &str) -> String {
    format!("{PREFIX}{}", key.to_ascii_uppercase().replace('.', "__"))
}

/// Takes the environment's settings into `table`. Returns each variable with the key that it set.
///
/// A variable with our prefix that nothing reads was meant to do something: it is refused. What a tool in `dir` names
/// as a secret is read.
pub(crate) fn take(table: &mut Table, dir: &Path) -> Result<Vec<(String, String)>, Failure> {
    let mut taken = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
        if name.contains("__") {
            let key = overlay(table, name, &value.to_string_lossy())?;
            taken.push((name.to_owned(), key));
        } else if !OTHERS.contains(&name) && !is_secret(name, dir)? {
            return Err(refuse(name));
        }
    }
    Ok(taken)
}

fn refuse(name: &str) -> Failure {
    let defaults = Table::try_from(Settings::default()).unwrap_or_default();
    let mut known: Vec<String> = leaves(&defaults).keys().map(|key| name_of(key)).collect();
    let unset = ["http.token_file", "model.smaller.name", "model.smaller.memory_share"];
    known.extend(unset.map(name_of));
    known.extend(OTHERS.map(str::to_owned));
    let hint = hint::did_you_mean(name, known.iter().map(String::as_str));
    Failure::usage(format_args!(
        "environment variable {name} is no setting and nothing else{hint}; `kintsugi up --print-config` shows every \
         setting, of which `model.name` is set by {}",
        name_of("model.name")
    ))
}

/// Whether a tool of the example in `dir` names the variable.
fn is_secret(name: &str, dir: &Path) -> Result<bool, Failure> {
    let tools = dir.join("tools");
    if !tools.is_dir() {
        return Ok(false);
    }
    let named = format!("${{{name}}}");
    for file in sorted_files(&tools, &["toml"])? {
        let text = std::fs::read_to_string(&file).outside(|| format!("read {}", file.display()))?;
        if text.contains(&named) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// `KINTSUGI_NODE__SLOTS=4` sets `slots` in `[node]`. Returns the key that was set, `node.slots`.
///
/// Settings are read after each variable, so that a mistake is told with the variable's name.
fn overlay(table: &mut Table, name: &str, value: &str) -> Result<String, Failure> {
    let path = name.strip_prefix(PREFIX).unwrap_or(name).to_ascii_lowercase();
    let keys: Vec<&str> = path.split("__").collect();
    let parsed = toml::from_str::<Table>(&format!("value = {value}"))
        .ok()
        .and_then(|mut parsed| parsed.remove("value"))
        .unwrap_or_else(|| Value::String(value.to_owned()));
    set(table, &keys, parsed);
    table.clone().try_into::<Settings>().map(|_| keys.join(".")).map_err(|error| {
        let hint = hint::of_message(error.message());
        Failure::usage(format_args!(
            "environment variable {name} is {value:?}: {}{hint}",
            error.message().trim_end()
        ))
    })
}

fn set(table: &mut Table, keys: &[&str], value: Value) {
    match keys {
        [] => {}
        [key] => {
            table.insert((*key).to_owned(), value);
        }
        [section, keys @ ..] => {
            let inner = table.entry((*section).to_owned()).or_insert_with(|| Value::Table(Table::new()));
            if !inner.is_table() {
                *inner = Value::Table(Table::new());
            }
            if let Some(inner) = inner.as_table_mut() {
                set(inner, keys, value);
            }
        }
    }
}
