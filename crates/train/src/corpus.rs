//! Episodes of the bank as training batches and as samples to score.

use std::collections::BTreeSet;

use anyhow::Context as _;
use kintsugi_agent::prompt::{decision_text, goal_message, system_message};
use rand::RngExt as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;

use crate::augment::{Strength, Synonyms, reworded};
use crate::model::Batch;
use crate::scoring::Sample;
use crate::shop::{KindSheet, Sheets};
use crate::tickets::{Bank, Episode, Split, episodes};
use crate::trace::{self, Weights};
use crate::trainer::Source;
use crate::vocabulary::{Encoder, Vocabulary};

/// Tokens of documents (without the shared prefix) that make a batch.
const BATCH_TOKENS: usize = 512;

/// Weights of a training trace's tokens.
pub const TRAINING_WEIGHTS: Weights = Weights { decision: 1.0, goal: 0.15, observation: 0.0 };

/// Probability with which a merge is left out of a training ticket's tokens.
const MERGE_DROPPED: f64 = 0.1;

/// Share of the training traces that end with their first decision: to read what a ticket is about is harder than
/// all that follows, so that it is worth more tickets to the hour.
const FIRST_DECISION_ONLY: f64 = 0.5;

/// All that traces are made from.
#[derive(Debug, Clone)]
pub struct Corpus {
    bank: Bank,
    sheets: Sheets,
    /// What agents of each kind are told.
    pub kinds: Vec<KindSheet>,
    synonyms: Synonyms,
    strength: Strength,
    seed: u64,
}

/// A corpus with the tokenizer that turns it into ids.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// Its traces.
    pub corpus: Corpus,
    encoder: Encoder,
    /// The system message of each kind, as ids.
    pub prefixes: Vec<Vec<u32>>,
}

impl Corpus {
    /// The shipped bank and example.
    pub fn shipped(strength: Strength, seed: u64) -> anyhow::Result<Self> {
        let (bank, sheets) = (Bank::shipped()?, Sheets::shipped()?);
        let kinds = episodes(&bank, Split::Train, &sheets, seed)?.desk().kinds(&sheets)?;
        Ok(Self { bank, sheets, kinds, synonyms: Synonyms::new(), strength, seed })
    }

    /// Entries of a split.
    pub fn entries(&self, split: Split) -> usize {
        self.bank.of(split).count()
    }

    /// `count` episodes of a split.
    pub fn episodes(&self, split: Split, seed: u64, count: usize) -> anyhow::Result<Vec<Episode>> {
        episodes(&self.bank, split, &self.sheets, seed)?.take(count).collect()
    }

    /// Learns a vocabulary of `size` tokens from reworded training episodes.
    pub fn vocabulary(&self, size: usize) -> anyhow::Result<Vocabulary> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let mut texts: Vec<String> = self
            .kinds
            .iter()
            .map(|kind| system_message(&kind.instructions, &kind.tools).content.to_string())
            .collect();
        for episode in self.episodes(Split::Train, self.seed, 4 * self.entries(Split::Train))? {
            let text =
                reworded(&episode.goal.text, &BTreeSet::new(), &self.synonyms, self.strength, &mut rng);
            texts.push(text);
            texts.push(goal_message(&episode.goal).content.to_string());
            for step in &episode.steps {
                texts.push(decision_text(&step.decision.thought, &step.decision.action));
                texts.extend(step.observation.clone());
            }
        }
        Vocabulary::learn(&texts, size)
    }

    /// With the tokenizer.
    pub fn encoded(self, vocabulary: &Vocabulary) -> anyhow::Result<Encoded> {
        let encoder = vocabulary.encoder()?;
        let prefixes = self
            .kinds
            .iter()
            .map(|kind| trace::prefix(&encoder, &system_message(&kind.instructions, &kind.tools)))
            .collect::<anyhow::Result<_>>()?;
        Ok(Encoded { corpus: self, encoder, prefixes })
    }
}

impl Encoded {
    /// The trace of an episode whose goal was encoded before.
    fn sample(&self, episode: &Episode, goal: &[u32], weights: Weights) -> anyhow::Result<Sample> {
        let kind = self.corpus.kinds.iter().position(|kind| kind.kind == episode.kind);
        let kind = kind.context("an episode of a kind without a sheet")?;
        let decisions: Vec<String> = episode
            .steps
            .iter()
            .map(|step| decision_text(&step.decision.thought, &step.decision.action))
            .collect();
        let observations = episode.steps.iter().map(|step| step.observation.as_deref());
        let steps = decisions.iter().map(String::as_str).zip(observations);
        let document = trace::document(&self.encoder, goal, steps, weights)?;
        Ok(Sample { kind, label: episode.intent.clone(), document })
    }

    /// Episodes of a split in their own words, to be scored.
    pub fn samples(&self, split: Split, seed: u64, count: usize) -> anyhow::Result<Vec<Sample>> {
        let episodes = self.corpus.episodes(split, seed, count)?;
        let sample = |episode: &Episode| {
            let goal = self.encoder.encode(&goal_message(&episode.goal).content)?;
            self.sample(episode, &goal, Weights::DECISIONS)
        };
        episodes.iter().map(sample).collect()
    }
}

impl Source for Encoded {
    fn batches(&self, epoch: u64) -> anyhow::Result<Vec<Batch>> {
        let corpus = &self.corpus;
        let seed = corpus.seed.wrapping_mul(1_000_003).wrapping_add(epoch);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut samples = Vec::new();
        for mut episode in corpus.episodes(Split::Train, seed, corpus.entries(Split::Train))? {
            let (text, nothing) = (&episode.goal.text, BTreeSet::new());
            episode.goal.text = reworded(text, &nothing, &corpus.synonyms, corpus.strength, &mut rng);
            let goal = goal_message(&episode.goal).content;
            let goal = self.encoder.encode_varied(&goal, MERGE_DROPPED, &mut rng)?;
            if rng.random_bool(FIRST_DECISION_ONLY) {
                episode.steps.truncate(1);
                episode.steps.iter_mut().for_each(|step| step.observation = None);
            }
            samples.push(self.sample(&episode, &goal, TRAINING_WEIGHTS)?);
        }
        samples.shuffle(&mut rng);
        let mut open: Vec<Batch> = self.prefixes.iter().map(|prefix| Batch::new(prefix)).collect();
        let mut batches = Vec::new();
        for sample in &samples {
            let (Some(batch), Some(prefix)) = (open.get_mut(sample.kind), self.prefixes.get(sample.kind))
            else {
                continue;
            };
            batch.push(&sample.document.tokens, &sample.document.weights);
            if batch.tokens.len() - prefix.len() >= BATCH_TOKENS {
                batches.push(std::mem::replace(batch, Batch::new(prefix)));
            }
        }
        batches.extend(open.into_iter().filter(|batch| !batch.targets.is_empty()));
        batches.shuffle(&mut rng);
        Ok(batches)
    }
}
