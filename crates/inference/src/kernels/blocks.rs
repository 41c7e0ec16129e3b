//! Matrix products with weights in blocks of 32 numbers: GGUF's `Q4_0`, `Q4_1`, `Q5_0`, `Q5_1` and `Q8_0`.
//!
//! All five say `weight = scale * q + offset` with `q` from 0 to 255 and one scale and offset per block, so one
//! layout holds them exactly. Activations are rounded to 15 bits per block of 32, as two planes of 8 bits: with
//! the usual single plane, models with large outliers (SmolLM2) stray visibly from their weights.

#![expect(
    clippy::indexing_slicing,
    reason = "lengths are checked once per call, bounds checks stop vectorisation"
)]
#![expect(
    clippy::inline_always,
    reason = "a body takes on the instruction set of the function it is inlined into"
)]

use half::f16;

use super::{Level, for_each_part_mut, for_every_level};

/// Numbers in a block.
pub(super) const BLOCK: usize = 32;
/// Matrix rows in a tile.
pub(super) const ROWS: usize = 16;
/// Columns that one multiply-add instruction takes per row.
pub(super) const QUAD: usize = 4;
/// The largest rounded activation: two planes of `v = 128 * high + low` with both in 8 bits.
const ACTIVATION_MAX: f32 = 16_256.0;

/// How a GGUF file writes a block of 32 weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlockFormat {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
}

impl BlockFormat {
    /// Bytes of one block in the file.
    const fn bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
        }
    }

    /// Scale, offset and the 32 numbers of one block (`block_q*` in ggml-common.h).
    fn read(self, block: &[u8]) -> (f32, f32, [u8; BLOCK]) {
        let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
        let scale = half(0);
        let (offset, fifth_bits, quants) = match self {
            Self::Q4_0 => (-8.0 * scale, None, &block[2..]),
            Self::Q4_1 => (half(2), None, &block[4..]),
            Self::Q5_0 => (-16.0 * scale, Some(&block[2..6]), &block[6..]),
            Self::Q5_1 => (half(2), Some(&block[4..8]), &block[8..]),
            Self::Q8_0 => (-128.0 * scale, None, &block[2..]),
        };
        let fifth = fifth_bits.map_or(0, |bits| u32::from_le_bytes([bits[0], bits[1], bits[2], bits[3]]));
        let numbers = std::array::from_fn(|index| {
            if self == Self::Q8_0 {
                // Signed bytes, moved up by 128.
                return quants[index] ^ 0x80;
            }
            let nibbles = quants[index % 16];
            let low = if index < 16 { nibbles & 15 } else { nibbles >> 4 };
            low | u8::from((fifth >> index) & 1 == 1) << 4
        });
        (scale, offset, numbers)
    }
}

/// One block of 16 rows.
#[derive(Clone)]
#[repr(C, align(64))]
pub(super) struct Tile {
    /// `[quads of columns][rows][columns of the quad]`.
    pub(super) quants: [u8; BLOCK * ROWS],
    pub(super) scales: [f32; ROWS],
    pub(super) offsets: [f32; ROWS],
}

/// A matrix `[rows][columns]` in tiles, `[rows / 16][columns / 32]`.
pub(crate) struct BlockMatrix {
    tiles: Vec<Tile>,
    rows: usize,
    columns: usize,
}

/// Activations rounded to two planes of 8 bits.
pub(crate) struct BlockActivations {
    /// `[tokens][blocks][high 32, low 32]`.
    pub(super) planes: Vec<i8>,
    /// What a rounded activation is worth, `[tokens][blocks]`.
    pub(super) scales: Vec<f32>,
    /// Sum of the block's activations, `[tokens][blocks]`.
    pub(super) sums: Vec<f32>,
    /// Blocks of one token.
    pub(super) blocks: usize,
    tokens: usize,
}

impl BlockMatrix {
    /// Takes the matrix over from the `bytes` of a GGUF tensor. `None` where their number does not fit the shape.
    pub(crate) fn new(format: BlockFormat, bytes: &[u8], rows: usize, columns: usize) -> Option<Self> {
        let blocks = columns / BLOCK;
        if !columns.is_multiple_of(BLOCK) || bytes.len() != rows * blocks * format.bytes() {
            return None;
        }
        let empty = Tile { quants: [0; BLOCK * ROWS], scales: [0.0; ROWS], offsets: [0.0; ROWS] };
        let mut tiles = vec![empty; rows.div_ceil(ROWS) * blocks];
        for (index, block) in bytes.chunks_exact(format.bytes()).enumerate() {
            let (row, column) = (index / blocks, index % blocks);
            let tile = &mut tiles[row / ROWS * blocks + column];
            let lane = row % ROWS;
            let (scale, offset, numbers) = format.read(block);
            tile.scales[lane] = scale;
            tile.offsets[lane] = offset;
            for (at, number) in numbers.into_iter().enumerate() {
                tile.quants[(at / QUAD * ROWS + lane) * QUAD + at % QUAD] = number;
            }
        }
        Some(Self { tiles, rows, columns })
    }

    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> u64 {
        Self::bytes_of(self.rows, self.columns)
    }

    /// Bytes that a matrix of this shape takes, whatever its format.
    pub(crate) fn bytes_of(rows: usize, columns: usize) -> u64 {
        (rows.div_ceil(ROWS) * (columns / BLOCK) * size_of::<Tile>()) as u64
    }

    /// Appends row `row` to `out`.
    ///
    /// # Panics
    ///
    /// If there is no such row.
    pub(crate) fn append_row(&self, row: usize, out: &mut Vec<f32>) {
        assert!(row < self.rows);
        let blocks = self.columns / BLOCK;
        let lane = row % ROWS;
        for tile in &self.tiles[row / ROWS * blocks..][..blocks] {
            let numbers = (0..BLOCK).map(|at| tile.quants[(at / QUAD * ROWS + lane) * QUAD + at % QUAD]);
            out.extend(numbers.map(|q| tile.scales[lane] * f32::from(q) + tile.offsets[lane]));
        }
    }

    /// `activations * matrix^T`, `[tokens][rows]`, on all threads of the compute pool.
    ///
    /// # Panics
    ///
    /// If the activations have another width than the matrix.
    pub(crate) fn multiply(&self, level: Level, activations: &BlockActivations) -> Vec<f32> {
        let (blocks, tokens) = (activations.blocks, activations.tokens);
        assert!(blocks * BLOCK == self.columns);
        let strips = self.tiles.len().checked_div(blocks).unwrap_or(0);
        // Strip by strip, so that each unit of work owns one contiguous part.
        let mut by_strip = vec![0f32; strips * tokens * ROWS];
        let ends: Vec<usize> = (1..=strips).map(|strip| strip * tokens * ROWS).collect();
        for_each_part_mut(&mut by_strip, &ends, |strip, out| {
            multiply_strip(level, &self.tiles[strip * blocks..][..blocks], activations, out);
        });
        let mut out = Vec::with_capacity(tokens * self.rows);
        for token in 0..tokens {
            for strip in 0..strips {
                let keep = ROWS.min(self.rows - strip * ROWS);
                out.extend_from_slice(&by_strip[(strip * tokens + token) * ROWS..][..keep]);
            }
        }
        out
    }
}

impl BlockActivations {
    /// Rounds `input`, `[tokens][columns]`.
    ///
    /// # Panics
    ///
    /// If `columns` is no multiple of 32 or does not divide the input.
    pub(crate) fn new(level: Level, input: &[f32], columns: usize) -> Self {
        assert!(columns.is_multiple_of(BLOCK) && columns > 0 && input.len().is_multiple_of(columns));
        let count = input.len() / BLOCK;
        let mut activations = Self {
            planes: vec![0; input.len() * 2],
            scales: vec![0.0; count],
            sums: vec![0.0; count],
            blocks: columns / BLOCK,
            tokens: input.len() / columns,
        };
        round(level, input, &mut activations);
        activations
    }
}

/// One strip of 16 matrix rows; `out` is `[tokens][16]`.
fn multiply_strip(level: Level, strip: &[Tile], activations: &BlockActivations, out: &mut [f32]) {
    assert!(out.len() == activations.tokens * ROWS && strip.len() == activations.blocks);
    #[cfg(target_arch = "x86_64")]
    if level == Level::Avx512 && is_x86_feature_detected!("avx512vnni") {
        super::blocks_vnni::multiply_strip(strip, activations, out);
        return;
    }
    strip_product(level, strip, activations, out);
}

#[inline(always)]
fn round_body(input: &[f32], out: &mut BlockActivations) {
    let blocks = input.chunks_exact(BLOCK).zip(out.planes.chunks_exact_mut(2 * BLOCK));
    for ((block, planes), (scale, sum)) in blocks.zip(out.scales.iter_mut().zip(&mut out.sums)) {
        let mut most = 0f32;
        for value in block {
            most = if value.abs() > most { value.abs() } else { most };
        }
        let inverse = if most > 0.0 { ACTIVATION_MAX / most } else { 0.0 };
        *scale = most / ACTIVATION_MAX;
        let mut total = 0;
        for index in 0..BLOCK {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "within ±16256 by the scale; a NaN becomes 0"
            )]
            let rounded = (block[index] * inverse).round_ties_even() as i32;
            let high = (rounded + 64) >> 7;
            #[expect(clippy::cast_possible_truncation, reason = "high is within ±127, low within -64..64")]
            {
                planes[index] = high as i8;
                planes[BLOCK + index] = (rounded - high * 128) as i8;
            }
            total += rounded;
        }
        *sum = *scale * total as f32;
    }
}

#[inline(always)]
fn strip_product_body(strip: &[Tile], activations: &BlockActivations, out: &mut [f32]) {
    for (token, out) in out.chunks_exact_mut(ROWS).enumerate() {
        let mut sums = [0f32; ROWS];
        for (index, tile) in strip.iter().enumerate() {
            let block = token * activations.blocks + index;
            let planes = &activations.planes[block * 2 * BLOCK..][..2 * BLOCK];
            let mut dots = [0i32; ROWS];
            for quad in 0..BLOCK / QUAD {
                let quants = &tile.quants[quad * ROWS * QUAD..][..ROWS * QUAD];
                for column in 0..QUAD {
                    let at = quad * QUAD + column;
                    let value = i32::from(planes[at]) * 128 + i32::from(planes[BLOCK + at]);
                    for row in 0..ROWS {
                        dots[row] += i32::from(quants[row * QUAD + column]) * value;
                    }
                }
            }
            let (scale, sum) = (activations.scales[block], activations.sums[block]);
            for row in 0..ROWS {
                sums[row] += tile.scales[row] * scale * dots[row] as f32 + tile.offsets[row] * sum;
            }
        }
        out.copy_from_slice(&sums);
    }
}

for_every_level! {
    /// Rounds activations block by block into `out`, which has their size.
    round, round_avx512, round_avx2, round_body,
    (input: &[f32], out: &mut BlockActivations)
}
for_every_level! {
    /// The product with one strip without special instructions.
    strip_product, strip_product_avx512, strip_product_avx2, strip_product_body,
    (strip: &[Tile], activations: &BlockActivations, out: &mut [f32])
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::{GgmlDType, QTensor};
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::support::Random;

    #[test]
    fn every_format_is_held_exactly_and_multiplies_as_the_dense_matrix_does() {
        let formats = [
            (BlockFormat::Q4_0, GgmlDType::Q4_0),
            (BlockFormat::Q4_1, GgmlDType::Q4_1),
            (BlockFormat::Q5_0, GgmlDType::Q5_0),
            (BlockFormat::Q5_1, GgmlDType::Q5_1),
            (BlockFormat::Q8_0, GgmlDType::Q8_0),
        ];
        let mut random = Random(11);
        for (format, dtype) in formats {
            for (rows, columns) in [(16, 32), (21, 96), (48, 576)] {
                let numbers: Vec<f32> = (0..rows * columns).map(|_| random.signed()).collect();
                let dense = Tensor::from_vec(numbers, (rows, columns), &Device::Cpu).unwrap();
                let stored = QTensor::quantize(&dense, dtype).unwrap();
                let exact: Vec<f32> =
                    stored.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap();
                let matrix = BlockMatrix::new(format, &stored.data().unwrap(), rows, columns).unwrap();
                let mut held = Vec::new();
                (0..rows).for_each(|row| matrix.append_row(row, &mut held));
                for (held, exact) in held.iter().zip(&exact) {
                    assert!((held - exact).abs() < 1e-6, "{format:?}");
                }
                for level in Level::available() {
                    for tokens in [1, 2, 5, 6, 13] {
                        // One number far larger than its neighbours, as real models have.
                        let mut input: Vec<f32> = (0..tokens * columns).map(|_| random.signed()).collect();
                        input[7] = 60.0;
                        let activations = BlockActivations::new(level, &input, columns);
                        let out = matrix.multiply(level, &activations);
                        for (index, got) in out.iter().enumerate() {
                            let (token, row) = (index / rows, index % rows);
                            let wanted: f32 = input[token * columns..][..columns]
                                .iter()
                                .zip(&exact[row * columns..][..columns])
                                .map(|(a, b)| a * b)
                                .sum();
                            assert!((got - wanted).abs() < 0.02, "{level:?} {format:?}: {got} {wanted}");
                        }
                    }
                }
            }
        }
        assert!(BlockMatrix::new(BlockFormat::Q8_0, &[0; 34], 1, 48).is_none());
        assert!(BlockMatrix::new(BlockFormat::Q8_0, &[0; 33], 1, 32).is_none());
    }
}
