//! Files that follow from the code: written here, never by hand, and checked to be current.

use std::path::Path;

use anyhow::{Context, Result, bail};
use kintsugi_events::schema::schema_files;

use crate::asyncapi;
use crate::shell::root;

/// Writes every generated file, or only checks that each is current.
pub(crate) fn generate(is_check: bool) -> Result<()> {
    let folder = root()?.join("schemas");
    let mut stale = Vec::new();
    for (name, text) in files()? {
        let path = folder.join(name);
        if std::fs::read_to_string(&path).ok().as_deref() == Some(text.as_str()) {
            continue;
        }
        if is_check {
            stale.push(name);
        } else {
            write(&path, &text)?;
        }
    }
    if stale.is_empty() {
        return Ok(());
    }
    bail!("not current in schemas/: {}; run `cargo xtask generate` and commit", stale.join(", "))
}

/// Name and text of every generated file.
fn files() -> Result<Vec<(&'static str, String)>> {
    let mut files = vec![(asyncapi::FILE_NAME, asyncapi::document()?)];
    for file in schema_files() {
        files.push((file.name, format!("{}\n", serde_json::to_string_pretty(&file.schema)?)));
    }
    Ok(files)
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
