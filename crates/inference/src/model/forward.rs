//! One step over many sequences: prompts in chunks beside single tokens, each against its own pages.

use super::linear::Linear;
use super::weights::{Layer, Model};
use crate::error::InferenceError;
use crate::kernels::{
    AttentionRows, BlockTable, KvPages, add_assign, attend, for_each_part_mut, rms_norm, rope_interleaved,
    silu_multiply,
};

/// Tokens of one chunk that attend together, so that they share the loads of keys and values.
const TILE_TOKENS: usize = 8;
/// Rows from which element-wise work is spread over the pool; below it the barrier costs more.
const PARALLEL_TOKENS: usize = 32;

/// New tokens of one sequence.
pub(crate) struct Chunk<'a> {
    /// The tokens, at least one.
    pub(crate) tokens: &'a [u32],
    /// How many tokens of the sequence have been computed before.
    pub(crate) start: usize,
    /// The sequence's pages; enough for `start` and `tokens`.
    pub(crate) table: &'a BlockTable,
    /// Whether logits after the last of `tokens` are wanted.
    pub(crate) sample: bool,
}

/// Logits of the chunks that asked for them, in their order.
pub(crate) struct Logits {
    data: Vec<f32>,
    vocabulary: usize,
}

impl Logits {
    /// One row of logits per chunk that asked, each as long as the model's vocabulary.
    pub(crate) fn rows_mut(&mut self) -> impl Iterator<Item = &mut [f32]> {
        self.data.chunks_exact_mut(self.vocabulary)
    }
}

/// Tokens of one chunk that attend together through every head.
struct Tile {
    /// Which chunk.
    chunk: usize,
    /// The first token's index in the step.
    first: usize,
    tokens: usize,
}

impl Model {
    /// Computes `chunks`, stores their keys and values in `kv`, and returns the logits asked for.
    ///
    /// Every chunk's tokens are below the vocabulary's size and its end within the positions that the model was
    /// loaded for; both are checked.
    pub(crate) fn forward(&self, kv: &mut KvPages, chunks: &[Chunk<'_>]) -> Result<Logits, InferenceError> {
        let width = self.config.width;
        let ids: Vec<u32> = chunks.iter().flat_map(|chunk| chunk.tokens).copied().collect();
        let positions: Vec<usize> =
            chunks.iter().flat_map(|chunk| chunk.start..chunk.start + chunk.tokens.len()).collect();
        self.check(chunks, &ids)?;
        let tiles = tiles(chunks);

        let mut hidden = self.embedding.lookup(&ids)?;
        for (index, layer) in self.layers.iter().enumerate() {
            let normed = self.norm(&hidden, &layer.attention_norm);
            let attended = self.attention(kv, index, layer, normed, chunks, &positions, &tiles)?;
            add_assign(self.level, &mut hidden, &layer.attention_output.forward(attended, ids.len())?);

            let normed = self.norm(&hidden, &layer.feed_forward_norm);
            let [mut gate, up] = Linear::forward_all([&layer.gate, &layer.up], normed, ids.len())?;
            self.gate(&mut gate, &up);
            add_assign(self.level, &mut hidden, &layer.down.forward(gate, ids.len())?);
        }

        let mut sampled = Vec::new();
        let mut end = 0;
        for chunk in chunks {
            end += chunk.tokens.len();
            if chunk.sample {
                sampled.extend_from_slice(hidden.get((end - 1) * width..end * width).unwrap_or_default());
            }
        }
        let head = self.output.as_ref().unwrap_or(&self.embedding);
        let rows = sampled.len() / width;
        let data =
            if rows == 0 { Vec::new() } else { head.forward(self.norm(&sampled, &self.output_norm), rows)? };
        Ok(Logits { data, vocabulary: head.rows() })
    }

    fn check(&self, chunks: &[Chunk<'_>], ids: &[u32]) -> Result<(), InferenceError> {
        let refuse = |reason: String| InferenceError::Compute { source: candle_core::Error::msg(reason) };
        if ids.is_empty() || chunks.iter().any(|chunk| chunk.tokens.is_empty()) {
            return Err(refuse("a chunk has no tokens".to_owned()));
        }
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.config.vocabulary) {
            return Err(refuse(format!(
                "token {id} is not among the {} of the model",
                self.config.vocabulary
            )));
        }
        let positions_max = self.cosines.len() / (self.config.rotated / 2).max(1);
        for chunk in chunks {
            let end = chunk.start + chunk.tokens.len();
            if end > positions_max || crate::kernels::KvLayout::blocks_for(end) > chunk.table.len() {
                return Err(refuse(format!("position {end} is past the sequence's pages")));
            }
        }
        Ok(())
    }

    /// Norms every row of `rows`.
    fn norm(&self, rows: &[f32], weight: &[f32]) -> Vec<f32> {
        let mut out = vec![0f32; rows.len()];
        for (row, out) in rows.chunks_exact(weight.len()).zip(out.chunks_exact_mut(weight.len())) {
            rms_norm(self.level, row, weight, self.config.norm_epsilon, out);
        }
        out
    }

    fn gate(&self, gate: &mut [f32], up: &[f32]) {
        let row = self.config.feed_forward;
        if gate.len() < PARALLEL_TOKENS * row {
            silu_multiply(self.level, gate, up);
            return;
        }
        let ends: Vec<usize> = (1..=gate.len() / row).map(|rows| rows * row).collect();
        for_each_part_mut(gate, &ends, |part, gate| {
            silu_multiply(self.level, gate, up.get(part * row..(part + 1) * row).unwrap_or_default());
        });
    }

    /// Attention of layer `index`: `normed` is `[tokens][width]`, the result `[tokens][heads * head size]`.
    fn attention(
        &self,
        kv: &mut KvPages,
        index: usize,
        layer: &Layer,
        normed: Vec<f32>,
        chunks: &[Chunk<'_>],
        positions: &[usize],
        tiles: &[Tile],
    ) -> Result<Vec<f32>, InferenceError> {
        let (head, kv_heads) = (self.config.head_size, self.config.kv_heads);
        let shared = self.config.heads / kv_heads;
        let tokens = positions.len();
        let [mut query, mut key, value] =
            Linear::forward_all([&layer.query, &layer.key, &layer.value], normed, tokens)?;

        let query_row = self.config.heads * head;
        let kv_row = kv_heads * head;
        let tables = chunks.iter().flat_map(|chunk| chunk.tokens.iter().map(|_| chunk.table));
        let rows = query
            .chunks_exact_mut(query_row)
            .zip(key.chunks_exact_mut(kv_row))
            .zip(value.chunks_exact(kv_row));
        for (((query, key), value), (position, table)) in rows.zip(positions.iter().zip(tables)) {
            let (cos, sin) = self.angles(*position);
            rope_interleaved(self.level, query, head, cos, sin);
            rope_interleaved(self.level, key, head, cos, sin);
            kv.write(table, index, *position, key, value);
        }

        // Gather each tile's rows per key-value head, `[tile][kv head][token][query head of the group]`, so that a
        // unit of work owns one contiguous part.
        let group = shared * head;
        let mut grouped = Vec::with_capacity(query.len());
        let mut ends = Vec::with_capacity(tiles.len() * kv_heads);
        for tile in tiles {
            for kv_head in 0..kv_heads {
                for token in tile.first..tile.first + tile.tokens {
                    let start = token * query_row + kv_head * group;
                    grouped.extend_from_slice(query.get(start..start + group).unwrap_or_default());
                }
                ends.push(grouped.len());
            }
        }
        let kv = &*kv;
        let scale = 1.0 / (head as f32).sqrt();
        for_each_part_mut(&mut grouped, &ends, |unit, data| {
            let kv_head = unit % kv_heads;
            let Some(tile) = tiles.get(unit / kv_heads) else { return };
            let Some(chunk) = chunks.get(tile.chunk) else { return };
            let seen = positions.iter().skip(tile.first).take(tile.tokens);
            let lengths: Vec<usize> =
                seen.flat_map(|position| std::iter::repeat_n(position + 1, shared)).collect();
            let mut rows = AttentionRows { data, lengths: &lengths, head_size: head, scale };
            attend(self.level, &mut rows, |block| kv.block(chunk.table, block, index, kv_head));
        });

        let mut parts = grouped.chunks_exact(group);
        for tile in tiles {
            for kv_head in 0..kv_heads {
                for token in tile.first..tile.first + tile.tokens {
                    let start = token * query_row + kv_head * group;
                    if let (Some(out), Some(part)) = (query.get_mut(start..start + group), parts.next()) {
                        out.copy_from_slice(part);
                    }
                }
            }
        }
        Ok(query)
    }

    /// Cosines and sines of `position`.
    fn angles(&self, position: usize) -> (&[f32], &[f32]) {
        let pairs = self.config.rotated / 2;
        let range = position * pairs..(position + 1) * pairs;
        (self.cosines.get(range.clone()).unwrap_or_default(), self.sines.get(range).unwrap_or_default())
    }
}

fn tiles(chunks: &[Chunk<'_>]) -> Vec<Tile> {
    let mut tiles = Vec::new();
    let mut first = 0;
    for (index, chunk) in chunks.iter().enumerate() {
        let end = first + chunk.tokens.len();
        while first < end {
            let tokens = TILE_TOKENS.min(end - first);
            tiles.push(Tile { chunk: index, first, tokens });
            first += tokens;
        }
    }
    tiles
}
