//! Full pages by the tokens that they and all pages before them hold, so that equal prefixes are stored once.
//!
//! A page is found by a hash chained over its predecessors: BLAKE3 of the predecessor's hash, the salt and the page's
//! own tokens. The hash only finds; what decides is that predecessor, salt and tokens are compared and equal. Nothing
//! here names the model, for an index belongs to one engine and with it to one model.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::kernels::BLOCK_TOKENS;

type BlockHash = [u8; 32];

/// A run of pages from a sequence's start, by its last page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chain {
    hash: BlockHash,
    /// The entry of the last page; 0 before the first. An entry's number is never given again, so that a page which
    /// was reclaimed takes its successors with it.
    entry: u64,
}

impl Chain {
    /// Before the first page.
    pub(super) const START: Self = Self { hash: [0; 32], entry: 0 };
}

#[derive(Debug)]
struct Entry {
    number: u64,
    hash: BlockHash,
    predecessor: u64,
    salt: Option<Arc<str>>,
    tokens: [u32; BLOCK_TOKENS],
    /// When the last holder let go, while nobody holds the page.
    parked: Option<u64>,
}

/// The pages that may be found by their tokens. Bounded by the pool: a page is in it at most once.
#[derive(Debug, Default)]
pub(super) struct PrefixIndex {
    by_hash: HashMap<BlockHash, Vec<u32>>,
    entries: HashMap<u32, Entry>,
    /// Pages that nobody holds, the one that was let go first in front.
    parked: BTreeSet<(u64, u32)>,
    entries_made: u64,
    parkings: u64,
    /// Breaks the index on purpose, to prove that a test would notice.
    #[cfg(test)]
    pub(super) is_weak: bool,
}

impl PrefixIndex {
    /// The page that follows `chain` with these tokens under this salt, and the chain that ends with it.
    pub(super) fn find(
        &self,
        chain: &Chain,
        salt: Option<&Arc<str>>,
        tokens: &[u32],
    ) -> Option<(u32, Chain)> {
        let hash = hash(chain, salt, tokens);
        #[cfg(test)]
        let hash = self.cut_if_weak(hash);
        self.by_hash.get(&hash)?.iter().find_map(|block| {
            let entry = self.entries.get(block)?;
            let is_same = entry.predecessor == chain.entry
                && entry.salt.as_ref() == salt
                && entry.tokens.as_slice() == tokens;
            #[cfg(test)]
            let is_same = is_same || self.is_weak;
            is_same.then_some((*block, Chain { hash, entry: entry.number }))
        })
    }

    /// Lets `block`, which somebody holds and which is in no index yet, be found after `chain`.
    pub(super) fn publish(
        &mut self,
        chain: &Chain,
        salt: Option<&Arc<str>>,
        tokens: &[u32; BLOCK_TOKENS],
        block: u32,
    ) -> Chain {
        let hash = hash(chain, salt, tokens);
        #[cfg(test)]
        let hash = self.cut_if_weak(hash);
        self.entries_made += 1;
        let entry = Entry {
            number: self.entries_made,
            hash,
            predecessor: chain.entry,
            salt: salt.cloned(),
            tokens: *tokens,
            parked: None,
        };
        self.by_hash.entry(hash).or_default().push(block);
        self.entries.insert(block, entry);
        Chain { hash, entry: self.entries_made }
    }

    /// Whether `block` may be found.
    pub(super) fn contains(&self, block: u32) -> bool {
        self.entries.contains_key(&block)
    }

    /// Pages that may be found.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Pages that may be found and that nobody holds.
    pub(super) fn parked(&self) -> usize {
        self.parked.len()
    }

    /// Nobody holds `block` any more; it stays to be found until its memory is needed. False when it is not here.
    pub(super) fn park(&mut self, block: u32) -> bool {
        let Some(entry) = self.entries.get_mut(&block) else { return false };
        self.parkings += 1;
        entry.parked = Some(self.parkings);
        self.parked.insert((self.parkings, block));
        true
    }

    /// Somebody holds `block` again.
    pub(super) fn unpark(&mut self, block: u32) {
        if let Some(parked) = self.entries.get_mut(&block).and_then(|entry| entry.parked.take()) {
            self.parked.remove(&(parked, block));
        }
    }

    /// Forgets the page that nobody has held for longest.
    pub(super) fn reclaim(&mut self) -> Option<u32> {
        let (_, block) = self.parked.pop_first()?;
        let entry = self.entries.remove(&block)?;
        if let Some(blocks) = self.by_hash.get_mut(&entry.hash) {
            blocks.retain(|other| *other != block);
            if blocks.is_empty() {
                self.by_hash.remove(&entry.hash);
            }
        }
        Some(block)
    }

    /// Four bits of the hash where the index was broken.
    #[cfg(test)]
    fn cut_if_weak(&self, hash: BlockHash) -> BlockHash {
        if !self.is_weak {
            return hash;
        }
        let mut cut = [0; 32];
        cut[0] = hash[0] & 0xF;
        cut
    }
}

fn hash(chain: &Chain, salt: Option<&Arc<str>>, tokens: &[u32]) -> BlockHash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&chain.hash);
    if let Some(salt) = salt {
        // The length parts salt from tokens; the predecessor's hash has a fixed one.
        hasher.update(&(salt.len() as u64).to_le_bytes()).update(salt.as_bytes());
    }
    for token in tokens {
        hasher.update(&token.to_le_bytes());
    }
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(first: u32) -> [u32; BLOCK_TOKENS] {
        std::array::from_fn(|index| first + u32::try_from(index).unwrap())
    }

    #[test]
    fn a_page_is_found_by_its_tokens_its_predecessors_and_its_salt_together() {
        let mut index = PrefixIndex::default();
        let salt: Arc<str> = "tenant".into();
        let first = index.publish(&Chain::START, None, &tokens(0), 7);
        let second = index.publish(&first, Some(&salt), &tokens(100), 8);
        assert_eq!(index.find(&Chain::START, None, &tokens(0)), Some((7, first)));
        assert_eq!(index.find(&first, Some(&"tenant".into()), &tokens(100)), Some((8, second)));
        assert_eq!(index.find(&first, None, &tokens(100)), None);
        assert_eq!(index.find(&first, Some(&"other".into()), &tokens(100)), None);
        assert_eq!(index.find(&Chain::START, Some(&salt), &tokens(100)), None);
        assert_eq!(index.find(&first, Some(&salt), &tokens(101)), None);
        assert_eq!(index.find(&first, Some(&salt), &tokens(100)[..31]), None);
    }

    #[test]
    fn what_nobody_held_for_longest_is_reclaimed_first_and_takes_its_successors_along() {
        let mut index = PrefixIndex::default();
        let first = index.publish(&Chain::START, None, &tokens(0), 0);
        index.publish(&first, None, &tokens(50), 1);
        let other = index.publish(&Chain::START, None, &tokens(9), 2);
        for block in [0, 2, 1] {
            assert!(index.park(block));
        }
        assert!(!index.park(77));
        index.unpark(2);
        assert_eq!((index.parked(), index.len()), (2, 3));
        assert_eq!(index.reclaim(), Some(0));
        // The same tokens again are another entry, which page 1 does not follow.
        let again = index.publish(&Chain::START, None, &tokens(0), 3);
        assert_eq!(index.find(&again, None, &tokens(50)), None);
        assert_eq!((index.reclaim(), index.reclaim()), (Some(1), None));
        assert_eq!(index.find(&Chain::START, None, &tokens(9)), Some((2, other)));
    }
}
