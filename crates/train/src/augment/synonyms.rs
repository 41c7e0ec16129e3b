//! Exchanges phrases for others of their class.

use std::collections::{BTreeSet, HashMap};

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use super::stays;

/// One class a line, its phrases between bars.
const CLASSES: &str = include_str!("synonyms.txt");

/// The longest phrase, in words.
const PHRASE_WORDS_MAX: usize = 6;

/// Classes of phrases that can stand for each other in a ticket.
#[derive(Debug, Clone)]
pub struct Synonyms {
    classes: Vec<Vec<&'static str>>,
    /// Classes by phrase.
    places: HashMap<&'static str, Vec<usize>>,
}

impl Default for Synonyms {
    fn default() -> Self {
        Self::new()
    }
}

impl Synonyms {
    /// The classes that come with the crate.
    pub fn new() -> Self {
        let classes: Vec<Vec<&'static str>> =
            CLASSES.lines().map(|line| line.split('|').map(str::trim).collect()).collect();
        let mut places: HashMap<&'static str, Vec<usize>> = HashMap::new();
        for (index, class) in classes.iter().enumerate() {
            for phrase in class {
                places.entry(phrase).or_default().push(index);
            }
        }
        Self { classes, places }
    }

    /// Exchanges every phrase with the given probability, longer ones first.
    pub fn exchange(
        &self,
        text: &str,
        protected: &BTreeSet<String>,
        probability: f64,
        rng: &mut ChaCha8Rng,
    ) -> String {
        let pieces: Vec<&str> = text.split_inclusive(char::is_whitespace).collect();
        let mut out = String::with_capacity(text.len() + 32);
        let mut index = 0;
        while let Some(piece) = pieces.get(index) {
            let longest = PHRASE_WORDS_MAX.min(pieces.len() - index);
            let exchanged = (1..=longest).rev().find_map(|count| {
                let pieces = pieces.get(index..index + count)?;
                self.exchanged(pieces, protected, probability, rng).map(|text| (text, count))
            });
            if let Some((text, count)) = exchanged {
                out.push_str(&text);
                index += count;
            } else {
                out.push_str(piece);
                index += 1;
            }
        }
        out
    }

    fn exchanged(
        &self,
        pieces: &[&str],
        protected: &BTreeSet<String>,
        probability: f64,
        rng: &mut ChaCha8Rng,
    ) -> Option<String> {
        if pieces.iter().any(|piece| stays(piece.trim_end(), protected)) {
            return None;
        }
        let whole = pieces.concat();
        let bare = whole.trim_end();
        let phrase = bare.trim_end_matches(|c: char| !c.is_alphanumeric());
        let tail = whole.get(phrase.len()..)?;
        let classes = self.places.get(phrase.to_lowercase().as_str())?;
        if !rng.random_bool(probability) {
            return None;
        }
        let class = self.classes.get(*classes.get(rng.random_range(0..classes.len()))?)?;
        let chosen = *class.get(rng.random_range(0..class.len()))?;
        let mut letters = chosen.chars();
        let first = letters.next()?;
        let capital = phrase.chars().next().is_some_and(char::is_uppercase);
        let first = if capital { first.to_uppercase().to_string() } else { first.to_string() };
        Some(format!("{first}{}{tail}", letters.as_str()))
    }
}
