//! Who holds which page of keys and values: sequences at work, conversations that wait for their next request, and
//! prefixes that several of them share.
//!
//! A page is in one of four states. *Free*: nobody holds it. *Private*: one holder, which may write to it. *Shared*:
//! full, never written again, found by its tokens, with any number of holders. *Parked*: shared by nobody just now,
//! still to be found, and reclaimed when free pages run out. Only private and shared pages count as in use.
//!
//! Keys and values are a cache of a token prefix: whatever is missing here is computed again.

mod blocks;
mod host;
mod prefix;
mod reuse;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use kintsugi_types::ByteCount;

use crate::backend::{ContextId, KvHeld};
use crate::kernels::{BLOCK_TOKENS, BlockTable, KvLayout, KvPages};
use blocks::BlockPool;
use host::HostArena;
use prefix::{Chain, PrefixIndex};
use reuse::Source;

/// How far a prefix may be shared, and with whom.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sharing {
    /// Tokens of system prompt and tools, from the start. Pages that lie within them are shared by all.
    pub(crate) common_tokens: usize,
    /// Pages past these are shared under this salt alone.
    pub(crate) salt: Arc<str>,
}

impl Sharing {
    /// The salt of the page that begins with token `start`.
    fn salt_at(&self, start: usize) -> Option<&Arc<str>> {
        (start + BLOCK_TOKENS > self.common_tokens).then_some(&self.salt)
    }
}

/// Pages lent to a sequence.
#[derive(Debug)]
pub(crate) struct Lent {
    /// The pages, enough for all its tokens.
    pub(crate) table: BlockTable,
    /// How many tokens, from the start, need not be computed.
    pub(crate) cached: usize,
    /// What the pages are.
    pub(crate) held: KvHeld,
}

/// Too few pages are free. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shortage {
    /// Bytes that the sequence needs beside what it would share.
    pub(crate) needed: ByteCount,
    /// Bytes that are free or parked.
    pub(crate) free: ByteCount,
}

/// A conversation between two requests.
#[derive(Debug)]
struct Kept {
    /// The tokens whose keys and values these are.
    tokens: Vec<u32>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Device(BlockTable),
    /// One entry a page; none for a page that others held on the device when this was swapped.
    Host(Vec<Option<u32>>),
}

/// All pages and their holders.
pub(crate) struct KvCache {
    pages: KvPages,
    blocks: BlockPool,
    prefixes: PrefixIndex,
    contexts: HashMap<ContextId, Kept>,
    host: HostArena,
}

impl KvCache {
    /// A cache of `blocks` pages on the device and at most `host_blocks` in host memory.
    pub(crate) fn new(layout: KvLayout, blocks: u32, host_blocks: usize) -> Self {
        Self {
            pages: KvPages::new(layout, blocks),
            blocks: BlockPool::new(blocks),
            prefixes: PrefixIndex::default(),
            contexts: HashMap::new(),
            host: HostArena::new(host_blocks),
        }
    }

    /// The memory that the forward pass reads and writes through block tables.
    pub(crate) fn pages_mut(&mut self) -> &mut KvPages {
        &mut self.pages
    }

    /// Bytes of all pages on the device.
    pub(crate) fn bytes(&self) -> ByteCount {
        self.bytes_of(self.blocks.len())
    }

    /// Bytes of pages on the device that somebody holds.
    pub(crate) fn used_bytes(&self) -> ByteCount {
        self.bytes_of(self.blocks.len() - self.available())
    }

    /// Bytes of pages that somebody holds and others may find.
    pub(crate) fn shared_bytes(&self) -> ByteCount {
        self.bytes_of(self.prefixes.len() - self.prefixes.parked())
    }

    /// Bytes of pages in host memory.
    pub(crate) fn host_bytes(&self) -> ByteCount {
        self.bytes_of(self.host.used())
    }

    /// Takes `count` pages for work that shares nothing, or none where fewer are free.
    pub(crate) fn scratch(&mut self, count: usize) -> Option<BlockTable> {
        (count <= self.available()).then(|| BlockTable::new((0..count).filter_map(|_| self.take()).collect()))
    }

    /// Takes pages for a sequence of up to `tokens_max` tokens that begins with `prompt`, and reuses what is there of
    /// the prompt's prefix: on the device as shared pages or as what `context` kept, else from host memory. At least
    /// one token of the prompt is left to compute. What `context` kept belongs to the sequence from now on.
    pub(crate) fn open(
        &mut self,
        context: Option<ContextId>,
        prompt: &[u32],
        sharing: &Sharing,
        tokens_max: usize,
    ) -> Result<Lent, Shortage> {
        let found = self.find(context, prompt, sharing);
        // Held before anything is taken, so that nothing of it is reclaimed meanwhile.
        for source in &found.sources {
            if let Source::Device(block) = source {
                self.hold(*block);
            }
        }
        // The page in which the sequence goes on must be its own.
        let is_copied = |cache: &Self, index: usize| {
            let is_partial = index == found.cached / BLOCK_TOKENS;
            found.sources.get(index).is_some_and(|source| match source {
                Source::Device(block) => is_partial && cache.prefixes.contains(*block),
                Source::Host(_) => true,
            })
        };
        let as_they_are = (0..found.sources.len()).filter(|index| !is_copied(self, *index)).count();
        let wanted = KvLayout::blocks_for(tokens_max).saturating_sub(as_they_are);
        let available = self.available();
        if wanted > available {
            for source in found.sources.iter().rev() {
                if let Source::Device(block) = source {
                    self.let_go(*block);
                }
            }
            return Err(Shortage { needed: self.bytes_of(wanted), free: self.bytes_of(available) });
        }

        let mut taken: Vec<u32> = (0..wanted).filter_map(|_| self.take()).collect();
        let mut blocks = Vec::with_capacity(as_they_are + wanted);
        for (index, source) in found.sources.iter().enumerate() {
            if !is_copied(self, index) {
                if let Source::Device(block) = source {
                    blocks.push(*block);
                }
                continue;
            }
            let Some(own) = taken.pop() else { break };
            match source {
                Source::Device(block) => {
                    self.pages.copy(*block, own);
                    self.let_go(*block);
                }
                Source::Host(slot) => self.pages.page_mut(own).copy_from_slice(self.host.page(*slot)),
            }
            blocks.push(own);
        }
        blocks.append(&mut taken);
        if let Some(context) = context {
            self.forget(context);
        }
        let held = self.held(&blocks);
        Ok(Lent { table: BlockTable::new(blocks), cached: found.cached, held })
    }

    /// Takes a sequence's pages back. Full pages can be found by others from now on; with a `context` they stay in
    /// use, and so does the rest of `computed`, the tokens whose keys and values are there. Returns what is kept.
    pub(crate) fn close(
        &mut self,
        table: BlockTable,
        mut computed: Vec<u32>,
        sharing: &Sharing,
        context: Option<ContextId>,
    ) -> KvHeld {
        let mut blocks = table.into_blocks();
        let mut chain = Chain::START;
        let (full, _) = computed.as_chunks::<BLOCK_TOKENS>();
        for (index, (block, tokens)) in blocks.iter_mut().zip(full).enumerate() {
            let salt = sharing.salt_at(index * BLOCK_TOKENS);
            if let Some((known, next)) = self.prefixes.find(&chain, salt, tokens) {
                // Somebody else stored the same in the meantime: one of the two is enough.
                if known != *block {
                    self.hold(known);
                    self.let_go(*block);
                    *block = known;
                }
                chain = next;
            } else if self.prefixes.contains(*block) {
                break;
            } else {
                chain = self.prefixes.publish(&chain, salt, tokens, *block);
            }
        }
        let Some(context) = context else {
            self.let_go_all(blocks);
            return KvHeld::default();
        };
        self.forget(context);
        let rest = blocks.split_off(KvLayout::blocks_for(computed.len()).min(blocks.len()));
        self.let_go_all(rest);
        let held = self.held(&blocks);
        if !blocks.is_empty() {
            computed.shrink_to_fit();
            let place = Place::Device(BlockTable::new(blocks));
            self.contexts.insert(context, Kept { tokens: computed, place });
        }
        held
    }

    /// Takes back pages of which nothing is to be kept.
    pub(crate) fn discard(&mut self, table: BlockTable) {
        self.let_go_all(table.into_blocks());
    }

    /// Copies what `context` keeps to host memory and lets go of its pages. False, with nothing changed, where it
    /// keeps nothing on the device or host memory has no room.
    pub(crate) fn swap_out(&mut self, context: ContextId) -> bool {
        let Some(Kept { place: Place::Device(table), .. }) = self.contexts.get(&context) else {
            return false;
        };
        // What others hold stays on the device anyway, and is found there.
        let alone: Vec<(u32, bool)> =
            table.blocks().iter().map(|block| (*block, self.blocks.holders(*block) == 1)).collect();
        if alone.iter().filter(|(_, is_alone)| *is_alone).count() > self.host.room() {
            return false;
        }
        let slots = alone
            .iter()
            .map(|(block, is_alone)| if *is_alone { self.host.store(self.pages.page(*block)) } else { None })
            .collect();
        self.let_go_all(alone.into_iter().map(|(block, _)| block).collect());
        if let Some(kept) = self.contexts.get_mut(&context) {
            kept.place = Place::Host(slots);
        }
        true
    }

    /// Drops what `context` keeps, wherever it lies.
    pub(crate) fn forget(&mut self, context: ContextId) {
        match self.contexts.remove(&context).map(|kept| kept.place) {
            None => {}
            Some(Place::Device(table)) => self.let_go_all(table.into_blocks()),
            Some(Place::Host(slots)) => slots.into_iter().flatten().for_each(|slot| self.host.release(slot)),
        }
    }

    fn bytes_of(&self, blocks: usize) -> ByteCount {
        ByteCount(blocks as u64 * self.pages.layout().block_bytes())
    }

    /// What pages amount to, as the ledger counts them.
    fn held(&self, blocks: &[u32]) -> KvHeld {
        let shared = blocks.iter().filter(|block| self.prefixes.contains(**block)).count();
        KvHeld { private: self.bytes_of(blocks.len() - shared), shared: self.bytes_of(shared) }
    }

    fn available(&self) -> usize {
        self.blocks.free() + self.prefixes.parked()
    }

    /// A free page, or the one that has been parked for longest.
    fn take(&mut self) -> Option<u32> {
        if self.blocks.free() == 0 {
            let block = self.prefixes.reclaim()?;
            self.blocks.put_back(block);
        }
        self.blocks.take()
    }

    fn hold(&mut self, block: u32) {
        self.prefixes.unpark(block);
        self.blocks.hold(block);
    }

    fn let_go(&mut self, block: u32) {
        if self.blocks.let_go(block) && !self.prefixes.park(block) {
            self.blocks.put_back(block);
        }
    }

    /// Lets go of a sequence's pages from its end, so that a page is reclaimed before those that it follows.
    fn let_go_all(&mut self, blocks: Vec<u32>) {
        for block in blocks.into_iter().rev() {
            self.let_go(block);
        }
    }
}
