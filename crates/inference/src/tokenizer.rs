//! The tokenizer of a GGUF file: GPT-2 style byte-level BPE (Radford et al. 2019; merges after Sennrich et al. 2016).
//!
//! Text never becomes a control token here: [`Tokenizer::encode`] knows no control tokens at all, and only
//! [`Tokenizer::encode_template`], which is meant for the pieces of a chat template, looks for them.

mod bytes;
mod decoder;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;

use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, PreTokenizerWrapper};

use crate::error::InferenceError;
use crate::gguf::GgufFile;
use bytes::{byte_of_char, char_of_byte};
pub use decoder::Utf8Decoder;

/// The most tokens that a vocabulary may have.
const VOCABULARY_TOKENS_MAX: usize = 1 << 20;
/// The longest token, in bytes. The grammar engine's tree of tokens is not made for deeper ones.
const TOKEN_BYTES_MAX: usize = 512;
/// The most bytes of all tokens together, which bounds the nodes of that tree.
const VOCABULARY_BYTES_MAX: usize = 1 << 22;
const HINT: &str = "use a file with tokenizer.ggml.model gpt2 and pre-tokenizer gpt-2, smollm or kintsugi";

/// What a token is for (`tokenizer.ggml.token_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Text.
    Normal,
    /// Structure of the conversation; never made from text.
    Control,
    /// Text that is one token wherever it occurs.
    UserDefined,
    /// Nothing that is ever produced.
    Unused,
}

/// How text is cut into words before merging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PreTokenizer {
    /// The GPT-2 regular expression.
    Gpt2,
    /// Every digit a word of its own, then the GPT-2 regular expression: `smollm` and `kintsugi`.
    DigitsGpt2,
}

/// All that makes a tokenizer, as it stands in a GGUF file or comes out of training.
#[derive(Debug, Clone)]
pub struct TokenizerParts {
    /// Token texts by id, in GPT-2's printable spelling of bytes.
    pub tokens: Vec<String>,
    /// What each token is for; as long as `tokens`.
    pub kinds: Vec<TokenKind>,
    /// Merges, best first, each two token texts with a space between.
    pub merges: Vec<String>,
    /// How text is cut into words.
    pub pre_tokenizer: PreTokenizer,
    /// The token that a sequence begins with, where the model wants one.
    pub bos: Option<u32>,
    /// The token that ends an answer.
    pub eos: u32,
}

/// One token of a text with the word that it is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WordToken {
    pub(crate) id: u32,
    /// Words are numbered from the text's start; merges never cross them.
    pub(crate) word: u32,
}

/// Turns text into token ids and back.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The bytes of all tokens, one after the other; none for control and unused tokens.
    token_bytes: Vec<u8>,
    /// Where each token's bytes end in `token_bytes`.
    token_ends: Vec<usize>,
    kinds: Vec<TokenKind>,
    /// Control tokens with their spelling in templates, longest first.
    control: Vec<(String, u32)>,
    bos: Option<u32>,
    eos: u32,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("tokens", &self.vocabulary_tokens())
            .field("control", &self.control)
            .field("bos", &self.bos)
            .field("eos", &self.eos)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads the tokenizer out of `file`'s metadata; large lists are moved out of it.
    ///
    /// Fails with [`InferenceError::Unsupported`] for another kind of tokenizer and with
    /// [`InferenceError::Damaged`] when its lists contradict each other.
    pub fn from_gguf(file: &mut GgufFile) -> Result<Self, InferenceError> {
        let model = file.text("tokenizer.ggml.model")?.unwrap_or_else(|| "none".to_owned());
        if model != "gpt2" {
            return Err(file.unsupported(format!("its tokenizer is {model:?}"), HINT));
        }
        let pre_tokenizer = match file.text("tokenizer.ggml.pre")?.as_deref() {
            None | Some("default" | "gpt-2") => PreTokenizer::Gpt2,
            Some("smollm" | "kintsugi") => PreTokenizer::DigitsGpt2,
            Some(other) => return Err(file.unsupported(format!("its pre-tokenizer is {other:?}"), HINT)),
        };
        let missing = |file: &GgufFile, key: &str| file.damaged(format!("{key} is missing"));
        let tokens = file
            .take_texts("tokenizer.ggml.tokens")?
            .ok_or_else(|| missing(file, "tokenizer.ggml.tokens"))?;
        let merges = file
            .take_texts("tokenizer.ggml.merges")?
            .ok_or_else(|| missing(file, "tokenizer.ggml.merges"))?;
        let kinds = match file.integers("tokenizer.ggml.token_type")? {
            None => vec![TokenKind::Normal; tokens.len()],
            Some(types) => types
                .iter()
                .map(|kind| match kind {
                    1 | 6 => TokenKind::Normal,
                    3 => TokenKind::Control,
                    4 => TokenKind::UserDefined,
                    _ => TokenKind::Unused,
                })
                .collect(),
        };
        let id = |key: &str| -> Result<Option<u32>, InferenceError> {
            match file.number(key)? {
                None => Ok(None),
                Some(id) if id < tokens.len() => Ok(u32::try_from(id).ok()),
                Some(id) => Err(file.damaged(format!("{key} is {id}, there are {} tokens", tokens.len()))),
            }
        };
        let eos = id("tokenizer.ggml.eos_token_id")?
            .ok_or_else(|| file.unsupported("it names no token that ends an answer", HINT))?;
        let bos = if file.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(false) {
            id("tokenizer.ggml.bos_token_id")?
        } else {
            None
        };
        let parts = TokenizerParts { tokens, kinds, merges, pre_tokenizer, bos, eos };
        Self::new(parts).map_err(|error| match error {
            InferenceError::Tokenize { reason } => file.damaged(reason),
            other => other,
        })
    }

    /// Builds a tokenizer from its parts.
    ///
    /// Fails with [`InferenceError::Tokenize`] when a printable ASCII character has no token, a merge has no result,
    /// the lists differ in length, or there are too many or too long tokens.
    pub fn new(parts: TokenizerParts) -> Result<Self, InferenceError> {
        let TokenizerParts { tokens, kinds, merges, pre_tokenizer, bos, eos } = parts;
        let refuse = |reason: String| InferenceError::Tokenize { reason };
        if tokens.len() != kinds.len() {
            return Err(refuse(format!("{} tokens, but {} token types", tokens.len(), kinds.len())));
        }
        if tokens.len() > VOCABULARY_TOKENS_MAX {
            return Err(refuse(format!(
                "{} tokens, at most {VOCABULARY_TOKENS_MAX} are taken",
                tokens.len()
            )));
        }
        for id in [Some(eos), bos].into_iter().flatten() {
            if id as usize >= tokens.len() {
                return Err(refuse(format!("token {id} is named, there are {}", tokens.len())));
            }
        }

        let mut vocabulary = tokenizers::models::bpe::Vocab::default();
        let mut control = Vec::new();
        let mut user_defined = Vec::new();
        let mut token_bytes = Vec::new();
        let mut token_ends = Vec::with_capacity(tokens.len());
        for ((id, text), kind) in (0u32..).zip(&tokens).zip(&kinds) {
            match kind {
                TokenKind::Control => control.push((text.clone(), id)),
                TokenKind::Unused => {}
                TokenKind::UserDefined => {
                    token_bytes.extend_from_slice(text.as_bytes());
                    user_defined.push(AddedToken::from(text.clone(), false));
                    vocabulary.insert(text.clone(), id);
                }
                TokenKind::Normal => {
                    let spelled: Option<Vec<u8>> = text.chars().map(byte_of_char).collect();
                    token_bytes.extend_from_slice(spelled.as_deref().unwrap_or(text.as_bytes()));
                    vocabulary.insert(text.clone(), id);
                }
            }
            if token_bytes.len() - token_ends.last().copied().unwrap_or(0) > TOKEN_BYTES_MAX {
                return Err(refuse(format!("token {id} has more than {TOKEN_BYTES_MAX} bytes")));
            }
            token_ends.push(token_bytes.len());
        }
        // The tree also holds a number in brackets for every control token.
        if token_bytes.len() + 16 * control.len() > VOCABULARY_BYTES_MAX {
            return Err(refuse(format!("the tokens have more than {VOCABULARY_BYTES_MAX} bytes")));
        }
        // Some models lack control characters; without printable ASCII nothing could be said at all.
        if let Some(byte) =
            (b' '..=b'~').find(|byte| !vocabulary.contains_key(&char_of_byte(*byte).to_string()))
        {
            return Err(refuse(format!("byte {byte:#04x} has no token")));
        }
        // The longest spelling wins where one control token begins another.
        control.retain(|(text, _)| !text.is_empty());
        control.sort_by(|(a, _), (b, _)| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));

        let merges = merges
            .iter()
            .map(|merge| {
                let (left, right) =
                    merge.split_once(' ').ok_or_else(|| refuse(format!("merge {merge:?} has no space")))?;
                let known = |text: &str| vocabulary.contains_key(text);
                if known(left) && known(right) && known(&format!("{left}{right}")) {
                    Ok((left.to_owned(), right.to_owned()))
                } else {
                    Err(refuse(format!("merge {merge:?} has a part or a result that is no token")))
                }
            })
            .collect::<Result<Vec<_>, _>>()?;
        let bpe = BPE::builder()
            .vocab_and_merges(vocabulary, merges)
            .build()
            .map_err(|error| refuse(error.to_string()))?;

        let gpt2 = ByteLevel::new(false, false, true);
        let mut inner = tokenizers::Tokenizer::new(bpe);
        inner.with_pre_tokenizer(Some(match pre_tokenizer {
            PreTokenizer::Gpt2 => PreTokenizerWrapper::from(gpt2),
            PreTokenizer::DigitsGpt2 => Sequence::new(vec![Digits::new(true).into(), gpt2.into()]).into(),
        }));
        if !user_defined.is_empty() {
            inner.add_tokens(user_defined).map_err(|error| refuse(error.to_string()))?;
        }
        Ok(Self { inner, token_bytes, token_ends, kinds, control, bos, eos })
    }

    /// How many tokens there are; ids are below it.
    pub fn vocabulary_tokens(&self) -> usize {
        self.token_ends.len()
    }

    /// The token that a sequence begins with, where the model wants one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends an answer.
    pub fn eos(&self) -> u32 {
        self.eos
    }

    /// The id of the control token spelled `text`.
    pub fn control_token(&self, text: &str) -> Option<u32> {
        self.control.iter().find(|(spelling, _)| spelling == text).map(|(_, id)| *id)
    }

    /// All control tokens with their spelling, longest first.
    pub fn control_tokens(&self) -> &[(String, u32)] {
        &self.control
    }

    /// What token `id` is for; unused where there is no such token.
    pub fn kind(&self, id: u32) -> TokenKind {
        self.kinds.get(id as usize).copied().unwrap_or(TokenKind::Unused)
    }

    /// The bytes that token `id` stands for, possibly a part of a character; none for control tokens.
    pub fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let start = id.checked_sub(1).and_then(|before| self.token_ends.get(before)).copied().unwrap_or(0);
        let end = self.token_ends.get(id).copied().unwrap_or(start);
        self.token_bytes.get(start..end).unwrap_or_default()
    }

    /// Token ids of `text`. What looks like a control token stays text, and nothing is put before or after. A byte
    /// that the vocabulary has no token for is left out.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, InferenceError> {
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|error| InferenceError::Tokenize { reason: error.to_string() })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Token ids of `text` with the word that each belongs to.
    pub(crate) fn encode_words(&self, text: &str) -> Result<Vec<WordToken>, InferenceError> {
        let encoding = self
            .inner
            .encode(text, false)
            .map_err(|error| InferenceError::Tokenize { reason: error.to_string() })?;
        let words = encoding.get_word_ids();
        Ok(encoding
            .get_ids()
            .iter()
            .zip(words)
            .map(|(id, word)| WordToken { id: *id, word: word.unwrap_or(u32::MAX) })
            .collect())
    }

    /// The first control token spelled out in `text`: where it begins and ends, and its id.
    pub(crate) fn find_control(&self, text: &str) -> Option<(usize, usize, u32)> {
        self.control
            .iter()
            .filter_map(|(spelling, id)| {
                text.find(spelling.as_str()).map(|at| (at, at + spelling.len(), *id))
            })
            .min_by_key(|(start, end, _)| (*start, usize::MAX - end))
    }

    /// Token ids of `text` with control tokens parsed. For text that the model's owner wrote, never for data.
    pub fn encode_template(&self, text: &str) -> Result<Vec<u32>, InferenceError> {
        let mut ids = Vec::new();
        let mut rest = text;
        while let Some((start, end, id)) = self.find_control(rest) {
            ids.extend(self.encode(rest.get(..start).unwrap_or_default())?);
            ids.push(id);
            rest = rest.get(end..).unwrap_or_default();
        }
        ids.extend(self.encode(rest)?);
        Ok(ids)
    }

    /// The text of `ids` without control tokens; bytes that are not UTF-8 become replacement characters.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| self.bytes(*id)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}
