//! Other wordings of a ticket that mean the same, so that the model learns the wish and not the wording.
//!
//! Only at training time, and only to the text of a ticket. Words with a digit or an at sign, and those that the
//! caller protects because a decision copies them, are never touched.

mod fragments;
mod synonyms;
mod typos;

use std::collections::BTreeSet;

use rand::RngExt as _;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand_chacha::ChaCha8Rng;

use fragments::{ASIDES, CLOSINGS, GREETINGS};
pub use synonyms::Synonyms;
use typos::misspell;

/// How much is changed; every number is a probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Strength {
    /// Of a ticket being left as it is.
    pub untouched: f64,
    /// Of a phrase being exchanged for one of its class.
    pub synonym: f64,
    /// Of a word being left out.
    pub dropped: f64,
    /// Of a ticket having misspellings.
    pub clumsy: f64,
    /// Of a word being misspelt, in such a ticket.
    pub misspelt: f64,
    /// Of a space being forgotten, in such a ticket.
    pub joined: f64,
    /// Of a greeting, a closing or an aside being added, each.
    pub fragment: f64,
    /// Of the sentences being put into another order.
    pub shuffled: f64,
}

impl Strength {
    /// What the shipped model was trained with.
    pub const NANO: Self = Self {
        untouched: 0.15,
        synonym: 0.45,
        dropped: 0.06,
        clumsy: 0.4,
        misspelt: 0.15,
        joined: 0.03,
        fragment: 0.2,
        shuffled: 0.2,
    };
}

/// A ticket's text in another wording. `protected` holds lower-case words that must stay.
pub fn reworded(
    text: &str,
    protected: &BTreeSet<String>,
    synonyms: &Synonyms,
    strength: Strength,
    rng: &mut ChaCha8Rng,
) -> String {
    if rng.random_bool(strength.untouched) {
        return text.to_owned();
    }
    let mut text = text.to_owned();
    if rng.random_bool(strength.shuffled) {
        text = shuffled_sentences(&text, rng);
    }
    text = synonyms.exchange(&text, protected, strength.synonym, rng);
    text = changed_words(&text, protected, strength, rng);
    text = with_fragments(text, strength.fragment, rng);
    if rng.random_bool(0.2) {
        text = lower_case(&text, protected);
    }
    if rng.random_bool(0.12) {
        text = text
            .chars()
            .enumerate()
            .filter(|(index, c)| !matches!(c, ',' | '!' | '?' | ';' | '\'') || *index == 0)
            .map(|(_, c)| c)
            .collect();
    }
    text
}

/// Whether a word must stay as it is.
fn stays(word: &str, protected: &BTreeSet<String>) -> bool {
    let bare = word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
    word.contains(|c: char| c.is_ascii_digit() || c == '@' || c == '#') || protected.contains(&bare)
}

fn lower_case(text: &str, protected: &BTreeSet<String>) -> String {
    text.split_inclusive(char::is_whitespace)
        .map(|word| if stays(word.trim_end(), protected) { word.to_owned() } else { word.to_lowercase() })
        .collect()
}

/// Sentences end at a full stop, question or exclamation mark followed by white space.
fn shuffled_sentences(text: &str, rng: &mut ChaCha8Rng) -> String {
    let mut sentences: Vec<&str> = Vec::new();
    let (mut start, mut ended) = (0, false);
    for (index, c) in text.char_indices() {
        if c.is_whitespace() && ended {
            sentences.extend(text.get(start..index).map(str::trim));
            start = index;
        }
        ended = matches!(c, '.' | '!' | '?') || (ended && c.is_whitespace());
    }
    sentences.extend(text.get(start..).map(str::trim));
    sentences.retain(|sentence| !sentence.is_empty());
    if sentences.len() < 3 {
        return text.to_owned();
    }
    sentences.shuffle(rng);
    sentences.join(" ")
}

fn changed_words(
    text: &str,
    protected: &BTreeSet<String>,
    strength: Strength,
    rng: &mut ChaCha8Rng,
) -> String {
    let clumsy = rng.random_bool(strength.clumsy);
    let (misspelt, joined) = if clumsy { (strength.misspelt, strength.joined) } else { (0.0, 0.0) };
    let dropped = if rng.random_bool(0.6) { strength.dropped } else { 0.0 };
    let mut out = String::with_capacity(text.len());
    for piece in text.split_inclusive(char::is_whitespace) {
        let word = piece.trim_end();
        if stays(word, protected) {
            out.push_str(piece);
        } else if rng.random_bool(dropped) {
            // Left out with the white space after it.
        } else {
            if rng.random_bool(misspelt) {
                out.push_str(&misspell(word, rng));
            } else {
                out.push_str(word);
            }
            if !rng.random_bool(joined) {
                out.push_str(piece.get(word.len()..).unwrap_or_default());
            }
        }
    }
    if out.trim().is_empty() { text.to_owned() } else { out }
}

fn with_fragments(mut text: String, probability: f64, rng: &mut ChaCha8Rng) -> String {
    if rng.random_bool(probability)
        && let Some(aside) = ASIDES.choose(rng)
    {
        text = if rng.random_bool(0.5) { format!("{aside} {text}") } else { format!("{text} {aside}") };
    }
    if rng.random_bool(probability)
        && let Some(greeting) = GREETINGS.choose(rng)
    {
        let gap = if rng.random_bool(0.4) { "\n" } else { " " };
        text = format!("{greeting}{gap}{text}");
    }
    if rng.random_bool(probability)
        && let Some(closing) = CLOSINGS.choose(rng)
    {
        let gap = if rng.random_bool(0.4) { "\n" } else { " " };
        text = format!("{text}{gap}{closing}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::rand_core::SeedableRng as _;

    #[test]
    fn numbers_addresses_and_protected_words_survive() {
        let synonyms = Synonyms::new();
        let protected = BTreeSet::from(["lamp".to_owned()]);
        let text =
            "Hello, where is order 10482? My desk lamp has not arrived. Write to mara@example.org please.";
        let mut seen = BTreeSet::new();
        for seed in 0..300 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let reworded = reworded(text, &protected, &synonyms, Strength::NANO, &mut rng);
            for kept in ["10482", "lamp", "mara@example.org"] {
                assert!(reworded.contains(kept), "{reworded}");
            }
            seen.insert(reworded);
        }
        assert!(seen.len() > 200, "only {} wordings", seen.len());
    }

    #[test]
    fn the_same_seed_gives_the_same_wording() {
        let synonyms = Synonyms::new();
        let mut wordings = (0..2).map(|_| {
            let mut rng = ChaCha8Rng::seed_from_u64(9);
            reworded("my parcel is broken. help me.", &BTreeSet::new(), &synonyms, Strength::NANO, &mut rng)
        });
        assert_eq!(wordings.next(), wordings.next());
    }
}
