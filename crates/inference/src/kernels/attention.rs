//! Attention of a few query rows over one sequence's pages, in one pass with a running softmax (Milakov and
//! Gimelshein 2018; Dao et al. 2022).

#![expect(
    clippy::indexing_slicing,
    reason = "lengths are checked once per call, bounds checks stop vectorisation"
)]
#![expect(
    clippy::inline_always,
    reason = "a body takes on the instruction set of the function it is inlined into"
)]

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::vector::exp;
use super::{BLOCK_TOKENS, Level, for_every_level};

/// Query rows that look at the same pages through one key-value head.
pub(crate) struct AttentionRows<'a> {
    /// `[rows][head size]`: queries going in, attention's outputs coming out.
    pub(crate) data: &'a mut [f32],
    /// How many positions, from the sequence's start, each row sees; at least one.
    pub(crate) lengths: &'a [usize],
    /// Numbers in a row, a multiple of 16.
    pub(crate) head_size: usize,
    /// What scores are multiplied by.
    pub(crate) scale: f32,
}

/// The running softmax of all rows.
pub(super) struct RowStates {
    /// Largest score so far, per row.
    pub(super) max: Vec<f32>,
    /// Sum of weights so far, per row.
    pub(super) sum: Vec<f32>,
    /// Weighted sum of values so far, `[rows][head size]`.
    pub(super) values: Vec<f32>,
}

/// Replaces every query row in `rows` by its attention over the positions that it sees. `block(i)` returns keys
/// `[head size][32]` and values `[32][head size]` of the sequence's i-th page.
pub(crate) fn attend<'b>(
    level: Level,
    rows: &mut AttentionRows<'_>,
    block: impl Fn(usize) -> (&'b [f16], &'b [f16]),
) {
    let (count, head) = (rows.lengths.len(), rows.head_size);
    assert!(rows.data.len() == count * head && head > 0);
    let mut states = RowStates {
        max: vec![f32::NEG_INFINITY; count],
        sum: vec![0.0; count],
        values: vec![0.0; count * head],
    };
    let longest = rows.lengths.iter().copied().max().unwrap_or(0);
    let mut scratch = Vec::new();
    for index in 0..longest.div_ceil(BLOCK_TOKENS) {
        let (keys, values) = block(index);
        assert!(keys.len() == BLOCK_TOKENS * head && values.len() == keys.len());
        let first = index * BLOCK_TOKENS;
        match level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 if super::attention_avx512::takes(head) => {
                super::attention_avx512::block(rows, &mut states, keys, values, first);
            }
            _ => {
                scratch.resize(2 * keys.len(), 0.0);
                let (keys_wide, values_wide) = scratch.split_at_mut(BLOCK_TOKENS * head);
                keys.convert_to_f32_slice(keys_wide);
                values.convert_to_f32_slice(values_wide);
                attend_block(level, rows, &mut states, keys_wide, values_wide, first);
            }
        }
    }
    for ((out, values), sum) in
        rows.data.chunks_exact_mut(head).zip(states.values.chunks_exact(head)).zip(&states.sum)
    {
        let share = 1.0 / sum;
        for (out, value) in out.iter_mut().zip(values) {
            *out = value * share;
        }
    }
}

#[inline(always)]
fn attend_block_body(
    rows: &AttentionRows<'_>,
    states: &mut RowStates,
    keys: &[f32],
    values: &[f32],
    first: usize,
) {
    let head = rows.head_size;
    for (row, length) in rows.lengths.iter().enumerate() {
        let seen = length.saturating_sub(first).min(BLOCK_TOKENS);
        if seen == 0 {
            continue;
        }
        let query = &rows.data[row * head..][..head];
        let mut scores = [0f32; BLOCK_TOKENS];
        for (number, column) in query.iter().zip(keys.chunks_exact(BLOCK_TOKENS)) {
            for position in 0..BLOCK_TOKENS {
                scores[position] += number * column[position];
            }
        }
        let mut max = states.max[row];
        for score in &mut scores[..seen] {
            *score *= rows.scale;
            max = if *score > max { *score } else { max };
        }
        let old = if states.max[row] == f32::NEG_INFINITY { 0.0 } else { exp(states.max[row] - max) };
        let mut sum = states.sum[row] * old;
        for score in &mut scores[..seen] {
            *score = exp(*score - max);
            sum += *score;
        }
        states.max[row] = max;
        states.sum[row] = sum;
        let out = &mut states.values[row * head..][..head];
        for value in out.iter_mut() {
            *value *= old;
        }
        for (weight, value_row) in scores[..seen].iter().zip(values.chunks_exact(head)) {
            for index in 0..head {
                out[index] += weight * value_row[index];
            }
        }
    }
}

for_every_level! {
    /// Takes one page, widened to single precision, into `states`.
    attend_block, attend_block_avx512, attend_block_avx2, attend_block_body,
    (rows: &AttentionRows<'_>, states: &mut RowStates, keys: &[f32], values: &[f32], first: usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Case {
        keys: Vec<Vec<f32>>,
        values: Vec<Vec<f32>>,
        pages: Vec<(Vec<f16>, Vec<f16>)>,
    }

    fn random(state: &mut u32) -> f32 {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (*state >> 8) as f32 / 8_388_608.0 - 1.0
    }

    fn case(positions: usize, head: usize, seed: u32) -> Case {
        let mut state = seed;
        let mut row =
            || (0..head).map(|_| f16::from_f32(2.0 * random(&mut state)).to_f32()).collect::<Vec<_>>();
        let keys: Vec<Vec<f32>> = (0..positions).map(|_| row()).collect();
        let values: Vec<Vec<f32>> = (0..positions).map(|_| row()).collect();
        // What lies past the sequence's end must not matter, so it is filled with large numbers.
        let mut pages = vec![
            (
                vec![f16::from_f32(60_000.0); head * BLOCK_TOKENS],
                vec![f16::from_f32(60_000.0); head * BLOCK_TOKENS]
            );
            positions.div_ceil(BLOCK_TOKENS)
        ];
        for position in 0..positions {
            let (page_keys, page_values) = &mut pages[position / BLOCK_TOKENS];
            for d in 0..head {
                page_keys[d * BLOCK_TOKENS + position % BLOCK_TOKENS] = f16::from_f32(keys[position][d]);
                page_values[position % BLOCK_TOKENS * head + d] = f16::from_f32(values[position][d]);
            }
        }
        Case { keys, values, pages }
    }

    fn naive(query: &[f32], case: &Case, length: usize, scale: f32) -> Vec<f64> {
        let scores: Vec<f64> = case.keys[..length]
            .iter()
            .map(|key| {
                key.iter().zip(query).map(|(k, q)| f64::from(*k) * f64::from(*q)).sum::<f64>()
                    * f64::from(scale)
            })
            .collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - max).exp()).collect();
        let sum: f64 = weights.iter().sum();
        (0..query.len())
            .map(|d| weights.iter().zip(&case.values).map(|(w, v)| w / sum * f64::from(v[d])).sum())
            .collect()
    }

    #[test]
    fn every_level_agrees_with_attention_written_out() {
        for level in Level::available() {
            for head in [16, 32, 48, 64, 80, 96, 112, 128, 256] {
                for (positions, count) in [(1, 1), (31, 2), (32, 3), (33, 4), (70, 5), (131, 6), (97, 13)] {
                    let case = case(positions, head, 7 + u32::try_from(head).unwrap());
                    let mut state = 99;
                    let queries: Vec<f32> = (0..count * head).map(|_| random(&mut state)).collect();
                    // Rows of a prefill chunk see one position more each.
                    let lengths: Vec<usize> =
                        (0..count).map(|row| (positions + row + 1).saturating_sub(count).max(1)).collect();
                    let scale = 1.0 / (head as f32).sqrt();
                    let mut data = queries.clone();
                    let mut rows =
                        AttentionRows { data: &mut data, lengths: &lengths, head_size: head, scale };
                    attend(level, &mut rows, |index| (&case.pages[index].0, &case.pages[index].1));
                    for row in 0..count {
                        let exact = naive(&queries[row * head..][..head], &case, lengths[row], scale);
                        for d in 0..head {
                            let got = f64::from(data[row * head + d]);
                            assert!(
                                (got - exact[d]).abs() < 2e-5,
                                "{level:?} head {head} row {row}: {got} {}",
                                exact[d]
                            );
                        }
                    }
                }
            }
        }
    }
}
