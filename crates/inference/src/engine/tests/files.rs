//! Files that are missing, cut, changed or of another kind: an error that helps, never a panic.

use candle_core::quantized::gguf_file::Value;

use super::*;
use crate::support::Random;

fn load(bytes: Vec<u8>) -> Result<CandleEngine, InferenceError> {
    CandleEngine::load(&config(bytes))
}

fn small() -> RandomLlama {
    RandomLlama {
        layers: 1,
        width: 32,
        feed_forward: 32,
        heads: 1,
        text_tokens: 284,
        ..RandomLlama::default()
    }
}

#[test]
fn a_missing_file_is_named() {
    let path = std::path::PathBuf::from("no/such/model.gguf");
    let error = CandleEngine::load(&EngineConfig { model: ModelSource::Path(path), ..config(Vec::new()) })
        .unwrap_err();
    assert!(error.to_string().contains("no/such/model.gguf"), "{error}");
    assert!(!error.is_retryable());
}

#[test]
fn a_file_from_disk_loads_and_takes_its_name_from_the_stem_where_it_has_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny-one.gguf");
    let bytes = small().gguf_with(|metadata| metadata.retain(|(key, _)| *key != "general.name"));
    std::fs::write(&path, bytes).unwrap();
    let engine =
        CandleEngine::load(&EngineConfig { model: ModelSource::Path(path), ..config(Vec::new()) }).unwrap();
    assert_eq!(engine.info().name.as_str(), "tiny-one");
    assert_eq!(engine.info().context_tokens, 256);
    assert_eq!(engine.info().kv_bytes_per_token, ByteCount(2 * 2 * 32));
}

#[test]
fn a_file_cut_anywhere_is_an_error() {
    let whole = small().gguf();
    assert!(load(whole.clone()).is_ok());
    let cuts = (0..64).chain((64..whole.len()).step_by(whole.len() / 300)).chain([whole.len() - 40]);
    for cut in cuts {
        let error = load(whole[..cut].to_vec()).unwrap_err();
        assert!(matches!(error, InferenceError::Damaged { .. }), "cut at {cut}: {error}");
        assert!(error.to_string().contains("random.gguf"));
    }
}

#[test]
fn changed_bytes_in_the_header_never_panic() {
    let whole = small().gguf();
    let mut random = Random(5);
    for _ in 0..300 {
        let mut bytes = whole.clone();
        for _ in 0..=random.below(3) {
            let at = random.below(14_000);
            bytes[at] = match random.below(3) {
                0 => 0xFF,
                1 => 0,
                _ => bytes[at] ^ (1 << random.below(8)),
            };
        }
        // Some changes only spell a token differently; those load.
        drop(load(bytes));
    }
}

#[test]
fn what_cannot_be_run_is_said_with_the_next_step() {
    let changed = |key: &'static str, value: Option<Value>| {
        load(small().gguf_with(|metadata| {
            metadata.retain(|(name, _)| *name != key);
            metadata.extend(value.map(|value| (key, value)));
        }))
        .unwrap_err()
    };
    let gemma = changed("general.architecture", Some(Value::String("gemma3".to_owned())));
    assert!(matches!(gemma, InferenceError::Unsupported { .. }));
    assert!(gemma.to_string().contains("gemma3") && gemma.to_string().contains("use a GGUF file"), "{gemma}");
    for (key, value) in [
        ("llama.expert_count", Value::U32(8)),
        ("llama.rope.scaling.type", Value::String("yarn".to_owned())),
        ("llama.attention.key_length", Value::U32(24)),
    ] {
        let error = changed(key, Some(value));
        assert!(matches!(error, InferenceError::Unsupported { .. }), "{key}: {error}");
    }
    for (key, value) in [
        ("llama.embedding_length", Some(Value::U32(0))),
        ("llama.embedding_length", Some(Value::U32(64))),
        ("llama.block_count", Some(Value::U32(2))),
        ("llama.block_count", Some(Value::U64(u64::MAX))),
        ("llama.attention.head_count", Some(Value::U32(0))),
        ("llama.attention.head_count", None),
        ("llama.attention.head_count_kv", Some(Value::U32(7))),
        ("llama.attention.layer_norm_rms_epsilon", Some(Value::F32(f32::NAN))),
        ("llama.rope.dimension_count", Some(Value::U32(31))),
        ("general.alignment", Some(Value::U32(0))),
        ("tokenizer.chat_template", Some(Value::U32(1))),
    ] {
        let error = changed(key, value);
        assert!(matches!(error, InferenceError::Damaged { .. }), "{key}: {error}");
    }
    let template = changed("tokenizer.chat_template", Some(Value::String("{% if".to_owned())));
    assert!(matches!(template, InferenceError::Template { .. }));
    let fewer_layers = load(RandomLlama { layers: 2, ..small() }.gguf_with(|metadata| {
        metadata.retain(|(key, _)| *key != "llama.block_count");
        metadata.push(("llama.block_count", Value::U32(1)));
    }));
    assert!(fewer_layers.unwrap_err().to_string().contains("blk.1."));
}
