//! `evaluate`: an exported model at work, and the model card from it.

use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use kintsugi_inference::configure_threads;
use kintsugi_train::augment::Strength;
use kintsugi_train::card::{ELSEWHERE, Facts, RECIPE, card};
use kintsugi_train::corpus::Corpus;
use kintsugi_train::evaluation;
use kintsugi_train::model::{Layout, Shape};
use kintsugi_train::tickets::Split;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SplitName {
    Train,
    Validation,
    HeldOut,
}

#[derive(Debug, Args)]
pub(crate) struct EvaluateArguments {
    /// The model.
    #[arg(long, default_value = "models/kintsugi-nano.gguf")]
    model: PathBuf,
    /// Which part of the bank.
    #[arg(long, value_enum, default_value_t = SplitName::HeldOut)]
    split: SplitName,
    /// Episodes; every entry of the split comes up before one does twice.
    #[arg(long, default_value_t = 540)]
    episodes: usize,
    /// Write the card here instead of to standard output.
    #[arg(long)]
    card: Option<PathBuf>,
    /// How the model was trained, for the card.
    #[arg(long, default_value = RECIPE)]
    recipe: String,
    /// What became of the model in another engine, for the card.
    #[arg(long, default_value = ELSEWHERE)]
    elsewhere: String,
    /// Determines cases and words.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) fn run(arguments: &EvaluateArguments) -> anyhow::Result<()> {
    let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    configure_threads(threads)?;
    let (split, heading, tickets) = match arguments.split {
        SplitName::Train => (Split::Train, "Training tickets", "Tickets that the model was trained on"),
        SplitName::Validation => {
            (Split::Validation, "Validation tickets", "Tickets that the training was watched on")
        }
        SplitName::HeldOut => {
            (Split::HeldOut, "Held-out tickets", "Tickets whose wording was in no training trace")
        }
    };
    let corpus = Corpus::shipped(Strength::NANO, arguments.seed)?;
    let episodes = corpus.episodes(split, arguments.seed, arguments.episodes)?;
    let mut engine = evaluation::load(&arguments.model)?;
    let evaluation = evaluation::run(&mut engine, &corpus.kinds, &episodes)?;
    let facts = Facts {
        layout: &Layout::new(Shape::NANO),
        file_bytes: std::fs::metadata(&arguments.model)?.len(),
        tickets: (heading, tickets),
        recipe: &arguments.recipe,
        elsewhere: &arguments.elsewhere,
        evaluation_command: "cargo run --release -p kintsugi-train -- evaluate",
    };
    let text = card(&facts, &evaluation);
    match &arguments.card {
        Some(path) => std::fs::write(path, text)?,
        None => std::io::stdout().write_all(text.as_bytes())?,
    }
    Ok(())
}
