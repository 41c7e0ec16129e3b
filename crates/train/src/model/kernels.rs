//! The elementwise parts of the network, forward and backward, written so that the compiler vectorises them.

#![expect(
    clippy::indexing_slicing,
    reason = "numeric kernels over slices whose lengths are checked by their callers"
)]

const LANES: usize = 16;

/// Sum of `a[i] * b[i]`, in sixteen partial sums.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

fn sum(values: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            sums[lane] += chunk[lane];
        }
    }
    sums.iter().sum::<f32>() + rest.iter().sum::<f32>()
}

fn maximum(values: &[f32]) -> f32 {
    let mut largest = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = values.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            largest[lane] = if chunk[lane] > largest[lane] { chunk[lane] } else { largest[lane] };
        }
    }
    largest.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// e to the `x`; the relative error is a few 1e-7 near zero and grows with the size of `x`: two to the integer part by the exponent's bits, two to the fraction by
/// its Taylor polynomial of degree six.
#[inline]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer that stands in the low bits of the sum.
    const ROUNDER: f32 = 12_582_912.0;
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 87.0 { 87.0 } else { x };
    let power = x * std::f32::consts::LOG2_E;
    let rounded = power + ROUNDER;
    let f = power - (rounded - ROUNDER);
    let polynomial = 1.0
        + f * (std::f32::consts::LN_2
            + f * (0.240_226_5
                + f * (0.055_504_11 + f * (0.009_618_129 + f * (0.001_333_356 + f * 0.000_154_035_3)))));
    polynomial * f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23))
}

/// Turns the first `visible` scores of a row into probabilities of `scale * score` and the rest into zero.
pub(crate) fn softmax_row(row: &mut [f32], visible: usize, scale: f32) {
    let (seen, hidden) = row.split_at_mut(visible);
    let largest = maximum(seen);
    for value in seen.iter_mut() {
        *value = exp((*value - largest) * scale);
    }
    let inverse = 1.0 / sum(seen);
    for value in seen.iter_mut() {
        *value *= inverse;
    }
    hidden.fill(0.0);
}

/// Gradient of [`softmax_row`] in place: `gradient` holds the gradient of the probabilities and becomes that of the
/// scores.
pub(crate) fn softmax_row_backward(probabilities: &[f32], gradient: &mut [f32], visible: usize, scale: f32) {
    let (seen, hidden) = gradient.split_at_mut(visible);
    let mean = dot(&probabilities[..visible], seen);
    for (gradient, probability) in seen.iter_mut().zip(probabilities) {
        *gradient = scale * probability * (*gradient - mean);
    }
    hidden.fill(0.0);
}

/// RMS norm (Zhang and Sennrich 2019) of rows of `gain.len()`; keeps one over the root mean square of each row.
pub(crate) fn rms_norm(x: &[f32], gain: &[f32], epsilon: f32, inverse: &mut [f32], out: &mut [f32]) {
    let width = gain.len();
    for ((x, out), inverse) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)).zip(inverse) {
        *inverse = 1.0 / (dot(x, x) / width as f32 + epsilon).sqrt();
        for ((out, x), gain) in out.iter_mut().zip(x).zip(gain) {
            *out = x * *inverse * gain;
        }
    }
}

/// Gradient of [`rms_norm`]: adds to `x_gradient` and `gain_gradient`.
pub(crate) fn rms_norm_backward(
    x: &[f32],
    gain: &[f32],
    inverse: &[f32],
    out_gradient: &[f32],
    x_gradient: &mut [f32],
    gain_gradient: &mut [f32],
) {
    let width = gain.len();
    let mut scaled = vec![0.0f32; width];
    let rows =
        x.chunks_exact(width).zip(out_gradient.chunks_exact(width)).zip(x_gradient.chunks_exact_mut(width));
    for (((x, dy), dx), &inverse) in rows.zip(inverse) {
        for i in 0..width {
            gain_gradient[i] += dy[i] * x[i] * inverse;
            scaled[i] = dy[i] * gain[i];
        }
        let pull = dot(&scaled, x) * inverse * inverse * inverse / width as f32;
        for i in 0..width {
            dx[i] += scaled[i] * inverse - x[i] * pull;
        }
    }
}

/// `silu(gate) * up` (Shazeer 2020); a row of `gate_up` holds the gate, then the up part.
pub(crate) fn swiglu(gate_up: &[f32], ffn: usize, out: &mut [f32]) {
    for (row, out) in gate_up.chunks_exact(2 * ffn).zip(out.chunks_exact_mut(ffn)) {
        let (gate, up) = row.split_at(ffn);
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = gate / (1.0 + exp(-gate)) * up;
        }
    }
}

/// Gradient of [`swiglu`] in place of its input.
pub(crate) fn swiglu_backward(gate_up: &mut [f32], ffn: usize, out_gradient: &[f32]) {
    for (row, out_gradient) in gate_up.chunks_exact_mut(2 * ffn).zip(out_gradient.chunks_exact(ffn)) {
        let (gate, up) = row.split_at_mut(ffn);
        for ((gate, up), dy) in gate.iter_mut().zip(up).zip(out_gradient) {
            let sigmoid = 1.0 / (1.0 + exp(-*gate));
            let silu = *gate * sigmoid;
            let slope = sigmoid * (1.0 + *gate * (1.0 - sigmoid));
            *gate = dy * *up * slope;
            *up = dy * silu;
        }
    }
}

/// Sines and cosines of the rotary embedding (Su et al. 2021) for every position and pair of a head.
#[derive(Debug, Clone)]
pub(crate) struct Rope {
    head: usize,
    /// `[positions, head / 2]` pairs of cosine and sine.
    table: Vec<(f32, f32)>,
}

impl Rope {
    pub(crate) fn new(positions: usize, head: usize, base: f32) -> Self {
        let table = (0..positions)
            .flat_map(|position| {
                (0..head / 2).map(move |pair| {
                    let angle = position as f32 * base.powf(-2.0 * pair as f32 / head as f32);
                    (angle.cos(), angle.sin())
                })
            })
            .collect();
        Self { head, table }
    }

    /// Turns neighbouring pairs (the interleaved form of Llama GGUF files) of all heads in `row` by the angles of
    /// `position`; `direction` is 1 forward and −1 for the gradient.
    pub(crate) fn rotate(&self, row: &mut [f32], position: usize, direction: f32) {
        let pairs = self.head / 2;
        let angles = &self.table[position * pairs..(position + 1) * pairs];
        for head in row.chunks_exact_mut(self.head) {
            for (pair, (cosine, sine)) in head.as_chunks_mut::<2>().0.iter_mut().zip(angles) {
                let [a, b] = *pair;
                let sine = sine * direction;
                *pair = [a * cosine - b * sine, a * sine + b * cosine];
            }
        }
    }
}

/// Residual dropout without stored masks: what is kept follows from a hash of seed, site and index.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dropout {
    /// A seed of this micro-batch.
    pub(crate) seed: u64,
    /// How many of 256 values are dropped; 0 drops none.
    pub(crate) dropped_of_256: u8,
}

impl Dropout {
    /// Multiplies `values` with the mask of `site`: 0, or one over the share that is kept.
    pub(crate) fn apply(self, values: &mut [f32], site: u64) {
        if self.dropped_of_256 == 0 {
            return;
        }
        let scale = 256.0 / (256.0 - f32::from(self.dropped_of_256));
        let base = self.seed ^ site.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        for (index, chunk) in (0u64..).zip(values.chunks_mut(8)) {
            // SplitMix64 (Steele et al. 2014) as a counter-based generator; each byte decides about one value.
            let mut bits = base.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            let bytes = (bits ^ (bits >> 31)).to_le_bytes();
            for (value, byte) in chunk.iter_mut().zip(bytes) {
                *value = if byte < self.dropped_of_256 { 0.0 } else { *value * scale };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fast_exponential_stays_close() {
        for step in -8000..8000 {
            let x = step as f32 * 0.01;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 5e-6 * (1.0 + f64::from(x.abs())), "at {x}");
        }
    }

    #[test]
    fn dropout_keeps_the_mean_and_repeats_itself() {
        let dropout = Dropout { seed: 7, dropped_of_256: 26 };
        let mut first = vec![1.0; 100_000];
        dropout.apply(&mut first, 3);
        assert!((sum(&first) / 100_000.0 - 1.0).abs() < 0.01);
        let mut second = vec![1.0; 100_000];
        dropout.apply(&mut second, 3);
        assert_eq!(first, second);
    }
}
