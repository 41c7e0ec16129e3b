//! What is already there of a prompt.

use super::prefix::Chain;
use super::{KvCache, Place, Sharing};
use crate::backend::ContextId;
use crate::kernels::{BLOCK_TOKENS, KvLayout};

/// Where a page of keys and values lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// On the device.
    Device(u32),
    /// In host memory.
    Host(u32),
}

/// The pages of a prompt's prefix that are there.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The pages, from the start.
    pub(super) sources: Vec<Source>,
    /// How many of the prompt's tokens they hold; less than the pages' positions where the last is used in part.
    pub(super) cached: usize,
}

impl KvCache {
    /// Looks page by page: first for a shared page of the same tokens, then for what the context kept.
    ///
    /// The last token of `prompt` is never reused, for its logits are wanted.
    pub(super) fn find(&self, context: Option<ContextId>, prompt: &[u32], sharing: &Sharing) -> Found {
        let most = prompt.len().saturating_sub(1);
        let kept = context.and_then(|context| self.contexts.get(&context));
        let kept_tokens = kept.map_or(0, |kept| common_prefix(&kept.tokens, prompt));
        let kept_source = |index: usize| match &kept?.place {
            Place::Device(table) => table.blocks().get(index).copied().map(Source::Device),
            Place::Host(slots) => slots.get(index).copied().flatten().map(Source::Host),
        };
        let mut found = Found::default();
        let mut chain = Some(Chain::START);
        for (index, tokens) in prompt.chunks(BLOCK_TOKENS).enumerate() {
            let start = index * BLOCK_TOKENS;
            let shared = chain.and_then(|chain| self.prefixes.find(&chain, sharing.salt_at(start), tokens));
            chain = shared.map(|(_, next)| next);
            let kept_here = kept_tokens.saturating_sub(start).min(BLOCK_TOKENS);
            let (source, here) = match (shared, kept_source(index)) {
                (Some((block, _)), _) => (Source::Device(block), BLOCK_TOKENS),
                (None, Some(source)) if kept_here > 0 => (source, kept_here),
                (None, _) => break,
            };
            found.sources.push(source);
            found.cached = start + here;
            if here < BLOCK_TOKENS {
                break;
            }
        }
        found.cached = found.cached.min(most);
        found.sources.truncate(KvLayout::blocks_for(found.cached));
        found
    }
}

fn common_prefix(one: &[u32], other: &[u32]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}
