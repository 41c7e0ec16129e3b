//! How often the model says what the trace says, without generating.
//!
//! Greedy generation reproduces a trace exactly when the likeliest token is the trace's at every position, so one
//! pass over the trace tells the outcome of a whole greedy episode. A grammar can only mend, so these figures are
//! lower bounds.

use std::collections::BTreeMap;

use anyhow::Context as _;

use crate::model::{Batch, Network, Workspace};
use crate::trace::Document;

/// A trace's token with this probability counts as said: some scenes have two wordings, drawn evenly.
const EQUAL_CHOICE: f32 = 0.4;

/// One trace to score.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Index of its agent kind's prefix.
    pub kind: usize,
    /// What its figures are grouped by.
    pub label: String,
    /// The trace, with weights on its decisions alone.
    pub document: Document,
}

/// Figures of a group of traces.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tally {
    /// Traces.
    pub episodes: usize,
    /// Traces with every decision right.
    pub right_episodes: usize,
    /// Traces whose first decision is right.
    pub right_first: usize,
    /// Decisions.
    pub decisions: usize,
    /// Decisions that agree in every token.
    pub right_decisions: usize,
    /// Sum of the negative logarithms of the probabilities of all decision tokens, in nats.
    pub surprise: f64,
    /// Tokens of all decisions.
    pub tokens: usize,
}

impl Tally {
    /// Adds another group.
    pub fn add(&mut self, other: &Self) {
        self.episodes += other.episodes;
        self.right_episodes += other.right_episodes;
        self.right_first += other.right_first;
        self.decisions += other.decisions;
        self.right_decisions += other.right_decisions;
        self.surprise += other.surprise;
        self.tokens += other.tokens;
    }

    /// Share of episodes that are right throughout.
    pub fn episode_accuracy(&self) -> f64 {
        self.right_episodes as f64 / self.episodes.max(1) as f64
    }
}

/// Scores samples, grouped by label. `prefixes` holds the system message of each kind.
pub fn score(
    network: &Network,
    parameters: &[f32],
    prefixes: &[Vec<u32>],
    samples: &[Sample],
) -> anyhow::Result<BTreeMap<String, Tally>> {
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    let mut space = Workspace::default();
    for (kind, prefix) in prefixes.iter().enumerate() {
        let of_kind: Vec<&Sample> = samples.iter().filter(|sample| sample.kind == kind).collect();
        for group in of_kind.chunks(16) {
            let mut batch = Batch::new(prefix);
            for sample in group {
                batch.push(&sample.document.tokens, &sample.document.weights);
            }
            let probabilities = network.probabilities(parameters, &batch, &mut space);
            let mut rows = probabilities
                .chunks_exact(network.layout.shape.vocabulary)
                .zip(&batch.targets)
                .map(|(row, target)| {
                    let wanted = row.get(target.token as usize).copied().unwrap_or_default();
                    (wanted, wanted >= EQUAL_CHOICE || row.iter().all(|other| *other <= wanted))
                });
            for sample in group {
                let tally = one(&sample.document, &mut rows).context("a sample without loss positions")?;
                tallies.entry(sample.label.clone()).or_default().add(&tally);
            }
        }
    }
    Ok(tallies)
}

fn one(document: &Document, rows: &mut impl Iterator<Item = (f32, bool)>) -> Option<Tally> {
    let mut tally = Tally { episodes: 1, decisions: document.decisions.len(), ..Tally::default() };
    for (index, decision) in document.decisions.iter().enumerate() {
        let mut right = true;
        for _ in decision.clone() {
            let (probability, likeliest) = rows.next()?;
            right &= likeliest;
            tally.surprise -= f64::from(probability.max(1e-30)).ln();
            tally.tokens += 1;
        }
        tally.right_decisions += usize::from(right);
        tally.right_first += usize::from(right && index == 0);
    }
    tally.right_episodes = usize::from(tally.right_decisions == tally.decisions);
    Some(tally)
}
