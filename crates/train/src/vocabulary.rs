//! The tokenizer: byte-level BPE (Sennrich et al. 2016; GPT-2) learned from the traces.
//!
//! Text is split so that every digit stands alone (numbers are copied digit by digit), then as GPT-2 does. That is
//! llama.cpp's pre-tokenizer `smollm`. Control tokens have ids but no text that leads to them: whatever a customer
//! writes stays text.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context as _, anyhow, ensure};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{
    AddedToken, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Tokenizer, Trainer as _,
};

use crate::merges::Merges;

/// The control tokens; their ids are their places here.
pub const CONTROL_TOKENS: [&str; 5] = ["<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>"];
/// Begins the system message.
pub const SYSTEM: u32 = 0;
/// Begins the goal.
pub const USER: u32 = 1;
/// Begins a decision.
pub const ASSISTANT: u32 = 2;
/// Begins an observation.
pub const TOOL: u32 = 3;
/// Ends a decision.
pub const END: u32 = 4;

/// Tokens by id, and the merges in order of rank as a GGUF file has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vocabulary {
    /// The text of each token in GPT-2's byte alphabet.
    pub tokens: Vec<String>,
    /// Pairs that are joined, with a space between.
    pub merges: Vec<String>,
}

/// What tokenizers writes of a model.
#[derive(Deserialize)]
struct Learned {
    vocab: HashMap<String, usize>,
    merges: Vec<(String, String)>,
}

fn splitter() -> Sequence {
    Sequence::new(vec![Digits::new(true).into(), ByteLevel::new(false, true, true).into()])
}

impl Vocabulary {
    /// Learns `size` tokens (control tokens and all bytes among them) from texts.
    pub fn learn(texts: &[String], size: usize) -> anyhow::Result<Self> {
        let specials = CONTROL_TOKENS.iter().map(|token| AddedToken::from(*token, true)).collect();
        let mut trainer = BpeTrainerBuilder::new()
            .vocab_size(size)
            .min_frequency(2)
            .show_progress(false)
            .special_tokens(specials)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build();
        let splitter = splitter();
        trainer
            .feed(texts.iter(), |text| {
                let mut pieces = PreTokenizedString::from(text);
                splitter.pre_tokenize(&mut pieces)?;
                let splits = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
                Ok(splits.into_iter().map(|(piece, _, _)| piece.to_owned()).collect())
            })
            .map_err(|error| anyhow!("count words: {error}"))?;
        let mut model = BPE::default();
        trainer.train(&mut model).map_err(|error| anyhow!("learn merges: {error}"))?;
        let Learned { vocab: ids, merges } = serde_json::from_value(serde_json::to_value(&model)?)?;
        let mut tokens = vec![String::new(); ids.len()];
        for (token, id) in ids {
            *tokens.get_mut(id).context("ids with gaps")? = token;
        }
        ensure!(tokens.len() == size, "the texts give only {} of {size} tokens", tokens.len());
        let merges = merges.into_iter().map(|(left, right)| format!("{left} {right}")).collect();
        Ok(Self { tokens, merges })
    }

    /// Reads what [`Self::save`] wrote.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Writes it as JSON.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        std::fs::write(path, serde_json::to_string(self)?)
            .with_context(|| format!("write {}", path.display()))
    }

    /// Makes the encoder.
    pub fn encoder(&self) -> anyhow::Result<Encoder> {
        let ids: HashMap<&str, u32> = self.tokens.iter().map(String::as_str).zip(0..).collect();
        let model = json!({"type": "BPE", "vocab": ids, "merges": self.merges});
        // From text: the model borrows its type tag from what it is read from.
        let model: BPE = serde_json::from_str(&model.to_string()).context("build the tokenizer")?;
        let mut tokenizer = Tokenizer::new(model);
        tokenizer.with_pre_tokenizer(Some(splitter()));
        tokenizer.with_decoder(Some(ByteLevel::default()));
        Ok(Encoder { tokenizer, merges: Merges::new(self)? })
    }
}

/// Turns text into ids and back.
#[derive(Debug, Clone)]
pub struct Encoder {
    tokenizer: Tokenizer,
    merges: Merges,
}

impl Encoder {
    /// Ids of `text`; never a control token.
    pub fn encode(&self, text: &str) -> anyhow::Result<Vec<u32>> {
        let encoding = self.tokenizer.encode_fast(text, false).map_err(|error| anyhow!("encode: {error}"))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Ids of `text` with every merge left out with probability `dropped` (BPE dropout, Provilkov et al. 2020).
    pub fn encode_varied(&self, text: &str, dropped: f64, rng: &mut ChaCha8Rng) -> anyhow::Result<Vec<u32>> {
        let mut pieces = PreTokenizedString::from(text);
        splitter().pre_tokenize(&mut pieces).map_err(|error| anyhow!("split: {error}"))?;
        let splits = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
        let mut ids = Vec::new();
        for (piece, ..) in splits {
            ids.extend(self.merges.encode(piece, dropped, rng)?);
        }
        Ok(ids)
    }

    /// Text of `ids`.
    pub fn decode(&self, ids: &[u32]) -> anyhow::Result<String> {
        self.tokenizer.decode(ids, false).map_err(|error| anyhow!("decode: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng as _;

    use super::*;

    fn sample() -> Vocabulary {
        let texts: Vec<String> = (0..400)
            .map(|n| format!("order {n} is late, dear customer{}", "abcdefgh".repeat(n % 3)))
            .collect();
        Vocabulary::learn(&texts, 280).unwrap()
    }

    #[test]
    fn text_survives_encoding_and_no_text_becomes_a_control_token() {
        let encoder = sample().encoder().unwrap();
        for text in ["order 10482", "  zwölf\n\tπ 🎉", "<|end|><|assistant|>", ""] {
            let ids = encoder.encode(text).unwrap();
            assert!(ids.iter().all(|id| *id > END), "{text}");
            assert_eq!(encoder.decode(&ids).unwrap(), text);
        }
    }

    #[test]
    fn a_varied_encoding_is_the_usual_one_without_dropout_and_the_same_text_with_it() {
        let encoder = sample().encoder().unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for text in ["order 10482 is late, dear customerabcdefghabcdefgh", "  zwölf\n\tπ 🎉", ""] {
            let usual = encoder.encode(text).unwrap();
            assert_eq!(encoder.encode_varied(text, 0.0, &mut rng).unwrap(), usual);
            for dropped in [0.1, 0.5, 1.0] {
                let ids = encoder.encode_varied(text, dropped, &mut rng).unwrap();
                assert_eq!(encoder.decode(&ids).unwrap(), text);
                assert!(ids.len() >= usual.len() && ids.iter().all(|id| *id > END));
            }
            assert_eq!(encoder.encode_varied(text, 1.0, &mut rng).unwrap().len(), text.len());
        }
    }

    #[test]
    fn every_digit_is_a_token() {
        let encoder = sample().encoder().unwrap();
        assert_eq!(encoder.encode("10482").unwrap().len(), 5);
    }
}
