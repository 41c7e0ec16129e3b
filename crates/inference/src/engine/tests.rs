mod answers;
mod conversations;
mod files;
mod requests;

use std::collections::HashMap;

use kintsugi_types::{ByteCount, Completion, CompletionRequest, Grammar, Message, Role, Sampling};

use super::*;
use crate::support::RandomLlama;

fn config(bytes: Vec<u8>) -> EngineConfig {
    EngineConfig {
        model: ModelSource::Bytes { name: "random.gguf".to_owned(), bytes: bytes.into() },
        slots: 8,
        context_tokens: 256,
        memory_budget: ByteCount::mib(256),
        host_memory: ByteCount::mib(1),
        step_tokens_max: 64,
    }
}

fn engine(shape: &RandomLlama) -> CandleEngine {
    CandleEngine::load(&config(shape.gguf())).unwrap()
}

fn request(text: &str, temperature: f32, seed: u64, tokens_max: u32) -> CompletionRequest {
    CompletionRequest {
        messages: vec![Message::new(Role::User, text)],
        grammar: Grammar::Free,
        sampling: Sampling { temperature, top_p: 1.0, seed },
        tokens_max,
    }
}

/// Steps until nothing is left.
fn run(engine: &mut CandleEngine) -> HashMap<RequestId, Completion> {
    let mut finished = HashMap::new();
    for _ in 0..10_000 {
        if engine.active() == 0 {
            return finished;
        }
        for done in engine.step().unwrap() {
            finished.insert(done.id, done.outcome.unwrap());
        }
    }
    panic!("requests never ended");
}

/// What `request` gives by itself.
fn complete(engine: &mut CandleEngine, request: CompletionRequest) -> Completion {
    engine.admit(RequestId(1), request, &Origin::default()).unwrap();
    run(engine).remove(&RequestId(1)).unwrap()
}
