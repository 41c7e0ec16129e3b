//! One admitted request on its way from prompt to answer.

use std::time::Instant;

use kintsugi_types::{Completion, CompletionRequest, FinishReason, TokenUsage};

use crate::backend::{ContextId, RequestId};
use crate::grammar::Constraint;
use crate::kernels::{BlockTable, Level};
use crate::kv::{Lent, Sharing};
use crate::model::Chunk;
use crate::sampling::{Confidence, Sampler};
use crate::tokenizer::Tokenizer;

/// What a sampled token did to its sequence.
pub(super) enum Progress {
    /// There is more to come.
    Goes,
    /// The answer is finished.
    Ended(FinishReason),
}

/// A request in the batch.
pub(super) struct Sequence {
    pub(super) id: RequestId,
    /// The conversation that it belongs to.
    pub(super) context: Option<ContextId>,
    /// With whom it shares its prefix.
    sharing: Sharing,
    /// Its pages.
    table: BlockTable,
    /// When its first step began.
    pub(super) started: Option<Instant>,
    /// Prompt and answer.
    tokens: Vec<u32>,
    prompt_tokens: usize,
    /// How many of the prompt's tokens were there before.
    cached: usize,
    /// How many of `tokens` have their keys and values computed.
    computed: usize,
    answer_tokens_max: usize,
    sampler: Sampler,
    constraint: Option<Constraint>,
    confidence: Confidence,
}

impl Sequence {
    /// A sequence before its first step, still without pages, or what is wrong with the request.
    pub(super) fn new(
        id: RequestId,
        prompt: Vec<u32>,
        request: &CompletionRequest,
        constraint: Option<Constraint>,
        tokenizer: &Tokenizer,
    ) -> Result<Self, String> {
        let mut sequence = Self {
            id,
            context: None,
            sharing: Sharing::default(),
            table: BlockTable::default(),
            started: None,
            prompt_tokens: prompt.len(),
            tokens: prompt,
            cached: 0,
            computed: 0,
            answer_tokens_max: request.tokens_max as usize,
            sampler: Sampler::new(&request.sampling)?,
            constraint,
            confidence: Confidence::new(),
        };
        sequence.fast_forward(tokenizer)?;
        Ok(sequence)
    }

    /// Takes the pages that the sequence works on, and what they hold already.
    pub(super) fn take_pages(&mut self, lent: Lent, sharing: Sharing, context: Option<ContextId>) {
        (self.table, self.sharing, self.context) = (lent.table, sharing, context);
        self.cached = lent.cached;
        self.computed = lent.cached;
    }

    /// The prompt's tokens.
    pub(super) fn prompt(&self) -> &[u32] {
        self.tokens.get(..self.prompt_tokens).unwrap_or_default()
    }

    /// Gives the pages back, with the tokens that they hold and with whom they are shared.
    pub(super) fn into_pages(mut self) -> (BlockTable, Vec<u32>, Sharing) {
        self.tokens.truncate(self.computed);
        (self.table, self.tokens, self.sharing)
    }

    /// Tokens whose keys and values are still to be computed; at least one.
    pub(super) fn pending(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// The next `share` tokens as a part of a step.
    pub(super) fn chunk(&self, share: usize) -> Chunk<'_> {
        Chunk {
            tokens: self.tokens.get(self.computed..self.computed + share).unwrap_or_default(),
            start: self.computed,
            table: &self.table,
            sample: share == self.pending(),
        }
    }

    /// Notes that `share` tokens were computed. Returns whether a row of logits belongs to them.
    pub(super) fn advance(&mut self, share: usize) -> bool {
        self.computed += share;
        self.computed == self.tokens.len()
    }

    /// Draws the next token from `logits` and takes what the grammar forces after it. An error ends this request
    /// alone.
    pub(super) fn sample(
        &mut self,
        level: Level,
        logits: &mut [f32],
        free_tokens: &[u32],
        tokenizer: &Tokenizer,
    ) -> Result<Progress, String> {
        // Tokens that the grammar forced can have used up the answer's length.
        if self.answer().len() >= self.answer_tokens_max {
            return Ok(Progress::Ended(FinishReason::Length));
        }
        let draw = match &mut self.constraint {
            None => self.sampler.draw(level, logits, free_tokens),
            Some(constraint) => {
                let allowed = constraint.allowed().map_err(|error| error.to_string())?;
                self.sampler.draw(level, logits, allowed.as_slice())
            }
        }
        .map_err(|error| error.to_string())?;
        self.confidence.note(&draw);
        if draw.token == tokenizer.eos() {
            return Ok(Progress::Ended(FinishReason::Stop));
        }
        self.tokens.push(draw.token);
        if let Some(constraint) = &mut self.constraint {
            constraint.accept(&[draw.token]).map_err(|error| error.to_string())?;
            if constraint.is_complete() {
                return Ok(Progress::Ended(FinishReason::Stop));
            }
        }
        if self.answer().len() >= self.answer_tokens_max {
            return Ok(Progress::Ended(FinishReason::Length));
        }
        self.fast_forward(tokenizer)?;
        Ok(Progress::Goes)
    }

    /// What the sequence amounts to when it ends for `reason`.
    pub(super) fn completion(&self, reason: FinishReason, tokenizer: &Tokenizer) -> Completion {
        Completion {
            text: tokenizer.decode(self.answer()),
            finish: reason,
            usage: TokenUsage {
                prompt: self.prompt_tokens as u64,
                cached: self.cached as u64,
                completion: self.answer().len() as u64,
            },
            confidence: self.confidence.mean(),
            confidence_min: self.confidence.min(),
            think_ms: self.started.map_or(0.0, |started| started.elapsed().as_secs_f64() * 1000.0),
        }
    }

    fn answer(&self) -> &[u32] {
        self.tokens.get(self.prompt_tokens..).unwrap_or_default()
    }

    /// Appends the tokens that the grammar forces, as many as the answer may still have. They cost one pass together
    /// instead of one each, and no draw.
    fn fast_forward(&mut self, tokenizer: &Tokenizer) -> Result<(), String> {
        let Some(constraint) = &mut self.constraint else { return Ok(()) };
        let answer = self.tokens.get(self.prompt_tokens..).unwrap_or_default();
        let mut forced = constraint.forced(answer, tokenizer).map_err(|error| error.to_string())?;
        forced.truncate(self.answer_tokens_max.saturating_sub(answer.len()));
        if !forced.is_empty() {
            constraint.accept(&forced).map_err(|error| error.to_string())?;
            self.tokens.extend(forced);
        }
        Ok(())
    }
}
