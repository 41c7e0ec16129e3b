//! The memory of all pages of keys and values.
//!
//! One page (block) holds [`BLOCK_TOKENS`] positions of one sequence over all layers, contiguous in memory, so that
//! a page can be shared, copied or swapped as a whole. Sequences reach their pages through a [`BlockTable`]; who
//! holds which page is decided in [`crate::kv`].
//!
//! Within a page, per layer and key-value head: keys transposed `[head size][positions]`, then values
//! `[positions][head size]`, both in half precision.

#![expect(clippy::indexing_slicing, reason = "offsets are computed from the layout that sized the memory")]

use half::f16;
use half::slice::HalfFloatSliceExt;

/// Positions in one page.
pub(crate) const BLOCK_TOKENS: usize = 32;

/// The shape of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KvLayout {
    pub(crate) layers: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_size: usize,
}

impl KvLayout {
    /// Numbers in the keys (or values) of one layer and head of a page.
    const fn half_head(self) -> usize {
        BLOCK_TOKENS * self.head_size
    }

    /// Numbers in one page.
    const fn block_numbers(self) -> usize {
        self.layers * self.kv_heads * 2 * self.half_head()
    }

    /// Bytes of one page.
    pub(crate) const fn block_bytes(self) -> u64 {
        self.block_numbers() as u64 * 2
    }

    /// Pages that `tokens` positions need.
    pub(crate) const fn blocks_for(tokens: usize) -> usize {
        tokens.div_ceil(BLOCK_TOKENS)
    }
}

/// The pages of one sequence in order. Not cloneable: each entry counts as one holder of its page, and goes back to
/// [`crate::kv::KvCache`] which counts them.
#[derive(Debug, Default)]
pub(crate) struct BlockTable {
    blocks: Vec<u32>,
}

impl BlockTable {
    /// A table of pages that the caller holds.
    pub(crate) fn new(blocks: Vec<u32>) -> Self {
        Self { blocks }
    }

    /// How many pages it has.
    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// The pages in order.
    pub(crate) fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    /// The pages in order, for whoever holds them from now on.
    pub(crate) fn into_blocks(self) -> Vec<u32> {
        self.blocks
    }
}

/// All pages, allocated once.
pub(crate) struct KvPages {
    layout: KvLayout,
    data: Vec<f16>,
}

impl KvPages {
    /// Memory of `blocks` pages.
    pub(crate) fn new(layout: KvLayout, blocks: u32) -> Self {
        Self { layout, data: vec![f16::ZERO; layout.block_numbers() * blocks as usize] }
    }

    /// The shape of a page.
    pub(crate) fn layout(&self) -> KvLayout {
        self.layout
    }

    /// All numbers of one page.
    pub(crate) fn page(&self, block: u32) -> &[f16] {
        let numbers = self.layout.block_numbers();
        &self.data[block as usize * numbers..][..numbers]
    }

    /// All numbers of one page, to be overwritten.
    pub(crate) fn page_mut(&mut self, block: u32) -> &mut [f16] {
        let numbers = self.layout.block_numbers();
        &mut self.data[block as usize * numbers..][..numbers]
    }

    /// Makes page `to` equal to page `from`.
    pub(crate) fn copy(&mut self, from: u32, to: u32) {
        let numbers = self.layout.block_numbers();
        let start = from as usize * numbers;
        self.data.copy_within(start..start + numbers, to as usize * numbers);
    }

    fn offset(&self, block: u32, layer: usize, head: usize) -> usize {
        (block as usize * self.layout.layers + layer) * self.layout.kv_heads * 2 * self.layout.half_head()
            + head * 2 * self.layout.half_head()
    }

    /// Stores keys and values (`[kv heads][head size]` each) of one position of the sequence behind `table`.
    pub(crate) fn write(
        &mut self,
        table: &BlockTable,
        layer: usize,
        position: usize,
        keys: &[f32],
        values: &[f32],
    ) {
        let KvLayout { head_size, kv_heads, .. } = self.layout;
        assert!(keys.len() == kv_heads * head_size && values.len() == keys.len());
        let block = table.blocks[position / BLOCK_TOKENS];
        let slot = position % BLOCK_TOKENS;
        for head in 0..kv_heads {
            let start = self.offset(block, layer, head);
            let (key_part, value_part) =
                self.data[start..start + 2 * BLOCK_TOKENS * head_size].split_at_mut(BLOCK_TOKENS * head_size);
            let (key, value) =
                (&keys[head * head_size..][..head_size], &values[head * head_size..][..head_size]);
            for (column, number) in key_part.chunks_exact_mut(BLOCK_TOKENS).zip(key) {
                column[slot] = f16::from_f32(*number);
            }
            value_part[slot * head_size..][..head_size].convert_from_f32_slice(value);
        }
    }

    /// Keys `[head size][positions]` and values `[positions][head size]` of page `index` of `table`.
    pub(crate) fn block<'a>(
        &'a self,
        table: &BlockTable,
        index: usize,
        layer: usize,
        head: usize,
    ) -> (&'a [f16], &'a [f16]) {
        let start = self.offset(table.blocks[index], layer, head);
        let half = self.layout.half_head();
        self.data[start..start + 2 * half].split_at(half)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_at_a_position_is_read_there_and_nowhere_else() {
        let layout = KvLayout { layers: 2, kv_heads: 2, head_size: 16 };
        let mut pages = KvPages::new(layout, 3);
        let table = BlockTable::new(vec![2, 0]);
        let keys: Vec<f32> = (0..32u8).map(f32::from).collect();
        let values: Vec<f32> = keys.iter().map(|key| key + 100.0).collect();
        pages.write(&table, 1, 37, &keys, &values);
        let (head_keys, head_values) = pages.block(&table, 1, 1, 1);
        for d in 0..16 {
            assert_eq!(head_keys[d * BLOCK_TOKENS + 5], f16::from_f32(keys[16 + d]));
            assert_eq!(head_values[5 * 16 + d], f16::from_f32(values[16 + d]));
        }
        assert_eq!(pages.data.iter().filter(|number| number.to_f32() != 0.0).count(), 63);
        pages.copy(0, 1);
        assert_eq!(pages.page(1), pages.page(0));
        assert!(pages.page(2).iter().all(|number| *number == f16::ZERO));
    }
}
