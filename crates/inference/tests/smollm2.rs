//! The engine against llama.cpp on a real model: SmolLM2-135M-Instruct, `Q4_1` (98 MB, not in the repository).
//!
//! `tests/data/smollm2.json` holds raw logits of the 20 likeliest tokens that llama.cpp computed from the same file
//! at several positions of ten prompts. Both programs quantise activations, so distributions are compared, not
//! texts.

use std::path::PathBuf;

use kintsugi_inference::{CandleEngine, EngineConfig, ModelSource};
use kintsugi_types::ByteCount;
use serde_json::Value;

/// The largest divergence of any position, in nats.
const DIVERGENCE_MAX: f64 = 0.02;
/// A lead in logits from which on the likeliest token has to be the same.
const MARGIN_CLEAR: f64 = 0.5;

fn engine() -> CandleEngine {
    #[expect(
        clippy::disallowed_methods,
        reason = "tells where the model file was fetched to; no setting of the product"
    )]
    let path = std::env::var("SMOLLM2_GGUF").expect("SMOLLM2_GGUF names the model file");
    CandleEngine::load(&EngineConfig {
        model: ModelSource::Path(PathBuf::from(path)),
        slots: 4,
        context_tokens: 1024,
        memory_budget: ByteCount::mib(1024),
        host_memory: EngineConfig::HOST_MEMORY_DEFAULT,
        step_tokens_max: EngineConfig::STEP_TOKENS_DEFAULT,
    })
    .expect("the model loads")
}

fn reference() -> Value {
    serde_json::from_str(include_str!("data/smollm2.json")).expect("the reference is JSON")
}

fn ids(prompt: &Value) -> Vec<u32> {
    let ids = prompt["ids"].as_array().expect("a list of token ids");
    ids.iter().map(|id| u32::try_from(id.as_u64().expect("a token id")).expect("a small number")).collect()
}

/// Probabilities of `logits` among themselves.
fn softmax(logits: &[f64]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f64::MIN, f64::max);
    let sum: f64 = logits.iter().map(|logit| (logit - max).exp()).sum();
    logits.iter().map(|logit| (logit - max).exp() / sum).collect()
}

#[test]
#[ignore = "needs the SmolLM2 file: cargo xtask prove fetches it and sets SMOLLM2_GGUF"]
fn next_token_distributions_agree_with_llama_cpp() {
    let mut engine = engine();
    let (mut sum, mut worst, mut count) = (0.0, 0.0f64, 0);
    let mut failures = Vec::new();
    for prompt in reference()["prompts"].as_array().expect("prompts") {
        let ids = ids(prompt);
        let positions = prompt["positions"].as_array().expect("positions");
        let places: Vec<usize> = positions
            .iter()
            .map(|position| {
                usize::try_from(position["pos"].as_u64().expect("a position")).expect("a small number")
            })
            .collect();
        let rows = engine.logits_at(&ids, &places).expect("the engine computes");
        for ((position, at), logits) in positions.iter().zip(places).zip(rows) {
            let (tokens, theirs): (Vec<usize>, Vec<f64>) = position["top20"]
                .as_array()
                .expect("twenty tokens")
                .iter()
                .map(|pair| {
                    let token =
                        usize::try_from(pair[0].as_u64().expect("a token id")).expect("a small number");
                    (token, pair[1].as_f64().expect("a logit"))
                })
                .unzip();
            let ours: Vec<f64> = tokens.iter().map(|token| f64::from(logits[*token])).collect();
            let divergence: f64 = softmax(&theirs)
                .iter()
                .zip(softmax(&ours))
                .map(|(theirs, ours)| theirs * (theirs / ours).ln())
                .sum();
            sum += divergence;
            count += 1;
            worst = worst.max(divergence);
            let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).expect("logits");
            let clear = theirs[0] - theirs[1] > MARGIN_CLEAR;
            if divergence > DIVERGENCE_MAX || clear && best != tokens[0] {
                failures.push(format!(
                    "{} at {at}: divergence {divergence:.4}, best {best} for {}",
                    prompt["name"], tokens[0]
                ));
            }
        }
    }
    println!("{count} positions: mean divergence {:.5}, worst {worst:.5}", sum / f64::from(count));
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
#[ignore = "needs the SmolLM2 file: cargo xtask prove fetches it and sets SMOLLM2_GGUF"]
fn prompts_without_control_tokens_are_tokenised_as_llama_cpp_does() {
    let engine = engine();
    for prompt in reference()["prompts"].as_array().expect("prompts") {
        let text = prompt["text"].as_str().expect("a text");
        let tokens = engine.tokenizer().encode_template(text).expect("the tokenizer takes any text");
        assert_eq!(tokens, ids(prompt), "{}", prompt["name"]);
    }
}
