//! A backend without a model: it answers in the next step with what a function says. For benches, and for the tests
//! of whoever stands above the scheduler.

use std::collections::BTreeMap;
use std::sync::Arc;

use kintsugi_inference::{
    AdmitError, Admitted, Backend, BackendFault, ContextId, Finished, KvHeld, MemoryUse, ModelInfo, Origin,
    RequestId,
};
use kintsugi_types::{ByteCount, Completion, CompletionRequest, FinishReason, ModelName, Score, TokenUsage};

use crate::config::BackendFactory;

/// How many bytes of text count as one token here.
const BYTES_PER_TOKEN: usize = 4;

/// What answers a request.
pub type AnswerFn = Arc<dyn Fn(&CompletionRequest) -> String + Send + Sync>;

/// The measures of a scripted model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScriptedShape {
    /// Bytes of weights that it pretends to hold.
    pub weights: ByteCount,
    /// Bytes of its pool for keys and values.
    pub kv_pool: ByteCount,
    /// Bytes of host memory for conversations that wait. With none, nothing is kept between requests.
    pub kv_host: ByteCount,
    /// Bytes of activations that it pretends to hold.
    pub scratch: ByteCount,
    /// Bytes of keys and values of one token.
    pub kv_bytes_per_token: ByteCount,
    /// The longest sequence, in tokens.
    pub context_tokens: u32,
    /// What every answer claims as its confidence.
    pub confidence: Score,
    /// How many steps an answer takes, at least 1.
    pub steps: u32,
}

impl Default for ScriptedShape {
    fn default() -> Self {
        Self {
            weights: ByteCount::mib(1),
            kv_pool: ByteCount::mib(256),
            kv_host: ByteCount(0),
            scratch: ByteCount::mib(1),
            kv_bytes_per_token: ByteCount(1024),
            context_tokens: 8_192,
            confidence: Score::new(0.95),
            steps: 1,
        }
    }
}

/// Answers from a function. Counts tokens and keeps its memory as a real backend does, so that bounds are met.
pub struct ScriptedBackend {
    info: ModelInfo,
    shape: ScriptedShape,
    answer: AnswerFn,
    batch: BTreeMap<RequestId, InBatch>,
    contexts: BTreeMap<ContextId, Kept>,
}

/// What a conversation left.
struct Kept {
    tokens: u32,
    is_swapped: bool,
}

struct InBatch {
    request: CompletionRequest,
    context: Option<ContextId>,
    admitted: Admitted,
    steps_left: u32,
}

impl std::fmt::Debug for ScriptedBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScriptedBackend").field("shape", &self.shape).finish_non_exhaustive()
    }
}

/// A factory of backends that answer in their next step with what `answer` says.
pub fn instant(answer: impl Fn(&CompletionRequest) -> String + Send + Sync + 'static) -> BackendFactory {
    shaped(ScriptedShape::default(), answer)
}

/// A factory of scripted backends of `shape`.
pub fn shaped(
    shape: ScriptedShape,
    answer: impl Fn(&CompletionRequest) -> String + Send + Sync + 'static,
) -> BackendFactory {
    let answer: AnswerFn = Arc::new(answer);
    Box::new(move || {
        let backend = ScriptedBackend::new(shape, Arc::clone(&answer)).map_err(|error| error.to_string())?;
        Ok(Box::new(backend))
    })
}

impl ScriptedBackend {
    /// A backend of `shape` that answers with what `answer` says. Fails never in practice: its name is fixed.
    pub fn new(shape: ScriptedShape, answer: AnswerFn) -> Result<Self, kintsugi_types::NameError> {
        let info = ModelInfo {
            name: ModelName::new("scripted")?,
            architecture: "scripted".to_owned(),
            parameters: 0,
            context_tokens: shape.context_tokens,
            kv_bytes_per_token: shape.kv_bytes_per_token,
        };
        Ok(Self { info, shape, answer, batch: BTreeMap::new(), contexts: BTreeMap::new() })
    }

    fn kv_used(&self) -> ByteCount {
        let at_work: u64 = self.batch.values().map(|entry| entry.admitted.kv.total().0).sum();
        ByteCount(at_work + self.kept_bytes(false))
    }

    /// Bytes of conversations that wait, in host memory or on the device.
    fn kept_bytes(&self, is_swapped: bool) -> u64 {
        let kept = self.contexts.values().filter(|kept| kept.is_swapped == is_swapped);
        kept.map(|kept| self.bytes_of(kept.tokens).0).sum()
    }

    fn bytes_of(&self, tokens: u32) -> ByteCount {
        ByteCount(u64::from(tokens) * self.shape.kv_bytes_per_token.0)
    }

    /// Keeps what `entry` computed for its conversation.
    fn keep(&mut self, entry: &InBatch, usage: TokenUsage) -> KvHeld {
        let Some(context) = entry.context.filter(|_| self.shape.kv_host.0 > 0) else {
            return KvHeld::default();
        };
        let tokens = u32::try_from(usage.prompt + usage.completion).unwrap_or(u32::MAX);
        self.contexts.insert(context, Kept { tokens, is_swapped: false });
        KvHeld { private: self.bytes_of(tokens), shared: ByteCount(0) }
    }

    fn complete(&self, entry: &InBatch) -> Completion {
        let text = (self.answer)(&entry.request);
        let tokens = tokens_of(text.len());
        let wanted = entry.request.tokens_max;
        Completion {
            finish: if tokens > wanted { FinishReason::Length } else { FinishReason::Stop },
            usage: TokenUsage {
                prompt: u64::from(entry.admitted.prompt_tokens),
                cached: u64::from(entry.admitted.cached_tokens),
                completion: u64::from(tokens.min(wanted)),
            },
            confidence: self.shape.confidence,
            confidence_min: self.shape.confidence,
            think_ms: 0.0,
            text,
        }
    }
}

fn tokens_of(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(BYTES_PER_TOKEN)).unwrap_or(u32::MAX)
}

impl Backend for ScriptedBackend {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn memory(&self) -> MemoryUse {
        MemoryUse {
            weights: self.shape.weights,
            kv_pool: self.shape.kv_pool,
            kv_used: self.kv_used(),
            kv_shared: ByteCount(0),
            kv_host: ByteCount(self.kept_bytes(true)),
            scratch: self.shape.scratch,
        }
    }

    fn admit(
        &mut self,
        id: RequestId,
        request: CompletionRequest,
        origin: &Origin,
    ) -> Result<Admitted, AdmitError> {
        let prompt_tokens = tokens_of(request.messages.iter().map(|message| message.content.len()).sum());
        let wanted_tokens = request.tokens_max;
        let tokens = prompt_tokens.saturating_add(wanted_tokens);
        if tokens > self.shape.context_tokens {
            let context_tokens = self.shape.context_tokens;
            return Err(AdmitError::TooLong { prompt_tokens, wanted_tokens, context_tokens });
        }
        let kept = origin.context.and_then(|context| self.contexts.get(&context));
        // A conversation that goes on uses what it holds on the device.
        let own = kept.filter(|kept| !kept.is_swapped).map_or(0, |kept| self.bytes_of(kept.tokens).0);
        let cached_tokens = kept.map_or(0, |kept| kept.tokens.min(prompt_tokens.saturating_sub(1)));
        let needed = self.bytes_of(tokens);
        let free = ByteCount((self.shape.kv_pool.0 + own).saturating_sub(self.kv_used().0));
        if needed > free {
            return Err(AdmitError::NoRoom { needed, free });
        }
        if let Some(context) = origin.context {
            self.contexts.remove(&context);
        }
        let kv = KvHeld { private: needed, shared: ByteCount(0) };
        let admitted = Admitted { prompt_tokens, cached_tokens, kv };
        let context = origin.context;
        self.batch.insert(id, InBatch { request, context, admitted, steps_left: self.shape.steps.max(1) });
        Ok(admitted)
    }

    fn cancel(&mut self, id: RequestId) {
        self.batch.remove(&id);
    }

    fn step(&mut self) -> Result<Vec<Finished>, BackendFault> {
        for entry in self.batch.values_mut() {
            entry.steps_left -= 1;
        }
        let ids: Vec<RequestId> = self.batch.keys().copied().collect();
        let mut finished = Vec::new();
        for id in ids {
            if self.batch.get(&id).is_some_and(|entry| entry.steps_left == 0)
                && let Some(entry) = self.batch.remove(&id)
            {
                let completion = self.complete(&entry);
                let kept = self.keep(&entry, completion.usage);
                finished.push(Finished { id, outcome: Ok(completion), kept });
            }
        }
        Ok(finished)
    }

    fn active(&self) -> usize {
        self.batch.len()
    }

    fn swap_out(&mut self, context: ContextId) -> bool {
        let room = self.shape.kv_host.0.saturating_sub(self.kept_bytes(true));
        let bytes_per_token = self.shape.kv_bytes_per_token.0;
        let kept = self.contexts.get_mut(&context);
        kept.filter(|kept| !kept.is_swapped && u64::from(kept.tokens) * bytes_per_token <= room)
            .map(|kept| kept.is_swapped = true)
            .is_some()
    }

    fn forget(&mut self, context: ContextId) {
        self.contexts.remove(&context);
    }
}
