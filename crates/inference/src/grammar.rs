//! Answers that must be JSON of a given schema: the schema compiles to a grammar (llguidance), the grammar says
//! before every token which tokens may follow.
//!
//! White space between JSON tokens is never allowed, and properties come in the schema's order. Compiled grammars
//! are kept by the schema's text.

use std::fmt;
use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::{JsonCompileOptions, Matcher, ParserFactory};
use toktrie::{SimpleVob, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use crate::error::InferenceError;
use crate::tokenizer::{TokenKind, Tokenizer};

/// Compiled grammars that are kept; the least recently used one goes first.
const GRAMMARS_MAX: usize = 64;

/// The tokenizer as the grammar engine sees it.
///
/// It does not call itself canonical, so that the engine never forces tokens by tokenising forced bytes alone:
/// what is forced is decided in [`stable_forced_tokens`], with the text around it.
struct GrammarTokenizer {
    tokenizer: Arc<Tokenizer>,
    trie: TokTrie,
}

impl GrammarTokenizer {
    fn new(tokenizer: Arc<Tokenizer>) -> Self {
        let count = u32::try_from(tokenizer.vocabulary_tokens()).unwrap_or(u32::MAX);
        let words: Vec<Vec<u8>> = (0..count)
            .map(|id| match tokenizer.kind(id) {
                TokenKind::Normal | TokenKind::UserDefined => tokenizer.bytes(id).to_vec(),
                TokenKind::Control => {
                    let mut word = vec![TokTrie::SPECIAL_TOKEN_MARKER];
                    word.extend_from_slice(format!("<{id}>").as_bytes());
                    word
                }
                TokenKind::Unused => Vec::new(),
            })
            .collect();
        let trie = TokTrie::from(&TokRxInfo::new(count, tokenizer.eos()), &words);
        Self { tokenizer, trie }
    }
}

impl TokenizerEnv for GrammarTokenizer {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        std::str::from_utf8(bytes)
            .ok()
            .and_then(|text| self.tokenizer.encode(text).ok())
            .unwrap_or_else(|| self.trie.greedy_tokenize(bytes))
    }

    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}

/// Compiles schemas and keeps what was compiled.
pub(crate) struct GrammarCache {
    factory: ParserFactory,
    /// Most recently used last.
    compiled: Vec<(Arc<str>, Matcher)>,
}

impl fmt::Debug for GrammarCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarCache").field("compiled", &self.compiled.len()).finish_non_exhaustive()
    }
}

impl GrammarCache {
    /// An empty cache for answers in `tokenizer`'s tokens.
    pub(crate) fn new(tokenizer: Arc<Tokenizer>) -> Result<Self, InferenceError> {
        let environment: TokEnv = Arc::new(GrammarTokenizer::new(tokenizer));
        let mut factory = ParserFactory::new_simple(&environment)
            .map_err(|error| InferenceError::Grammar { reason: error.to_string() })?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(Self { factory, compiled: Vec::new() })
    }

    /// A fresh constraint for `schema`, the text of a JSON Schema.
    ///
    /// Fails with [`InferenceError::Grammar`] when the text is no JSON object or uses what cannot be compiled.
    pub(crate) fn constraint(&mut self, schema: &Arc<str>) -> Result<Constraint, InferenceError> {
        if let Some(at) = self.compiled.iter().position(|(text, _)| text == schema) {
            let entry = self.compiled.remove(at);
            self.compiled.push(entry);
        } else {
            let matcher = self.compile(schema)?;
            if self.compiled.len() >= GRAMMARS_MAX {
                self.compiled.remove(0);
            }
            self.compiled.push((Arc::clone(schema), matcher));
        }
        self.compiled
            .last()
            .map(|(_, matcher)| Constraint { matcher: matcher.deep_clone() })
            .ok_or_else(|| InferenceError::Grammar { reason: "the cache lost a grammar".to_owned() })
    }

    fn compile(&self, schema: &str) -> Result<Matcher, InferenceError> {
        let refuse = |reason: String| InferenceError::Grammar { reason };
        let mut schema: serde_json::Value = serde_json::from_str(schema)
            .map_err(|error| refuse(format!("the schema is not JSON: {error}")))?;
        if !schema.is_object() {
            return Err(refuse("the schema is not a JSON object".to_owned()));
        }
        let options = JsonCompileOptions { whitespace_flexible: false, ..JsonCompileOptions::default() };
        options.apply_to(&mut schema);
        let matcher = Matcher::new(self.factory.create_parser(TopLevelGrammar::from_json_schema(schema)));
        match matcher.get_error() {
            Some(reason) => Err(refuse(reason)),
            None => Ok(matcher),
        }
    }
}

/// Where one answer stands in its grammar.
pub(crate) struct Constraint {
    matcher: Matcher,
}

impl Constraint {
    /// The tokens that may come next.
    pub(crate) fn allowed(&mut self) -> Result<SimpleVob, InferenceError> {
        self.matcher
            .compute_mask_or_eos()
            .map_err(|error| InferenceError::Grammar { reason: error.to_string() })
    }

    /// Takes `tokens` as the next ones.
    pub(crate) fn accept(&mut self, tokens: &[u32]) -> Result<(), InferenceError> {
        self.matcher
            .consume_tokens(tokens)
            .map_err(|error| InferenceError::Grammar { reason: error.to_string() })
    }

    /// Whether the answer is whole and nothing can follow.
    pub(crate) fn is_complete(&self) -> bool {
        self.matcher.is_stopped()
    }

    /// The tokens that must come next whatever the model thinks, given the answer so far.
    pub(crate) fn forced(
        &mut self,
        answer: &[u32],
        tokenizer: &Tokenizer,
    ) -> Result<Vec<u32>, InferenceError> {
        let forced = self.matcher.compute_ff_bytes();
        stable_forced_tokens(answer, &forced, tokenizer)
    }
}

/// The tokens that the tokenizer gives `forced` when it follows `answer`, as far as no continuation can change
/// them.
///
/// A model has learnt text as the tokenizer cuts it, so tokens may be put in its mouth only where they are those
/// very tokens. Words (what merges never cross) are cut from left to right, so every word but the last is final;
/// and the word that the answer ends in must so far consist of just the tokens that the answer has.
fn stable_forced_tokens(
    answer: &[u32],
    forced: &[u8],
    tokenizer: &Tokenizer,
) -> Result<Vec<u32>, InferenceError> {
    if forced.is_empty() {
        return Ok(Vec::new());
    }
    let mut bytes: Vec<u8> = answer.iter().flat_map(|id| tokenizer.bytes(*id)).copied().collect();
    let border = bytes.len();
    bytes.extend_from_slice(forced);
    let Ok(text) = std::str::from_utf8(&bytes) else { return Ok(Vec::new()) };
    let tokens = tokenizer.encode_words(text)?;
    // A tokenizer that leaves bytes out cannot be asked where a token begins.
    if tokens.iter().map(|token| tokenizer.bytes(token.id).len()).sum::<usize>() != bytes.len() {
        return Ok(Vec::new());
    }

    let mut at = 0;
    let mut before = 0;
    for token in &tokens {
        if at >= border {
            break;
        }
        at += tokenizer.bytes(token.id).len();
        before += 1;
    }
    if at != border {
        return Ok(Vec::new());
    }
    let (old, new) = tokens.split_at(before);
    let (Some(first), Some(last)) = (new.first(), new.last()) else { return Ok(Vec::new()) };
    let same_word: Vec<u32> =
        old.iter().rev().take_while(|token| token.word == first.word).map(|token| token.id).collect();
    let is_canonical = same_word.iter().eq(answer.iter().rev().take(same_word.len()));
    if !is_canonical {
        return Ok(Vec::new());
    }
    Ok(new.iter().take_while(|token| token.word != last.word).map(|token| token.id).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::tests::tokenizer;

    fn forced(answer: &[u32], forced: &str) -> String {
        let tokenizer = tokenizer();
        tokenizer.decode(&stable_forced_tokens(answer, forced.as_bytes(), &tokenizer).unwrap())
    }

    #[test]
    fn forced_text_is_taken_up_to_its_last_word() {
        assert_eq!(forced(&[], r#"{"action":"order"#), r#"{"action":""#);
        assert_eq!(forced(&[], "{"), "");
    }

    #[test]
    fn forced_text_continues_an_answer_only_as_the_tokenizer_would() {
        let tokenizer = tokenizer();
        // Canonical: `","` is one token, so after a lone quote nothing can be forced until that word is over.
        let quoted = tokenizer.encode(r#"{"action":"order"#).unwrap();
        let mut lone_quote = quoted.clone();
        lone_quote.extend(tokenizer.encode("\"").unwrap());
        assert_eq!(forced(&lone_quote, r#","action":"x"#), "");
        let mut whole = quoted;
        whole.extend(tokenizer.encode(r#"",""#).unwrap());
        assert_eq!(forced(&whole, r#"action":"x"#), r#"action":""#);
        let continued = stable_forced_tokens(&whole, br#"action":"x"#, &tokenizer).unwrap();
        whole.extend(continued);
        assert_eq!(whole, tokenizer.encode(r#"{"action":"order","action":""#).unwrap());
    }

    #[test]
    fn a_compiled_grammar_is_reused_and_the_cache_is_bounded() {
        let mut cache = GrammarCache::new(Arc::new(tokenizer())).unwrap();
        for number in 0..GRAMMARS_MAX + 10 {
            cache.constraint(&format!(r#"{{"const":{number}}}"#).into()).unwrap();
        }
        assert_eq!(cache.compiled.len(), GRAMMARS_MAX);
        let kept: Arc<str> = r#"{"const":30}"#.into();
        cache.constraint(&kept).unwrap();
        assert_eq!(cache.compiled.len(), GRAMMARS_MAX);
        assert_eq!(cache.compiled.last().map(|(text, _)| Arc::clone(text)), Some(kept));
    }

    #[test]
    fn what_is_no_schema_is_refused_with_a_reason() {
        let mut cache = GrammarCache::new(Arc::new(tokenizer())).unwrap();
        for schema in ["", "nonsense", "true", "[]", r#"{"type":"nonsense"}"#, r#"{"$ref":"http://x/y"}"#] {
            let result = cache.constraint(&schema.into()).map(drop);
            assert!(matches!(result, Err(InferenceError::Grammar { .. })), "{schema}");
        }
        assert!(cache.compiled.is_empty());
    }
}
