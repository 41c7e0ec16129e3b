//! A backend without a model: it answers in the next step with what a function says. For benches, and for the tests
//! of whoever stands above the scheduler.

use std::collections::BTreeMap;
use std::sync::Arc;

use kintsugi_inference::{
    AdmitError, Admitted, Backend, BackendFault, Finished, MemoryUse, ModelInfo, RequestId,
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
}

struct InBatch {
    request: CompletionRequest,
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
        Ok(Self { info, shape, answer, batch: BTreeMap::new() })
    }

    fn kv_used(&self) -> ByteCount {
        ByteCount(self.batch.values().map(|entry| entry.admitted.kv_reserved.0).sum())
    }

    fn complete(&self, entry: &InBatch) -> Completion {
        let text = (self.answer)(&entry.request);
        let tokens = tokens_of(text.len());
        let wanted = entry.request.tokens_max;
        Completion {
            finish: if tokens > wanted { FinishReason::Length } else { FinishReason::Stop },
            usage: TokenUsage {
                prompt: u64::from(entry.admitted.prompt_tokens),
                cached: 0,
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
            scratch: self.shape.scratch,
        }
    }

    fn admit(&mut self, id: RequestId, request: CompletionRequest) -> Result<Admitted, AdmitError> {
        let prompt_tokens = tokens_of(request.messages.iter().map(|message| message.content.len()).sum());
        let wanted_tokens = request.tokens_max;
        let tokens = prompt_tokens.saturating_add(wanted_tokens);
        if tokens > self.shape.context_tokens {
            let context_tokens = self.shape.context_tokens;
            return Err(AdmitError::TooLong { prompt_tokens, wanted_tokens, context_tokens });
        }
        let needed = ByteCount(u64::from(tokens) * self.shape.kv_bytes_per_token.0);
        let free = ByteCount(self.shape.kv_pool.0.saturating_sub(self.kv_used().0));
        if needed > free {
            return Err(AdmitError::NoRoom { needed, free });
        }
        let admitted = Admitted { prompt_tokens, kv_reserved: needed };
        self.batch.insert(id, InBatch { request, admitted, steps_left: self.shape.steps.max(1) });
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
                finished.push(Finished { id, outcome: Ok(self.complete(&entry)) });
            }
        }
        Ok(finished)
    }

    fn active(&self) -> usize {
        self.batch.len()
    }
}
