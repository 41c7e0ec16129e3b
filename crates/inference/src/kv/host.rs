//! Pages that lie in host memory, bounded by a limit of their own.

use half::f16;

/// Copies of pages. Memory is taken when first needed, kept, and used again.
#[derive(Debug)]
pub(super) struct HostArena {
    pages: Vec<Box<[f16]>>,
    free: Vec<u32>,
    pages_max: usize,
}

impl HostArena {
    /// An arena of at most `pages_max` pages.
    pub(super) fn new(pages_max: usize) -> Self {
        Self { pages: Vec::new(), free: Vec::new(), pages_max }
    }

    /// How many more pages it takes.
    pub(super) fn room(&self) -> usize {
        self.pages_max.saturating_sub(self.used())
    }

    /// Pages that are kept.
    pub(super) fn used(&self) -> usize {
        self.pages.len() - self.free.len()
    }

    /// Keeps a copy of `page`, or nothing where there is no room.
    pub(super) fn store(&mut self, page: &[f16]) -> Option<u32> {
        if let Some(slot) = self.free.pop() {
            self.pages.get_mut(slot as usize)?.copy_from_slice(page);
            return Some(slot);
        }
        if self.pages.len() >= self.pages_max {
            return None;
        }
        let slot = u32::try_from(self.pages.len()).ok()?;
        self.pages.push(page.into());
        Some(slot)
    }

    /// What was stored under `slot`.
    pub(super) fn page(&self, slot: u32) -> &[f16] {
        self.pages.get(slot as usize).map(|page| &**page).unwrap_or_default()
    }

    /// The copy is no longer needed.
    pub(super) fn release(&mut self, slot: u32) {
        self.free.push(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_kept_byte_for_byte_up_to_the_limit() {
        let page = |first: u16| (0..8).map(|index| f16::from_bits(first + index)).collect::<Vec<_>>();
        let mut arena = HostArena::new(2);
        let (one, other) = (arena.store(&page(0x7E01)).unwrap(), arena.store(&page(50)).unwrap());
        assert_eq!((arena.store(&page(9)), arena.room(), arena.used()), (None, 0, 2));
        // Bits are compared, for numbers that are none are equal to nothing.
        let bits = |numbers: &[f16]| numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(arena.page(one)), bits(&page(0x7E01)));
        arena.release(one);
        assert_eq!(arena.store(&page(9)), Some(one));
        assert_eq!((bits(arena.page(one)), bits(arena.page(other))), (bits(&page(9)), bits(&page(50))));
    }
}
