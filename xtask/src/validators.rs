//! Published validators of formats that people outside read, from npm: files of ours are held against them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::shell::{need, root, run};

/// What a validator is told: the form, and the file in the repository.
const CHECKED: [(&str, &str); 2] = [("asyncapi", "schemas/asyncapi.yaml"), ("compose", "docker-compose.yml")];

/// What is installed, as npm wants it, and what uses it.
const FILES: [&str; 3] = ["package.json", "package-lock.json", "check.mjs"];

/// Holds every file that has a published form against its validator.
pub(crate) fn check() -> Result<()> {
    let root = root()?;
    let folder = install(&root)?;
    for (form, file) in CHECKED {
        let mut validate = Command::new("node");
        validate.arg(folder.join("check.mjs")).args([form, file]).current_dir(&root);
        run(&format!("{file} as {form}"), &mut validate)?;
    }
    Ok(())
}

/// The folder with the validators, in the versions that the lock file names. Nothing that a package wants to run at
/// its installation is run.
fn install(root: &Path) -> Result<PathBuf> {
    need("node", &["--version"], "nodejs")?;
    let source = root.join("xtask").join("validators");
    let folder = root.join("target").join("validators");
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let stamp = folder.join("installed");
    let wanted =
        std::fs::read_to_string(source.join("package-lock.json")).context("read package-lock.json")?;
    for file in FILES {
        std::fs::copy(source.join(file), folder.join(file)).with_context(|| format!("copy {file}"))?;
    }
    if std::fs::read_to_string(&stamp).ok().as_deref() == Some(wanted.as_str()) {
        return Ok(folder);
    }
    need("npm", &["--version"], "npm")?;
    let mut fetch = Command::new("npm");
    fetch.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&folder);
    run("fetch validators from npm", &mut fetch)?;
    std::fs::write(&stamp, wanted).with_context(|| format!("write {}", stamp.display()))?;
    Ok(folder)
}
