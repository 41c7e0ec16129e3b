//! `up --print-config`: each setting with its origin.

use serde_json::json;
use toml::Table;

use crate::cli::Format;
use crate::failure::Failure;
use crate::resolved::{Origin, Resolved, leaves};
use crate::terminal::{json_line, line};

/// Writes each setting, its value and where it was last set, by key.
pub(crate) fn show(resolved: &Resolved, format: Format) -> Result<(), Failure> {
    let table = Table::try_from(&resolved.settings).map_err(Failure::job)?;
    let settings = leaves(&table);
    let width = settings.keys().map(String::len).max().unwrap_or(0);
    for (key, value) in &settings {
        let origin = match resolved.origins.get(key) {
            None => "default".to_owned(),
            Some(Origin::File(file, line)) => format!("{}:{line}", file.display()),
            Some(Origin::Variable(name)) => name.clone(),
            Some(Origin::Flag(flag)) => (*flag).to_owned(),
        };
        match format {
            Format::Json => json_line(&json!({"key": key, "value": value, "origin": origin}))?,
            Format::Text => line(&format!("{key:<width$} = {value}  # {origin}"))?,
        }
    }
    Ok(())
}
