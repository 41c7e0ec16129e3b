//! The clients in `examples/`, tested as a user runs them: in a Python environment of their own, against the broker.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::shell::{need, root, run};

/// Runs their tests against the broker at `brokers`.
pub(crate) fn check(brokers: &str) -> Result<()> {
    let root = root()?;
    need("kcat", &["-V"], "kcat")?;
    let python = environment(&root)?;
    let mut tests = Command::new(python);
    tests.arg("xtask/clients/test_clients.py").current_dir(&root).env("KAFKA_BROKERS", brokers);
    run("clients from outside", &mut tests)
}

/// The Python with what the clients and their tests need, in the versions that are written down.
fn environment(root: &Path) -> Result<PathBuf> {
    need("python3", &["-m", "ensurepip", "--version"], "python3-venv")?;
    let folder = root.join("target").join("clients");
    let python = folder.join("bin").join("python");
    let stamp = folder.join("installed");
    let files = ["examples/clients/requirements.txt", "xtask/clients/requirements.txt"];
    let wanted = files
        .iter()
        .map(|file| std::fs::read_to_string(root.join(file)).with_context(|| format!("read {file}")))
        .collect::<Result<String>>()?;
    if std::fs::read_to_string(&stamp).ok().as_deref() == Some(wanted.as_str()) {
        return Ok(python);
    }
    run("make a Python environment", Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    let mut fetch = Command::new(&python);
    fetch.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]);
    run("fetch clients from PyPI", fetch.arg(root.join("xtask/clients/requirements.txt")))?;
    std::fs::write(&stamp, wanted).with_context(|| format!("write {}", stamp.display()))?;
    Ok(python)
}
