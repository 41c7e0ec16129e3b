//! BPE-dropout (Provilkov et al. 2020): the same text in other tokens.
//!
//! A misspelt word falls into tokens that the right word never has. Where merges are left out by chance, the model
//! meets words in smaller pieces and learns what these spell. The loop is our own, because chance must come from the
//! run's seed.

use std::collections::HashMap;

use anyhow::Context as _;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use crate::vocabulary::Vocabulary;

/// The merges of a vocabulary by the pair that they join.
#[derive(Debug, Clone)]
pub(crate) struct Merges {
    /// Ids of the tokens of one letter of GPT-2's byte alphabet.
    letters: HashMap<char, u32>,
    /// Rank and joined token of a pair.
    joined: HashMap<(u32, u32), (usize, u32)>,
}

impl Merges {
    pub(crate) fn new(vocabulary: &Vocabulary) -> anyhow::Result<Self> {
        let ids: HashMap<&str, u32> = vocabulary.tokens.iter().map(String::as_str).zip(0..).collect();
        let mut joined = HashMap::with_capacity(vocabulary.merges.len());
        for (rank, merge) in vocabulary.merges.iter().enumerate() {
            let (left, right) = merge.split_once(' ').context("a merge of other than two tokens")?;
            let id = |token: &str| ids.get(token).copied().with_context(|| format!("no token {token}"));
            joined.insert((id(left)?, id(right)?), (rank, id(&format!("{left}{right}"))?));
        }
        let letter = |(token, id): (&&str, &u32)| {
            let mut letters = token.chars();
            Some((letters.next().filter(|_| letters.next().is_none())?, *id))
        };
        Ok(Self { letters: ids.iter().filter_map(letter).collect(), joined })
    }

    /// Tokens of one word in GPT-2's byte alphabet. Before every merge each possible one is left out with
    /// probability `dropped`; where that leaves none, the word stays as it is.
    pub(crate) fn encode(&self, word: &str, dropped: f64, rng: &mut ChaCha8Rng) -> anyhow::Result<Vec<u32>> {
        let letter = |letter| self.letters.get(&letter).copied().context("a letter without a token");
        let mut tokens: Vec<u32> = word.chars().map(letter).collect::<anyhow::Result<_>>()?;
        loop {
            let merge = |(place, pair): (usize, &[u32])| {
                let &[left, right] = pair else { return None };
                let (rank, id) = self.joined.get(&(left, right))?;
                Some((*rank, place, *id))
            };
            let possible = tokens.windows(2).enumerate().filter_map(merge);
            let Some((_, place, id)) = possible.filter(|_| !rng.random_bool(dropped)).min() else {
                return Ok(tokens);
            };
            tokens.remove(place);
            if let Some(token) = tokens.get_mut(place) {
                *token = id;
            }
        }
    }
}
