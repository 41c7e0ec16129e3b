//! How the memory budget is divided.

use super::EngineConfig;
use crate::error::InferenceError;
use crate::gguf::GgufFile;
use crate::kernels::KvLayout;
use crate::model::{Model, ModelConfig};
use kintsugi_types::ByteCount;

/// Where every byte of the budget goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MemoryPlan {
    /// Bytes of weights with candle's copies.
    pub(super) weights: u64,
    /// Bytes of activations and logits of the largest step.
    pub(super) scratch: u64,
    /// Pages of keys and values.
    pub(super) blocks: u32,
    /// Pages of keys and values in host memory, at most.
    pub(super) host_blocks: usize,
}

impl MemoryPlan {
    /// Refuses a budget that the weights with their copies do not fit into, before any of them is read.
    pub(super) fn check_before_loading(
        file: &GgufFile,
        shape: &ModelConfig,
        config: &EngineConfig,
        context_tokens: u32,
    ) -> Result<(), InferenceError> {
        let layout = KvLayout { layers: shape.layers, kv_heads: shape.kv_heads, head_size: shape.head_size };
        let weights = Model::bytes_before_loading(file, shape, context_tokens as usize);
        Self::divide(file, weights, layout, shape, config, context_tokens).map(drop)
    }

    /// Divides the budget for a loaded model.
    pub(super) fn new(
        file: &GgufFile,
        model: &Model,
        config: &EngineConfig,
        context_tokens: u32,
    ) -> Result<Self, InferenceError> {
        Self::divide(file, model.bytes(), model.kv_layout(), &model.config, config, context_tokens)
    }

    /// The pool gets what weights and activations leave, but no more than all slots at full length can use, and has
    /// to hold one sequence of full length.
    fn divide(
        file: &GgufFile,
        weights: u64,
        layout: KvLayout,
        shape: &ModelConfig,
        config: &EngineConfig,
        context_tokens: u32,
    ) -> Result<Self, InferenceError> {
        let scratch = scratch_bytes(shape, u64::from(config.step_tokens_max), u64::from(config.slots));
        let blocks_each = KvLayout::blocks_for(context_tokens as usize) as u64;
        let kv_least = blocks_each * layout.block_bytes();
        let needed = weights.saturating_add(scratch).saturating_add(kv_least);
        let budget = config.memory_budget.bytes();
        if needed > budget {
            return Err(InferenceError::BudgetTooSmall {
                file: file.name().to_owned(),
                budget: config.memory_budget,
                weights: ByteCount(weights),
                scratch: ByteCount(scratch),
                kv_least: ByteCount(kv_least),
                context_tokens,
                needed: ByteCount(needed),
            });
        }
        let affordable = (budget - weights - scratch) / layout.block_bytes();
        let useful = blocks_each.saturating_mul(u64::from(config.slots));
        let blocks = u32::try_from(affordable.min(useful)).unwrap_or(u32::MAX);
        let host_blocks = config.host_memory.bytes() / layout.block_bytes();
        let host_blocks = usize::try_from(host_blocks).unwrap_or(usize::MAX);
        Ok(Self { weights, scratch, blocks, host_blocks })
    }
}

/// Bytes that a step of `tokens` tokens with `rows` rows of logits holds at its widest point: hidden states with
/// their norm and the padded copy, the widest products of a layer once as tensor and once as plain numbers, logits
/// likewise, and rounded activations (two bytes a number, eight a block of 32).
fn scratch_bytes(shape: &ModelConfig, tokens: u64, rows: u64) -> u64 {
    let wide = |numbers: usize| numbers.next_multiple_of(256) as u64;
    let (width, feed_forward) = (wide(shape.width), wide(shape.feed_forward));
    let query = wide(shape.heads * shape.head_size);
    let kv = wide(shape.kv_heads * shape.head_size);
    let per_token = 4 * (3 * width + (3 * query + 4 * kv).max(5 * feed_forward))
        + width.max(query).max(feed_forward) * 9 / 4;
    let per_row = 4 * (2 * wide(shape.vocabulary) + 3 * width);
    tokens * per_token + rows * per_row
}
