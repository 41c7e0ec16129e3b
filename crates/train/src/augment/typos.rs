//! How people misspell words.

use rand::RngExt as _;
use rand::seq::IndexedRandom as _;
use rand_chacha::ChaCha8Rng;

/// Letters beside each letter on the keyboard.
const NEIGHBOURS: [&str; 26] = [
    "qsz", "vngh", "xvdf", "sfec", "wrd", "dgrv", "fhtb", "gjyn", "uok", "hkum", "jlim", "kop", "njk",
    "bmhj", "ipl", "ol", "wa", "etf", "adwx", "ryg", "yij", "cbfg", "qes", "zcsd", "tuh", "asx",
];

/// Letters, and others for what sounds alike or is easily taken for it.
const SOUNDS: [(&str, &str); 48] = [
    ("a", "e"),
    ("able", "ible"),
    ("ai", "ay"),
    ("cc", "c"),
    ("ce", "se"),
    ("ck", "k"),
    ("ck", "c"),
    ("dd", "d"),
    ("e", "a"),
    ("e", "i"),
    ("ea", "ee"),
    ("ea", "e"),
    ("ed", "d"),
    ("ee", "ea"),
    ("ei", "ie"),
    ("er", "or"),
    ("ff", "f"),
    ("ght", "t"),
    ("i", "e"),
    ("ie", "ei"),
    ("ing", "in"),
    ("kn", "n"),
    ("ll", "l"),
    ("mm", "m"),
    ("nn", "n"),
    ("o", "u"),
    ("oo", "u"),
    ("or", "er"),
    ("ou", "o"),
    ("ou", "u"),
    ("ough", "uff"),
    ("ould", "ud"),
    ("ph", "f"),
    ("pp", "p"),
    ("qu", "kw"),
    ("rr", "r"),
    ("s", "z"),
    ("ss", "s"),
    ("th", "t"),
    ("th", "d"),
    ("tion", "shun"),
    ("tion", "sion"),
    ("tt", "t"),
    ("v", "w"),
    ("w", "v"),
    ("wh", "w"),
    ("wr", "r"),
    ("y", "i"),
];

/// One mistake: neighbouring letters exchanged, one left out, doubled or hit beside, or a spelling by ear. Words of
/// one or two letters stay.
pub(super) fn misspell(word: &str, rng: &mut ChaCha8Rng) -> String {
    let mut letters: Vec<char> = word.chars().collect();
    if letters.len() < 3 {
        return word.to_owned();
    }
    let place = rng.random_range(1..letters.len() - 1);
    match rng.random_range(0..6) {
        0 => letters.swap(place, place + 1),
        1 => {
            letters.remove(place);
        }
        2 => {
            if let Some(letter) = letters.get(place).copied() {
                letters.insert(place, letter);
            }
        }
        3 => {
            if let Some(letter) = letters.get_mut(place) {
                *letter = beside(*letter, rng);
            }
        }
        _ => return by_ear(word, rng),
    }
    letters.into_iter().collect()
}

/// A key beside that of `letter`; what is no small letter stays.
fn beside(letter: char, rng: &mut ChaCha8Rng) -> char {
    let index = u32::from(letter).wrapping_sub(u32::from('a')) as usize;
    let keys: Vec<char> = NEIGHBOURS.get(index).map(|keys| keys.chars().collect()).unwrap_or_default();
    keys.choose(rng).copied().unwrap_or(letter)
}

/// Exchanges letters for what sounds alike, once.
fn by_ear(word: &str, rng: &mut ChaCha8Rng) -> String {
    let heard: Vec<_> = SOUNDS.iter().filter(|(letters, _)| word.contains(letters)).collect();
    match heard.choose(rng) {
        Some((letters, others)) => word.replacen(letters, others, 1),
        None => word.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand_chacha::rand_core::SeedableRng as _;

    use super::*;

    #[test]
    fn a_word_is_misspelt_in_many_ways_and_stays_about_as_long() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let spellings: BTreeSet<String> = (0..300).map(|_| misspell("received", &mut rng)).collect();
        for known in ["recieved", "recived", "receivd", "receiwed"] {
            assert!(spellings.contains(known), "{known}: {spellings:?}");
        }
        assert!(spellings.iter().all(|spelling| (7..=9).contains(&spelling.len())), "{spellings:?}");
    }

    #[test]
    fn any_word_can_be_misspelt() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        for word in ["", "a", "to", "the", "größer", "🎉🎉🎉", "?!?", "WRONG"] {
            for _ in 0..50 {
                assert!(misspell(word, &mut rng).chars().count() + 1 >= word.chars().count());
            }
        }
    }
}
