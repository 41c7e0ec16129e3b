//! Which pages are free, and how many hold each of the others.

/// The pages of a pool by number, each with a count of its holders.
#[derive(Debug)]
pub(super) struct BlockPool {
    /// Holders of each page.
    holders: Vec<u32>,
    /// Pages that nobody holds and that nobody may find again.
    free: Vec<u32>,
}

impl BlockPool {
    /// `count` free pages.
    pub(super) fn new(count: u32) -> Self {
        Self { holders: vec![0; count as usize], free: (0..count).rev().collect() }
    }

    /// All pages, held or not.
    pub(super) fn len(&self) -> usize {
        self.holders.len()
    }

    /// Pages that can be taken.
    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    /// Takes a free page for one holder.
    pub(super) fn take(&mut self) -> Option<u32> {
        let block = self.free.pop()?;
        self.hold(block);
        Some(block)
    }

    /// One more holds `block`.
    pub(super) fn hold(&mut self, block: u32) {
        if let Some(holders) = self.holders.get_mut(block as usize) {
            *holders += 1;
        }
    }

    /// One less holds `block`. True when that was the last; the page is then the caller's to [free](Self::put_back)
    /// or to keep for whoever finds it.
    pub(super) fn let_go(&mut self, block: u32) -> bool {
        self.holders.get_mut(block as usize).is_some_and(|holders| {
            *holders = holders.saturating_sub(1);
            *holders == 0
        })
    }

    /// Makes a page free that nobody holds.
    pub(super) fn put_back(&mut self, block: u32) {
        self.free.push(block);
    }

    /// How many hold `block`.
    pub(super) fn holders(&self, block: u32) -> u32 {
        self.holders.get(block as usize).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_free_again_when_its_last_holder_lets_go() {
        let mut pool = BlockPool::new(2);
        let (one, other) = (pool.take().unwrap(), pool.take().unwrap());
        assert_ne!(one, other);
        assert_eq!((pool.take(), pool.free(), pool.len()), (None, 0, 2));
        pool.hold(one);
        assert!(!pool.let_go(one));
        assert_eq!(pool.holders(one), 1);
        assert!(pool.let_go(one));
        pool.put_back(one);
        assert_eq!((pool.free(), pool.take()), (1, Some(one)));
    }
}
