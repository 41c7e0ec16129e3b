//! The product with one strip of 16 matrix rows with AVX512-VNNI: one instruction multiplies four columns of all 16
//! rows, and up to six tokens share each load of weights.

#![expect(clippy::indexing_slicing, reason = "lengths are asserted once per call")]
#![expect(
    unsafe_code,
    reason = "vector instructions behind run-time detection, on pointers into checked slices"
)]

use std::arch::x86_64::{
    _mm512_add_epi32, _mm512_cvtepi32_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_mul_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_setzero_si512, _mm512_slli_epi32, _mm512_storeu_ps,
};

use super::blocks::{BLOCK, BlockActivations, QUAD, ROWS, Tile};

/// Tokens that share the loads of weights; with two sums of integers each they fill the registers.
const TOKENS_MAX: usize = 6;

/// `out` (`[tokens][16]`) becomes the product of all tokens with `strip`. The caller has detected AVX-512 F, BW, VL,
/// DQ and VNNI.
pub(super) fn multiply_strip(strip: &[Tile], activations: &BlockActivations, out: &mut [f32]) {
    let tokens = out.len() / ROWS;
    assert!(strip.len() == activations.blocks && out.len() == tokens * ROWS);
    assert!(activations.planes.len() == tokens * strip.len() * 2 * BLOCK);
    assert!(
        activations.scales.len() == tokens * strip.len() && activations.sums.len() == tokens * strip.len()
    );
    let mut token = 0;
    while token < tokens {
        let take = (tokens - token).min(TOKENS_MAX);
        // SAFETY: the caller's detection, and `token + take` does not pass the last token.
        unsafe {
            match take {
                1 => some_tokens::<1>(strip, activations, token, out),
                2 => some_tokens::<2>(strip, activations, token, out),
                3 => some_tokens::<3>(strip, activations, token, out),
                4 => some_tokens::<4>(strip, activations, token, out),
                5 => some_tokens::<5>(strip, activations, token, out),
                _ => some_tokens::<TOKENS_MAX>(strip, activations, token, out),
            }
        }
        token += take;
    }
}

/// SAFETY: needs the instructions named, the lengths that [`multiply_strip`] asserts, and tokens
/// `start..start + TOKENS` to exist.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")]
unsafe fn some_tokens<const TOKENS: usize>(
    strip: &[Tile],
    activations: &BlockActivations,
    start: usize,
    out: &mut [f32],
) {
    let blocks = strip.len();
    let planes =
        activations.planes[start * blocks * 2 * BLOCK..(start + TOKENS) * blocks * 2 * BLOCK].as_ptr();
    let mut sums = [_mm512_setzero_ps(); TOKENS];
    for (index, tile) in strip.iter().enumerate() {
        let mut high = [_mm512_setzero_si512(); TOKENS];
        let mut low = [_mm512_setzero_si512(); TOKENS];
        for quad in 0..BLOCK / QUAD {
            // SAFETY: a tile's numbers are eight quads of 64 bytes.
            let weights = unsafe { _mm512_loadu_si512(tile.quants.as_ptr().add(quad * ROWS * QUAD).cast()) };
            for token in 0..TOKENS {
                // SAFETY: token and block are in range by the contract, the two reads of 4 bytes stay within the
                // block's 64; neither needs alignment.
                let (first, second) = unsafe {
                    let block = planes.add((token * blocks + index) * 2 * BLOCK + quad * QUAD);
                    (block.cast::<i32>().read_unaligned(), block.add(BLOCK).cast::<i32>().read_unaligned())
                };
                high[token] = _mm512_dpbusd_epi32(high[token], weights, _mm512_set1_epi32(first));
                low[token] = _mm512_dpbusd_epi32(low[token], weights, _mm512_set1_epi32(second));
            }
        }
        // SAFETY: both arrays have 16 numbers.
        let (scales, offsets) =
            unsafe { (_mm512_loadu_ps(tile.scales.as_ptr()), _mm512_loadu_ps(tile.offsets.as_ptr())) };
        for token in 0..TOKENS {
            let block = (start + token) * blocks + index;
            let dot = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32::<7>(high[token]), low[token]));
            let scale = _mm512_mul_ps(scales, _mm512_set1_ps(activations.scales[block]));
            let offset = _mm512_fmadd_ps(offsets, _mm512_set1_ps(activations.sums[block]), sums[token]);
            sums[token] = _mm512_fmadd_ps(dot, scale, offset);
        }
    }
    for (sum, out) in sums.iter().zip(out[start * ROWS..(start + TOKENS) * ROWS].chunks_exact_mut(ROWS)) {
        // SAFETY: each piece has 16 numbers.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), *sum) };
    }
}
