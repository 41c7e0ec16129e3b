//! `train`: the whole run, with its progress on standard error.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use kintsugi_train::augment::Strength;
use kintsugi_train::checkpoint::Checkpoint;
use kintsugi_train::corpus::{Corpus, Encoded};
use kintsugi_train::model::{Layout, Network, Shape};
use kintsugi_train::scoring::{Sample, Tally, score};
use kintsugi_train::tickets::Split;
use kintsugi_train::trainer::{self, Observer, Report, Settings};
use kintsugi_train::vocabulary::Vocabulary;

/// The vocabulary's name in the directory of a run.
pub(super) const VOCABULARY_FILE: &str = "vocabulary.json";

#[derive(Debug, Args)]
pub(crate) struct TrainArguments {
    /// Length of the run in steps; counts earlier parts of a run that goes on.
    #[arg(long, default_value_t = 10_000)]
    steps: u64,
    /// Where the vocabulary and the checkpoint are kept.
    #[arg(long)]
    out: PathBuf,
    /// Begin with the parameters and the vocabulary of the run in this directory.
    #[arg(long)]
    from: Option<PathBuf>,
    /// Threads that compute.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// The largest learning rate.
    #[arg(long, default_value_t = 1e-3)]
    rate: f32,
    /// Batches of about 500 tokens that make a step.
    #[arg(long, default_value_t = 2)]
    batches: usize,
    /// Share of the values that dropout removes, in 256ths.
    #[arg(long, default_value_t = 26)]
    dropout: u8,
    /// Weight decay.
    #[arg(long, default_value_t = 0.1)]
    decay: f32,
    /// Minutes between checkpoints, each with a look at the validation split.
    #[arg(long, default_value_t = 3.0)]
    checkpoint_minutes: f64,
    /// Determines all that is random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) fn run(arguments: &TrainArguments) -> anyhow::Result<()> {
    std::fs::create_dir_all(&arguments.out)?;
    let network = Network::new(Layout::new(Shape::NANO));
    let corpus = Corpus::shipped(Strength::NANO, arguments.seed)?;
    let vocabulary = vocabulary(arguments, &corpus, network.layout.shape.vocabulary)?;
    let corpus = corpus.encoded(&vocabulary)?;
    let mut checkpoint = checkpoint(arguments, &network.layout)?;
    let settings = Settings {
        threads: arguments.threads,
        batches_per_step: arguments.batches,
        peak_rate: arguments.rate,
        warmup_steps: 60,
        decay: arguments.decay,
        norm_max: 1.0,
        dropped_of_256: arguments.dropout,
        steps: arguments.steps,
        checkpoint_every_s: arguments.checkpoint_minutes * 60.0,
        report_every_s: 10.0,
        seed: arguments.seed,
    };
    let validation = corpus.samples(Split::Validation, 1, 2 * corpus.corpus.entries(Split::Validation))?;
    let longest = validation.iter().map(|sample| sample.document.tokens.len()).max().unwrap_or_default();
    let prefixes: Vec<usize> = corpus.prefixes.iter().map(Vec::len).collect();
    writeln!(
        std::io::stderr(),
        "{} parameters; prefixes of {prefixes:?} tokens; longest validation trace {longest} tokens",
        network.layout.len
    )?;
    let mut observer = Console { network: &network, corpus: &corpus, validation };
    let save = |checkpoint: &Checkpoint| checkpoint.save(&network.layout, &arguments.out);
    trainer::train(&network, &mut checkpoint, &settings, &corpus, &save, &mut observer)
}

/// The run's vocabulary: its own if it goes on, that of the run it begins from, or a new one.
fn vocabulary(arguments: &TrainArguments, corpus: &Corpus, size: usize) -> anyhow::Result<Vocabulary> {
    let path = arguments.out.join(VOCABULARY_FILE);
    if path.exists() {
        return Vocabulary::load(&path);
    }
    let vocabulary = match &arguments.from {
        Some(from) => Vocabulary::load(&from.join(VOCABULARY_FILE))?,
        None => corpus.vocabulary(size)?,
    };
    vocabulary.save(&path)?;
    Ok(vocabulary)
}

/// Where the run goes on or begins.
fn checkpoint(arguments: &TrainArguments, layout: &Layout) -> anyhow::Result<Checkpoint> {
    if let Some(checkpoint) = Checkpoint::load(layout, &arguments.out)? {
        return Ok(checkpoint);
    }
    let Some(from) = &arguments.from else { return Ok(Checkpoint::initial(layout, arguments.seed)) };
    let earlier = Checkpoint::load(layout, from)?;
    let earlier = earlier.with_context(|| format!("{} has no checkpoint to begin from", from.display()))?;
    Ok(Checkpoint::starting_from(earlier.average))
}

/// Writes progress lines.
struct Console<'a> {
    network: &'a Network,
    corpus: &'a Encoded,
    validation: Vec<Sample>,
}

impl Observer for Console<'_> {
    fn report(&mut self, report: Report) -> anyhow::Result<()> {
        let Report { place, loss, norm, rate, tokens_per_second, left_s } = report;
        writeln!(
            std::io::stderr(),
            "step {} pass {} loss {loss:.4} norm {norm:.2} rate {rate:.5} {tokens_per_second:.0} tokens/s, \
             {left_s:.0} s left",
            place.step,
            place.epoch,
        )?;
        Ok(())
    }

    fn saved(&mut self, checkpoint: &Checkpoint) -> anyhow::Result<()> {
        let tallies = score(self.network, &checkpoint.average, &self.corpus.prefixes, &self.validation)?;
        let mut all = Tally::default();
        let mut line = String::new();
        for (label, tally) in &tallies {
            all.add(tally);
            write!(line, " {label} {}/{}", tally.right_episodes, tally.episodes)?;
        }
        writeln!(
            std::io::stderr(),
            "step {} validation: episodes {:.3}, first decisions {:.3}, decisions {:.3}, {:.4} nats a token;{line}",
            checkpoint.place.step,
            all.episode_accuracy(),
            all.right_first as f64 / all.episodes.max(1) as f64,
            all.right_decisions as f64 / all.decisions.max(1) as f64,
            all.surprise / all.tokens.max(1) as f64,
        )?;
        Ok(())
    }
}
