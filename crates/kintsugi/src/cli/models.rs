//! What can be typed after `models`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Format;

#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// The shipped model, and GGUF files in the folder `models` and in the user's
    List(ModelsArguments),
    /// What a GGUF file is, and what it needs in memory
    Inspect(InspectArguments),
    /// Fetch a GGUF file to where `--model NAME` finds it; what was cut off goes on
    Pull(PullArguments),
}

#[derive(Debug, Args)]
pub(crate) struct PullArguments {
    /// OWNER/REPO or OWNER/REPO/FILE.gguf on Hugging Face, or a URL; a token is taken from `HF_TOKEN`
    #[arg(value_name = "NAME|URL")]
    pub(crate) place: String,
    /// What the model is called here; the file's name where nothing is said
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// The folder that it is put into, instead of the user's folder of models
    #[arg(long, value_name = "DIR")]
    pub(crate) to: Option<PathBuf>,
    /// What the file's SHA-256 has to be, in base 16
    #[arg(long, value_name = "HEX")]
    pub(crate) sha256: Option<String>,
    /// How it is told what was pulled
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
    /// No progress
    #[arg(long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ModelsArguments {
    /// How it is written
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArguments {
    /// A GGUF file, or the name of a shipped or pulled model
    #[arg(value_name = "PATH|NAME")]
    pub(crate) model: String,
    /// Agents on the model at the same time
    #[arg(long, value_name = "N", default_value_t = 12)]
    pub(crate) slots: u32,
    /// The longest context, in tokens; at most what the model takes
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub(crate) context_tokens: u32,
    /// How it is written
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}
