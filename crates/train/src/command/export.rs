//! `export`: a run's averaged parameters as a GGUF file.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use kintsugi_train::checkpoint::Checkpoint;
use kintsugi_train::gguf;
use kintsugi_train::model::{Layout, Shape};
use kintsugi_train::vocabulary::Vocabulary;

use super::train::VOCABULARY_FILE;

#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    /// The run's directory.
    #[arg(long)]
    run: PathBuf,
    /// The file to write.
    #[arg(long, default_value = "models/kintsugi-nano.gguf")]
    out: PathBuf,
}

pub(crate) fn run(arguments: &ExportArguments) -> anyhow::Result<()> {
    let layout = Layout::new(Shape::NANO);
    let vocabulary = Vocabulary::load(&arguments.run.join(VOCABULARY_FILE))?;
    let checkpoint = Checkpoint::load(&layout, &arguments.run)?.context("the run has no checkpoint yet")?;
    gguf::write(&arguments.out, &layout, &checkpoint.average, &vocabulary)
}
