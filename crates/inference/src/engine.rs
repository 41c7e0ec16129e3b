//! Continuous batching: requests join and leave between steps, each with its pages set aside from admission to end.
//! What a prompt has in common with what was computed before is not computed again.

mod memory;
mod sequence;
mod system;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Instant;

use kintsugi_types::{ByteCount, CompletionRequest, Grammar, ModelName};

use crate::backend::{
    AdmitError, Admitted, Backend, BackendFault, ContextId, Finished, MemoryUse, ModelInfo, Origin, RequestId,
};
use crate::chat::ChatTemplate;
use crate::error::InferenceError;
use crate::gguf::{GgufFile, ModelSource};
use crate::grammar::GrammarCache;
use crate::kernels::{BLOCK_TOKENS, KvLayout, Level};
use crate::kv::{KvCache, Sharing};
use crate::model::{Chunk, Model, ModelConfig};
use crate::tokenizer::{TokenKind, Tokenizer};
use memory::MemoryPlan;
use sequence::{Progress, Sequence};
use system::SystemPrompts;

/// What an engine is made of.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// The model's file.
    pub model: ModelSource,
    /// The most requests in the batch at once.
    pub slots: u32,
    /// The longest sequence, prompt and answer together, in tokens; the model's own limit applies too.
    pub context_tokens: u32,
    /// The most bytes for weights, activations and keys and values together.
    pub memory_budget: ByteCount,
    /// The most bytes of host memory for the keys and values of conversations that wait, beside the budget. Taken
    /// when needed.
    pub host_memory: ByteCount,
    /// The most tokens of one step. Larger prefills faster, but delays the tokens of running requests more.
    pub step_tokens_max: u32,
}

impl EngineConfig {
    /// A good cap of one step's tokens: two tiles of attention per core and head, some tens of milliseconds for
    /// small models.
    pub const STEP_TOKENS_DEFAULT: u32 = 256;
    /// Host memory for some hundred conversations of a small model.
    pub const HOST_MEMORY_DEFAULT: ByteCount = ByteCount::mib(1024);
    const SLOTS_MAX: u32 = 4096;
    const STEP_TOKENS_MAX: u32 = 8192;

    fn check(&self) -> Result<(), InferenceError> {
        let refuse =
            |name, value: u32, must| Err(InferenceError::Setting { name, value: value.into(), must });
        if !(1..=Self::SLOTS_MAX).contains(&self.slots) {
            return refuse("slots", self.slots, "from 1 to 4096");
        }
        if self.context_tokens < 2 {
            return refuse("context_tokens", self.context_tokens, "at least 2");
        }
        if self.step_tokens_max < self.slots || self.step_tokens_max > Self::STEP_TOKENS_MAX {
            return refuse(
                "step_tokens_max",
                self.step_tokens_max,
                "at least the number of slots and at most 8192",
            );
        }
        Ok(())
    }
}

/// Runs a GGUF model of the Llama family on the CPU.
pub struct CandleEngine {
    info: ModelInfo,
    model: Model,
    tokenizer: Arc<Tokenizer>,
    template: ChatTemplate,
    grammars: GrammarCache,
    /// One bit per token that an answer without grammar may have.
    free_tokens: Vec<u32>,
    kv: KvCache,
    system_prompts: SystemPrompts,
    plan: MemoryPlan,
    slots: usize,
    step_tokens_max: usize,
    /// In order of admission.
    sequences: Vec<Sequence>,
    level: Level,
}

impl std::fmt::Debug for CandleEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CandleEngine")
            .field("info", &self.info)
            .field("memory", &self.memory())
            .field("active", &self.sequences.len())
            .finish_non_exhaustive()
    }
}

impl CandleEngine {
    /// Loads the model, makes all of candle's tiled copies by a first step at the cap, and allocates the pool of
    /// keys and values from what the budget leaves.
    ///
    /// While a matrix is repacked, a few more copies of that one matrix exist than the ledger counts.
    pub fn load(config: &EngineConfig) -> Result<Self, InferenceError> {
        config.check()?;
        let mut file = GgufFile::open(&config.model)?;
        let shape = ModelConfig::read(&file)?;
        let context_tokens = config.context_tokens.min(u32::try_from(shape.context).unwrap_or(u32::MAX));
        let name = model_name(&file)?;
        let tokenizer = Arc::new(Tokenizer::from_gguf(&mut file)?);
        if tokenizer.vocabulary_tokens() > shape.vocabulary {
            return Err(file.damaged(format!(
                "the tokenizer has {} tokens, the embedding {}",
                tokenizer.vocabulary_tokens(),
                shape.vocabulary
            )));
        }
        let template = match file.text("tokenizer.chat_template")? {
            Some(source) => ChatTemplate::new(source, &tokenizer)?,
            None => ChatTemplate::plain(),
        };
        let grammars = GrammarCache::new(Arc::clone(&tokenizer))?;

        MemoryPlan::check_before_loading(&file, &shape, config, context_tokens)?;
        let model = Model::load(&mut file, shape, context_tokens as usize)?;
        let plan = MemoryPlan::new(&file, &model, config, context_tokens)?;
        let kv = KvCache::new(model.kv_layout(), plan.blocks, plan.host_blocks);
        let info = ModelInfo {
            name,
            architecture: "llama".to_owned(),
            parameters: model.parameters(),
            context_tokens,
            kv_bytes_per_token: ByteCount(model.kv_layout().block_bytes() / BLOCK_TOKENS as u64),
        };
        let mut engine = Self {
            info,
            free_tokens: free_tokens(&tokenizer),
            model,
            tokenizer,
            template,
            grammars,
            kv,
            system_prompts: SystemPrompts::default(),
            plan,
            slots: config.slots as usize,
            step_tokens_max: config.step_tokens_max as usize,
            sequences: Vec::new(),
            level: Level::detect(),
        };
        engine.warm_up()?;
        tracing::info!(model = %engine.info.name, memory = ?engine.memory(), "model loaded");
        Ok(engine)
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// How many requests the batch takes.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Logits of the token after each of `positions` of `tokens` (ascending, counted from 0), one number per row of
    /// the embedding. Computed beside the requests in the batch, without touching them. For checks against other
    /// engines and for perplexity.
    ///
    /// Fails with [`InferenceError::Compute`] when there are unknown tokens, positions that do not ascend or lie
    /// past the tokens' end, or more tokens than fit in the context or the free pages.
    pub fn logits_at(
        &mut self,
        tokens: &[u32],
        positions: &[usize],
    ) -> Result<Vec<Vec<f32>>, InferenceError> {
        let refuse = |reason: &str| InferenceError::Compute { source: candle_core::Error::msg(reason) };
        let table = self
            .kv
            .scratch(KvLayout::blocks_for(tokens.len()))
            .ok_or_else(|| refuse("more tokens than free pages"))?;
        let mut start = 0;
        let mut results = Vec::with_capacity(positions.len());
        let mut compute = || -> Result<(), InferenceError> {
            for position in positions {
                let upto = tokens
                    .get(start..=*position)
                    .ok_or_else(|| refuse("positions do not ascend in the tokens"))?;
                for chunk in upto.chunks(self.step_tokens_max) {
                    let sample = start + chunk.len() == position + 1;
                    let chunks = [Chunk { tokens: chunk, start, table: &table, sample }];
                    let mut logits = self.model.forward(self.kv.pages_mut(), &chunks)?;
                    start += chunk.len();
                    results.extend(logits.rows_mut().map(|row| row.to_vec()));
                }
            }
            Ok(())
        };
        let computed = compute();
        self.kv.discard(table);
        computed.map(|()| results)
    }

    /// One step of a single token and one at the cap, so that every copy of the weights that later steps need is
    /// made now and its memory is taken.
    fn warm_up(&mut self) -> Result<(), InferenceError> {
        let longest = self.step_tokens_max.min(self.info.context_tokens as usize);
        let tokens = vec![self.tokenizer.eos(); longest];
        let Some(table) = self.kv.scratch(KvLayout::blocks_for(longest)) else { return Ok(()) };
        let mut result = Ok(());
        for length in [1, 2.min(longest), longest] {
            let chunk = Chunk {
                tokens: tokens.get(..length).unwrap_or_default(),
                start: 0,
                table: &table,
                sample: true,
            };
            result = result.and_then(|()| self.model.forward(self.kv.pages_mut(), &[chunk]).map(drop));
        }
        // The output head sees as many rows as requests sample at once.
        self.kv.discard(table);
        result
    }

    /// How many tokens of each sequence go into the next step: one for each, then what is left of the cap to those
    /// admitted first.
    fn share_step(&self) -> Vec<usize> {
        let mut left = self.step_tokens_max.saturating_sub(self.sequences.len());
        self.sequences
            .iter()
            .map(|sequence| {
                let more = sequence.pending().saturating_sub(1).min(left);
                left -= more;
                1 + more
            })
            .collect()
    }

    fn finish(&mut self, index: usize, outcome: Result<kintsugi_types::FinishReason, String>) -> Finished {
        let sequence = self.sequences.remove(index);
        let id = sequence.id;
        let outcome = outcome.map(|reason| sequence.completion(reason, &self.tokenizer));
        let context = sequence.context;
        let (table, computed, sharing) = sequence.into_pages();
        let kept = self.kv.close(table, computed, &sharing, context);
        Finished { id, outcome, kept }
    }

    /// With whom the pages of `prompt` are shared: those of its leading system messages, which name the tools as
    /// well, with everybody.
    fn sharing(&mut self, request: &CompletionRequest, prompt: &[u32], origin: &Origin) -> Sharing {
        let common_tokens =
            self.system_prompts.tokens_in(prompt, &request.messages, &self.template, &self.tokenizer);
        Sharing { common_tokens, salt: Arc::clone(&origin.salt) }
    }
}

impl Backend for CandleEngine {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn memory(&self) -> MemoryUse {
        MemoryUse {
            weights: ByteCount(self.plan.weights),
            kv_pool: self.kv.bytes(),
            kv_used: self.kv.used_bytes(),
            kv_shared: self.kv.shared_bytes(),
            kv_host: self.kv.host_bytes(),
            scratch: ByteCount(self.plan.scratch),
        }
    }

    fn admit(
        &mut self,
        id: RequestId,
        request: CompletionRequest,
        origin: &Origin,
    ) -> Result<Admitted, AdmitError> {
        let malformed = |error: InferenceError| AdmitError::Malformed { reason: error.to_string() };
        let prompt = self.template.render(&request.messages, true, &self.tokenizer).map_err(malformed)?;
        let prompt_tokens = u32::try_from(prompt.len()).unwrap_or(u32::MAX);
        let total = prompt_tokens.saturating_add(request.tokens_max);
        if total > self.info.context_tokens {
            return Err(AdmitError::TooLong {
                prompt_tokens,
                wanted_tokens: request.tokens_max,
                context_tokens: self.info.context_tokens,
            });
        }
        if prompt.is_empty() || request.tokens_max == 0 {
            return Err(AdmitError::Malformed { reason: "prompt or answer would have no tokens".to_owned() });
        }
        let constraint = match &request.grammar {
            Grammar::Free => None,
            Grammar::JsonSchema(schema) => Some(self.grammars.constraint(schema).map_err(malformed)?),
        };
        if self.sequences.len() >= self.slots {
            return Err(AdmitError::NoSlot { slots: u32::try_from(self.slots).unwrap_or(u32::MAX) });
        }
        let sharing = self.sharing(&request, &prompt, origin);
        let mut sequence = Sequence::new(id, prompt, &request, constraint, &self.tokenizer)
            .map_err(|reason| AdmitError::Malformed { reason })?;
        let lent = self
            .kv
            .open(origin.context, sequence.prompt(), &sharing, total as usize)
            .map_err(|shortage| AdmitError::NoRoom { needed: shortage.needed, free: shortage.free })?;
        let cached_tokens = u32::try_from(lent.cached).unwrap_or(u32::MAX);
        let kv = lent.held;
        sequence.take_pages(lent, sharing, origin.context);
        self.sequences.push(sequence);
        Ok(Admitted { prompt_tokens, cached_tokens, kv })
    }

    fn cancel(&mut self, id: RequestId) {
        if let Some(index) = self.sequences.iter().position(|sequence| sequence.id == id) {
            let (table, ..) = self.sequences.remove(index).into_pages();
            self.kv.discard(table);
        }
    }

    fn step(&mut self) -> Result<Vec<Finished>, BackendFault> {
        if self.sequences.is_empty() {
            return Ok(Vec::new());
        }
        let now = Instant::now();
        let shares = self.share_step();
        let chunks: Vec<Chunk<'_>> =
            self.sequences.iter().zip(&shares).map(|(sequence, share)| sequence.chunk(*share)).collect();
        let mut logits = self
            .model
            .forward(self.kv.pages_mut(), &chunks)
            .map_err(|error| BackendFault { reason: error.to_string() })?;
        drop(chunks);

        let mut rows = logits.rows_mut();
        let mut ended = Vec::new();
        for (index, (sequence, share)) in self.sequences.iter_mut().zip(shares).enumerate() {
            sequence.started.get_or_insert(now);
            if !sequence.advance(share) {
                continue;
            }
            let Some(row) = rows.next() else {
                return Err(BackendFault { reason: "a step returned too few rows of logits".to_owned() });
            };
            match sequence.sample(self.level, row, &self.free_tokens, &self.tokenizer) {
                Ok(Progress::Goes) => {}
                Ok(Progress::Ended(reason)) => ended.push((index, Ok(reason))),
                Err(error) => ended.push((index, Err(error))),
            }
        }
        // From the last, so that earlier indices stay right.
        let mut finished: Vec<Finished> =
            ended.into_iter().rev().map(|(index, outcome)| self.finish(index, outcome)).collect();
        finished.reverse();
        Ok(finished)
    }

    fn active(&self) -> usize {
        self.sequences.len()
    }

    fn swap_out(&mut self, context: ContextId) -> bool {
        self.kv.swap_out(context)
    }

    fn forget(&mut self, context: ContextId) {
        self.kv.forget(context);
    }
}

/// `general.name`, else the file's stem, else a plain word where both cannot be a name.
fn model_name(file: &GgufFile) -> Result<ModelName, InferenceError> {
    let named = file.text("general.name")?.and_then(|name| ModelName::new(name.trim()).ok());
    match named {
        Some(name) => Ok(name),
        None => ModelName::new(file.stem())
            .or_else(|_| ModelName::new("model"))
            .map_err(|error| file.damaged(error.to_string())),
    }
}

/// One bit per token of text, and the bit of the token that ends an answer.
fn free_tokens(tokenizer: &Tokenizer) -> Vec<u32> {
    let count = u32::try_from(tokenizer.vocabulary_tokens()).unwrap_or(u32::MAX);
    let mut words = vec![0u32; count.div_ceil(32) as usize];
    for id in 0..count {
        let is_text = matches!(tokenizer.kind(id), TokenKind::Normal | TokenKind::UserDefined);
        if (is_text || id == tokenizer.eos())
            && let Some(word) = words.get_mut(id as usize / 32)
        {
            *word |= 1 << (id % 32);
        }
    }
    words
}
