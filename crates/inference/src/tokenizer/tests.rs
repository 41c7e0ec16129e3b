use proptest::prelude::*;

use super::*;
use crate::gguf::ModelSource;
use crate::support::{CONTROL, RandomLlama, spelled};

/// The tokenizer of the random test models.
pub(crate) fn tokenizer() -> Tokenizer {
    let model = RandomLlama::default();
    let tokens = model.tokens();
    let kinds = (0..tokens.len())
        .map(|id| if id < model.text_tokens { TokenKind::Normal } else { TokenKind::Control })
        .collect();
    let eos = u32::try_from(tokens.len() - 1).unwrap();
    let merges = crate::support::MERGES.iter().map(|merge| (*merge).to_owned()).collect();
    Tokenizer::new(TokenizerParts {
        tokens,
        kinds,
        merges,
        pre_tokenizer: PreTokenizer::DigitsGpt2,
        bos: None,
        eos,
    })
    .unwrap()
}

fn from_gguf(bytes: Vec<u8>) -> Result<Tokenizer, InferenceError> {
    let source = ModelSource::Bytes { name: "test.gguf".to_owned(), bytes: bytes.into() };
    Tokenizer::from_gguf(&mut GgufFile::open(&source)?)
}

#[test]
fn merges_apply_inside_words_and_never_across_them() {
    let tokenizer = tokenizer();
    let pieces = |text: &str| -> Vec<String> {
        tokenizer.encode(text).unwrap().iter().map(|id| tokenizer.decode(&[*id])).collect()
    };
    assert_eq!(pieces("order the action"), ["order", " the", " a", "c", "tion"]);
    assert_eq!(pieces("1024"), ["1", "0", "2", "4"]);
    assert_eq!(pieces(r#"{"action":"order"}"#), ["{\"", "action", "\":\"", "order", "\"}"]);
}

#[test]
fn control_tokens_are_found_in_templates_only() {
    let tokenizer = tokenizer();
    let text = "<|user|>hi<|end|>";
    let plain = tokenizer.encode(text).unwrap();
    assert!(plain.iter().all(|id| tokenizer.kind(*id) == TokenKind::Normal));
    assert_eq!(tokenizer.decode(&plain), text);
    let parsed = tokenizer.encode_template(text).unwrap();
    assert_eq!(parsed.first().copied(), tokenizer.control_token("<|user|>"));
    assert_eq!(parsed.last().copied(), Some(tokenizer.eos()));
    assert_eq!(tokenizer.decode(&parsed), "hi");
}

#[test]
fn the_file_gives_the_same_tokenizer_as_its_parts() {
    let read = from_gguf(RandomLlama::default().gguf()).unwrap();
    let built = tokenizer();
    for text in ["", "order and the 42 things", "é😀\n\n  x", CONTROL[0]] {
        assert_eq!(read.encode(text).unwrap(), built.encode(text).unwrap());
    }
    assert_eq!(
        (read.eos(), read.bos(), read.vocabulary_tokens()),
        (built.eos(), None, built.vocabulary_tokens())
    );
}

#[test]
fn what_this_tokenizer_cannot_do_is_said() {
    use candle_core::quantized::gguf_file::Value;
    let changed = |key: &'static str, value: Option<Value>| {
        from_gguf(RandomLlama::default().gguf_with(|metadata| {
            metadata.retain(|(name, _)| *name != key);
            metadata.extend(value.map(|value| (key, value)));
        }))
        .unwrap_err()
        .to_string()
    };
    let spm = changed("tokenizer.ggml.model", Some(Value::String("llama".to_owned())));
    assert!(
        spm.contains("test.gguf") && spm.contains("its tokenizer is \"llama\"") && spm.contains("gpt2"),
        "{spm}"
    );
    assert!(changed("tokenizer.ggml.pre", Some(Value::String("qwen2".to_owned()))).contains("\"qwen2\""));
    assert!(changed("tokenizer.ggml.merges", None).contains("merges is missing"));
    assert!(changed("tokenizer.ggml.eos_token_id", None).contains("ends an answer"));
    assert!(changed("tokenizer.ggml.eos_token_id", Some(Value::U32(9999))).contains("9999"));
    assert!(changed("tokenizer.ggml.eos_token_id", Some(Value::F32(1.0))).contains("natural number"));
    assert!(
        changed("tokenizer.ggml.token_type", Some(Value::Array(vec![Value::I32(1)]))).contains("token types")
    );
    let bad_merge = Value::Array(vec![Value::String("nospace".to_owned())]);
    assert!(changed("tokenizer.ggml.merges", Some(bad_merge)).contains("nospace"));
    let no_result = Value::Array(vec![Value::String("~ ~".to_owned())]);
    assert!(changed("tokenizer.ggml.merges", Some(no_result)).contains("\"~ ~\""));
    let lost_byte = RandomLlama::default().tokens().into_iter().filter(|token| *token != spelled(b'n'));
    let lost_byte = Value::Array(lost_byte.chain(["filler".to_owned()]).map(Value::String).collect());
    assert!(changed("tokenizer.ggml.tokens", Some(lost_byte)).contains("byte 0x6e"));
}

proptest! {
    #[test]
    fn any_text_comes_back_whole_and_without_control_tokens(text in "\\PC{0,60}|(<\\|end\\|>|\\s|[0-9é😀a-z\"{}:,']){0,40}") {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode(&text).unwrap();
        prop_assert!(ids.iter().all(|id| tokenizer.kind(*id) == TokenKind::Normal));
        prop_assert_eq!(&tokenizer.decode(&ids), &text);
        let mut decoder = Utf8Decoder::new();
        let mut streamed: String = ids.iter().map(|id| decoder.push(tokenizer.bytes(*id))).collect();
        streamed.push_str(&decoder.finish());
        prop_assert_eq!(streamed, text);
    }
}
