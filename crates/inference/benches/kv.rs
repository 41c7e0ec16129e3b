//! What keeping keys and values saves, on a random 150M Llama in `Q4_K`: twelve agents whose prompts begin with the same
//! 1,024 tokens against twelve that share nothing, and a conversation that comes back from host memory against one
//! that is computed again. Both of each pair run in turn in one process, and the best round of each counts, for other
//! load only ever slows down.

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::quantized::GgmlDType;
use kintsugi_inference::{
    Backend, CandleEngine, ContextId, EngineConfig, ModelSource, Origin, RequestId, compute_threads,
};
use kintsugi_types::{ByteCount, CompletionRequest, Grammar, Message, Role, Sampling};
use support::RandomLlama;

const AGENTS: u32 = 12;
/// Tokens of what all agents are told first.
const PREFIX_TOKENS: u32 = 1024;
/// Tokens that each agent generates.
const TOKENS: u32 = 24;
const ROUNDS: u64 = 3;

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
    let engine = CandleEngine::load(&EngineConfig {
        model: ModelSource::Bytes { name: "random.gguf".to_owned(), bytes: Arc::from(shape.gguf()) },
        slots: AGENTS,
        context_tokens: 2048,
        memory_budget: ByteCount::mib(2048),
        host_memory: EngineConfig::HOST_MEMORY_DEFAULT,
        step_tokens_max: EngineConfig::STEP_TOKENS_DEFAULT,
    })
    .expect("the model loads");
    println!("{:.0}M weights, {} threads", engine.info().parameters as f64 / 1e6, compute_threads());
    let mut bench = Bench { engine, requests: 0, contexts: 0, seed: 0 };

    let (mut shared, mut apart) = (Prefixed::WORST, Prefixed::WORST);
    for _ in 0..ROUNDS {
        shared = shared.better(bench.agents(true));
        apart = apart.better(bench.agents(false));
    }
    println!("\n{AGENTS} agents, {PREFIX_TOKENS} tokens of prefix, {TOKENS} tokens each");
    println!("                 all done, s   keys and values   prompt tokens computed");
    for (name, of) in [("one prefix", &shared), ("their own", &apart)] {
        let (took, kv) = (of.took.as_secs_f64(), of.kv.to_string());
        println!("  {name:<13}{took:>13.2} {kv:>17} {:>24}", of.computed);
    }
    println!(
        "  ratio        {:>13.1} {:>17.1} {:>24.1}",
        apart.took.as_secs_f64() / shared.took.as_secs_f64(),
        apart.kv.0 as f64 / shared.kv.0 as f64,
        f64::from(apart.computed) / f64::from(shared.computed),
    );

    let (mut swapped, mut computed) = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        swapped = swapped.min(bench.come_back(true));
        computed = computed.min(bench.come_back(false));
    }
    let each_us = |took: Duration| took.as_secs_f64() * 1e6 / f64::from(PREFIX_TOKENS);
    println!("\na conversation of {PREFIX_TOKENS} tokens goes on: until its next token, ms (µs a token)");
    println!("  from host memory   {:>9.1} ({:.1})", swapped.as_secs_f64() * 1e3, each_us(swapped));
    println!("  computed again     {:>9.1} ({:.1})", computed.as_secs_f64() * 1e3, each_us(computed));
    println!("  ratio              {:>9.1}", computed.as_secs_f64() / swapped.as_secs_f64());
}

/// What twelve agents took.
struct Prefixed {
    took: Duration,
    kv: ByteCount,
    computed: u32,
}

impl Prefixed {
    const WORST: Self = Self { took: Duration::MAX, kv: ByteCount(0), computed: 0 };

    fn better(self, other: Self) -> Self {
        if other.took < self.took { other } else { self }
    }
}

struct Bench {
    engine: CandleEngine,
    requests: u64,
    contexts: u64,
    /// Words are drawn from it, so that no round finds what an earlier one left.
    seed: u64,
}

impl Bench {
    /// Twelve agents from the first prompt to the last token. Where they share, the first one leads: what it leaves at
    /// its end the others find.
    fn agents(&mut self, is_shared: bool) -> Prefixed {
        let common = self.text(PREFIX_TOKENS);
        let prompts: Vec<String> =
            (0..AGENTS).map(|_| if is_shared { common.clone() } else { self.text(PREFIX_TOKENS) }).collect();
        let begun = Instant::now();
        let mut computed = 0;
        for (agent, prompt) in (0..).zip(prompts) {
            let own = Message::new(Role::User, format!("agent {agent} "));
            let messages = vec![Message::new(Role::System, prompt), own];
            computed += self.admit(messages, TOKENS, &Origin::default());
            if is_shared && agent == 0 {
                self.run();
            }
        }
        let kv = self.engine.memory().kv_used;
        self.run();
        Prefixed { took: begun.elapsed(), kv, computed }
    }

    /// A conversation that was swapped out, or forgotten, until its next token.
    fn come_back(&mut self, is_kept: bool) -> Duration {
        let text = self.text(PREFIX_TOKENS);
        self.contexts += 1;
        let context = ContextId(self.contexts);
        let of = |salt: &str| Origin { context: Some(context), salt: Arc::from(salt) };
        let said = vec![Message::new(Role::User, text)];
        self.admit(said.clone(), 1, &of("first"));
        self.run();
        if is_kept {
            assert!(self.engine.swap_out(context), "host memory has room");
        } else {
            self.engine.forget(context);
        }
        let begun = Instant::now();
        // Pages past the system prompt are found by the same salt only.
        let salt = if is_kept { "first" } else { "second" };
        let computed = self.admit(said, 1, &of(salt));
        self.run();
        let took = begun.elapsed();
        assert_eq!(computed < PREFIX_TOKENS / 2, is_kept, "{computed} tokens were computed");
        self.engine.forget(context);
        took
    }

    /// Admits a request and returns how many tokens of its prompt have to be computed.
    fn admit(&mut self, messages: Vec<Message>, tokens_max: u32, origin: &Origin) -> u32 {
        self.requests += 1;
        let id = RequestId(self.requests);
        let request = CompletionRequest {
            messages,
            grammar: Grammar::Free,
            sampling: Sampling { temperature: 1.0, top_p: 1.0, seed: self.requests },
            tokens_max,
        };
        let admitted = self.engine.admit(id, request, origin).expect("there is room");
        admitted.prompt_tokens - admitted.cached_tokens
    }

    fn run(&mut self) {
        while self.engine.active() > 0 {
            self.engine.step().expect("a step");
        }
    }

    /// A text of about so many tokens that was not there before: a byte is a token where no merge applies.
    fn text(&mut self, tokens: u32) -> String {
        (0..tokens)
            .map(|_| {
                self.seed =
                    self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                // Capital letters are in no merge.
                char::from(b'A' + u8::try_from(self.seed >> 33 & 0xF).unwrap_or(0))
            })
            .collect()
    }
}
