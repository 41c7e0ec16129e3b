//! Twelve agents that generate at once, on a random 150M Llama in `Q4_K`: our engine against candle-transformers'
//! `quantized_llama`, which runs one sequence at a time, and against our engine used that way. All in one process
//! on the same compute pool, so the ratios hold whatever else the machine does.

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::Cursor;
use std::sync::Arc;
use std::time::Instant;

use candle_core::quantized::{GgmlDType, gguf_file};
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_llama::ModelWeights;
use kintsugi_inference::{
    Backend, CandleEngine, EngineConfig, ModelSource, Origin, RequestId, compute_threads,
};
use kintsugi_types::{ByteCount, CompletionRequest, Grammar, Message, Role, Sampling};
use support::RandomLlama;

const AGENTS: u32 = 12;
/// Tokens that each agent generates while the clock runs.
const TOKENS: u32 = 24;
/// Measured alternately, and the best of these is taken, for other load only ever slows down.
const ROUNDS: usize = 3;

fn main() {
    let shape = RandomLlama {
        layers: 16,
        width: 768,
        feed_forward: 2048,
        heads: 12,
        kv_heads: 4,
        head_size: 64,
        tied: false,
        dtype: GgmlDType::Q4K,
        embedding_dtype: GgmlDType::Q4K,
        context: 2048,
        text_tokens: 32_000 - support::CONTROL.len(),
        seed: 1,
    };
    let file: Arc<[u8]> = shape.gguf().into();
    let mut engine = CandleEngine::load(&EngineConfig {
        model: ModelSource::Bytes { name: "random.gguf".to_owned(), bytes: Arc::clone(&file) },
        slots: AGENTS,
        context_tokens: 1024,
        memory_budget: ByteCount::mib(2048),
        host_memory: EngineConfig::HOST_MEMORY_DEFAULT,
        step_tokens_max: EngineConfig::STEP_TOKENS_DEFAULT,
    })
    .expect("the model loads");
    let mut stock = Stock::new(&file);
    println!("{:.0}M weights, {} threads", engine.info().parameters as f64 / 1e6, compute_threads());

    let (mut together, mut alone, mut one_by_one) = (0f64, 0f64, 0f64);
    for _ in 0..ROUNDS {
        together = together.max(batch(&mut engine, 0..AGENTS));
        alone = alone.max(batch(&mut engine, 0..1));
        one_by_one = one_by_one.max(stock.decode());
    }
    println!("decode, tokens/s");
    println!("  ours, {AGENTS} agents together     {together:8.1}");
    println!("  ours, one at a time          {alone:8.1}");
    println!("  stock candle, one at a time  {one_by_one:8.1}");
    println!(
        "together / stock {:.2}, together / one at a time {:.2}",
        together / one_by_one,
        together / alone
    );
    println!("memory {:?}", engine.memory());
}

/// Tokens per second of agents that generate together, after their prompts.
fn batch(engine: &mut CandleEngine, agents: std::ops::Range<u32>) -> f64 {
    let count = f64::from(agents.end - agents.start);
    for agent in agents {
        let prompt = "order the thing and ".repeat(6 + (agent as usize));
        let request = CompletionRequest {
            messages: vec![Message::new(Role::User, prompt)],
            grammar: Grammar::Free,
            sampling: Sampling { temperature: 1.0, top_p: 1.0, seed: agent.into() },
            tokens_max: 400,
        };
        engine.admit(RequestId(agent.into()), request, &Origin::default()).expect("there is room");
    }
    // Prompts fit in a few steps; after these every step is one token each.
    for _ in 0..8 {
        engine.step().expect("a step");
    }
    let start = Instant::now();
    for _ in 0..TOKENS {
        engine.step().expect("a step");
    }
    let rate = f64::from(TOKENS) * count / start.elapsed().as_secs_f64();
    for agent in 0..AGENTS {
        engine.cancel(RequestId(agent.into()));
    }
    rate
}

/// candle-transformers' model with a context of its own.
struct Stock(ModelWeights);

impl Stock {
    fn new(file: &[u8]) -> Self {
        let mut reader = Cursor::new(file);
        let content = gguf_file::Content::read(&mut reader).expect("a header");
        Self(ModelWeights::from_gguf(content, &mut reader, &Device::Cpu).expect("the model loads"))
    }

    /// Tokens per second of one sequence; twelve in turn take twelve times as long.
    fn decode(&mut self) -> f64 {
        let step = |model: &mut ModelWeights, tokens: &[u32], position: usize| {
            let input = Tensor::new(tokens, &Device::Cpu).and_then(|ids| ids.unsqueeze(0)).expect("ids");
            model.forward(&input, position).expect("a step")
        };
        let prompt: Vec<u32> = (300..400).collect();
        step(&mut self.0, &prompt, 0);
        let start = Instant::now();
        for index in 0..TOKENS {
            step(&mut self.0, &[500 + index], prompt.len() + index as usize);
        }
        f64::from(TOKENS) / start.elapsed().as_secs_f64()
    }
}
