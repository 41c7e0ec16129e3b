//! Loops over rows of numbers. Written so that the compiler turns them into vector instructions: fixed lanes for
//! sums, no calls inside loops.

#![expect(
    clippy::indexing_slicing,
    reason = "lengths are checked once per call, bounds checks stop vectorisation"
)]
#![expect(
    clippy::inline_always,
    reason = "a body takes on the instruction set of the function it is inlined into"
)]

use super::for_every_level;

const LANES: usize = 16;

/// e^x with a relative error of about 1e-7, for x clamped to [-87, 88]: Cody-Waite reduction and the polynomial of
/// Cephes' `expf`.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// 1.5 * 2^23: adding it rounds to an integer that stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let power = shifted.to_bits().wrapping_sub(ROUND.to_bits());
    let rest = x - whole * 0.693_359_4 + whole * 2.121_944_4e-4;
    let mut sum = 1.987_569_1e-4;
    sum = sum * rest + 1.398_199_9e-3;
    sum = sum * rest + 8.333_452e-3;
    sum = sum * rest + 4.166_579_6e-2;
    sum = sum * rest + 1.666_666_5e-1;
    sum = sum * rest + 0.5;
    let mantissa = sum * rest * rest + rest + 1.0;
    mantissa * f32::from_bits(power.wrapping_add(127) << 23)
}

#[inline(always)]
fn rms_norm_body(row: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    assert!(row.len() == weight.len() && row.len() == out.len());
    let mut lanes = [0f32; LANES];
    let whole = row.len() / LANES * LANES;
    for chunk in row[..whole].chunks_exact(LANES) {
        for lane in 0..LANES {
            lanes[lane] += chunk[lane] * chunk[lane];
        }
    }
    let mut squares: f32 = lanes.iter().sum();
    for value in &row[whole..] {
        squares += value * value;
    }
    let scale = 1.0 / (squares / row.len() as f32 + epsilon).sqrt();
    for index in 0..row.len() {
        out[index] = row[index] * scale * weight[index];
    }
}

#[inline(always)]
fn silu_multiply_body(gate: &mut [f32], up: &[f32]) {
    assert!(gate.len() == up.len());
    for index in 0..gate.len() {
        let value = gate[index];
        gate[index] = value / (1.0 + exp(-value)) * up[index];
    }
}

#[inline(always)]
fn add_assign_body(sum: &mut [f32], term: &[f32]) {
    assert!(sum.len() == term.len());
    for index in 0..sum.len() {
        sum[index] += term[index];
    }
}

#[inline(always)]
fn rope_body(heads: &mut [f32], head_size: usize, cos: &[f32], sin: &[f32]) {
    assert!(heads.len().is_multiple_of(head_size) && cos.len() == sin.len() && 2 * cos.len() <= head_size);
    for head in heads.chunks_exact_mut(head_size) {
        for pair in 0..cos.len() {
            let (even, odd) = (head[2 * pair], head[2 * pair + 1]);
            head[2 * pair] = even * cos[pair] - odd * sin[pair];
            head[2 * pair + 1] = even * sin[pair] + odd * cos[pair];
        }
    }
}

#[inline(always)]
fn max_value_body(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let whole = values.len() / LANES * LANES;
    for chunk in values[..whole].chunks_exact(LANES) {
        for lane in 0..LANES {
            lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
        }
    }
    lanes.iter().chain(&values[whole..]).copied().fold(f32::NEG_INFINITY, f32::max)
}

#[inline(always)]
fn exp_sum_body(values: &[f32], max: f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let whole = values.len() / LANES * LANES;
    for chunk in values[..whole].chunks_exact(LANES) {
        for lane in 0..LANES {
            lanes[lane] += exp(chunk[lane] - max);
        }
    }
    let mut sum: f32 = lanes.iter().sum();
    for value in &values[whole..] {
        sum += exp(value - max);
    }
    sum
}

#[inline(always)]
fn softmax_weights_body(logits: &[f32], max: f32, inverse_temperature: f32, weights: &mut [f32]) -> f64 {
    assert!(logits.len() == weights.len());
    for index in 0..logits.len() {
        let exponent = (logits[index] - max) * inverse_temperature;
        let weight = exp(exponent);
        // What `exp` clamps, impossible tokens above all, gets exactly nothing.
        weights[index] = if exponent < -87.0 { 0.0 } else { weight };
    }
    let mut lanes = [0f64; LANES];
    let whole = weights.len() / LANES * LANES;
    for chunk in weights[..whole].chunks_exact(LANES) {
        for lane in 0..LANES {
            lanes[lane] += f64::from(chunk[lane]);
        }
    }
    lanes.iter().sum::<f64>() + weights[whole..].iter().copied().map(f64::from).sum::<f64>()
}

for_every_level! {
    /// Root mean square norm (Zhang and Sennrich 2019): `out = row / sqrt(mean(row²) + epsilon) * weight`.
    rms_norm, rms_norm_avx512, rms_norm_avx2, rms_norm_body,
    (row: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32])
}
for_every_level! {
    /// The gate of SwiGLU (Shazeer 2020): `gate = gate * sigmoid(gate) * up`.
    silu_multiply, silu_multiply_avx512, silu_multiply_avx2, silu_multiply_body,
    (gate: &mut [f32], up: &[f32])
}
for_every_level! {
    /// `sum += term`.
    add_assign, add_assign_avx512, add_assign_avx2, add_assign_body,
    (sum: &mut [f32], term: &[f32])
}
for_every_level! {
    /// Rotary positions (Su et al. 2021) in GGUF's Llama layout: neighbours `(2i, 2i+1)` of each head turn by the
    /// angle whose cosine and sine are given. Elements of a head past the pairs given stay as they are.
    rope_interleaved, rope_avx512, rope_avx2, rope_body,
    (heads: &mut [f32], head_size: usize, cos: &[f32], sin: &[f32])
}
for_every_level! {
    /// The largest value; minus infinity of none.
    max_value, max_value_avx512, max_value_avx2, max_value_body,
    (values: &[f32]) -> f32
}
for_every_level! {
    /// The sum of `e^(value - max)`; a value of minus infinity adds less than 1e-37.
    exp_sum, exp_sum_avx512, exp_sum_avx2, exp_sum_body,
    (values: &[f32], max: f32) -> f32
}

for_every_level! {
    /// `weights = e^((logit - max) * inverse temperature)`, exactly 0 below e^-87; returns their sum.
    softmax_weights, softmax_weights_avx512, softmax_weights_avx2, softmax_weights_body,
    (logits: &[f32], max: f32, inverse_temperature: f32, weights: &mut [f32]) -> f64
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn values(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        (0..count)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / 16_777_216.0 * 8.0 - 4.0
            })
            .collect()
    }

    fn near(a: f32, b: f32) -> bool {
        (a - b).abs() <= 2e-6 * (1.0 + a.abs())
    }

    #[test]
    fn the_exponential_agrees_with_the_standard_library() {
        for step in -8700..8800 {
            let x = step as f32 / 100.0;
            let exact = x.exp();
            assert!((exp(x) - exact).abs() <= 3e-7 * exact, "{x}: {} {exact}", exp(x));
        }
    }

    #[test]
    fn every_level_computes_what_the_plain_formula_says() {
        for level in Level::available() {
            for count in [1, 15, 16, 17, 64, 576] {
                let (row, weight) = (values(count, 1), values(count, 2));
                let mean = row.iter().map(|v| f64::from(v * v)).sum::<f64>() / count as f64;
                let mut out = vec![0.0; count];
                rms_norm(level, &row, &weight, 1e-5, &mut out);
                for index in 0..count {
                    let exact = f64::from(row[index]) / (mean + 1e-5).sqrt() * f64::from(weight[index]);
                    assert!((f64::from(out[index]) - exact).abs() < 1e-5, "{level:?}");
                }
                let mut gate = row.clone();
                silu_multiply(level, &mut gate, &weight);
                let mut sum = row.clone();
                add_assign(level, &mut sum, &weight);
                for index in 0..count {
                    assert!(near(gate[index], row[index] / (1.0 + (-row[index]).exp()) * weight[index]));
                    assert!(near(sum[index], row[index] + weight[index]));
                }
                let max = max_value(level, &row);
                assert!(row.iter().all(|value| *value <= max) && row.contains(&max));
                let exact: f32 = row.iter().map(|value| (value - max).exp()).sum();
                assert!((exp_sum(level, &row, max) - exact).abs() <= 1e-5 * exact);
            }
        }
    }

    #[test]
    fn rotation_keeps_lengths_and_leaves_the_rest_of_a_head_alone() {
        for level in Level::available() {
            let original = values(64, 3);
            let angles = values(8, 4);
            let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
            let mut turned = original.clone();
            rope_interleaved(level, &mut turned, 32, &cos, &sin);
            for (before, after) in original.chunks_exact(32).zip(turned.chunks_exact(32)) {
                assert_eq!(before[16..], after[16..]);
                for pair in 0..8 {
                    let (x, y) = (before[2 * pair], before[2 * pair + 1]);
                    assert!(near(after[2 * pair], x * cos[pair] - y * sin[pair]));
                    assert!(near(after[2 * pair + 1], x * sin[pair] + y * cos[pair]));
                }
            }
        }
    }
}
