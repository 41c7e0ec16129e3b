//! Attention over one page with AVX-512: keys and values are widened in registers, and up to six query rows share
//! each load.

#![expect(clippy::indexing_slicing, reason = "lengths are checked by the caller and asserted once per call")]
#![expect(
    unsafe_code,
    reason = "vector instructions behind run-time detection, on pointers into checked slices"
)]

use std::arch::x86_64::{
    __m512, _mm256_loadu_si256, _mm512_add_ps, _mm512_cvtph_ps, _mm512_fmadd_ps, _mm512_fnmadd_ps,
    _mm512_loadu_ps, _mm512_mask_mul_ps, _mm512_maskz_mov_ps, _mm512_max_ps, _mm512_min_ps, _mm512_mul_ps,
    _mm512_reduce_add_ps, _mm512_reduce_max_ps, _mm512_roundscale_ps, _mm512_scalef_ps, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_storeu_ps, _mm512_sub_ps,
};

use half::f16;

use super::BLOCK_TOKENS;
use super::attention::{AttentionRows, RowStates};

/// Numbers in one vector.
const LANES: usize = 16;
/// Query rows that share the loads of one page, for heads of at most 64 numbers; more would not fit in registers.
const ROWS_MAX: usize = 6;

/// Whether heads of `head_size` numbers have a kernel here.
pub(super) fn takes(head_size: usize) -> bool {
    matches!(head_size, 16 | 32 | 48 | 64 | 80 | 96 | 128 | 256)
}

/// Takes one page into `states`. `first` is the sequence position that the page begins with. The caller has
/// detected AVX-512 F, BW, VL and DQ and F16C.
pub(super) fn block(
    rows: &AttentionRows<'_>,
    states: &mut RowStates,
    keys: &[f16],
    values: &[f16],
    first: usize,
) {
    let (count, head) = (rows.lengths.len(), rows.head_size);
    assert!(rows.data.len() == count * head && states.values.len() == count * head);
    assert!(states.max.len() == count && states.sum.len() == count);
    assert!(keys.len() == BLOCK_TOKENS * head && values.len() == BLOCK_TOKENS * head);
    // SAFETY: `attend` calls this only at `Level::Avx512`, so the instructions exist, and only for head sizes that
    // `takes`; each arm's number of vectors times 16 is the head size that the slices were just checked against.
    unsafe {
        match head / LANES {
            1 => all_rows::<1>(rows, states, keys, values, first),
            2 => all_rows::<2>(rows, states, keys, values, first),
            3 => all_rows::<3>(rows, states, keys, values, first),
            4 => all_rows::<4>(rows, states, keys, values, first),
            5 => all_rows::<5>(rows, states, keys, values, first),
            6 => all_rows::<6>(rows, states, keys, values, first),
            8 => all_rows::<8>(rows, states, keys, values, first),
            16 => all_rows::<16>(rows, states, keys, values, first),
            _ => unreachable!("head sizes are filtered by `takes`"),
        }
    }
}

/// SAFETY: needs the instructions named, and slices of the lengths that [`block`] checks with `VECTORS * 16` as head
/// size.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")]
unsafe fn all_rows<const VECTORS: usize>(
    rows: &AttentionRows<'_>,
    states: &mut RowStates,
    keys: &[f16],
    values: &[f16],
    first: usize,
) {
    let at_once = if VECTORS <= 4 {
        ROWS_MAX
    } else if VECTORS <= 8 {
        3
    } else {
        1
    };
    let mut row = 0;
    while row < rows.lengths.len() {
        let take = (rows.lengths.len() - row).min(at_once);
        // SAFETY: `row + take` does not pass the last row, and the rest is this function's own contract.
        unsafe {
            match take {
                1 => some_rows::<1, VECTORS>(rows, states, row, keys, values, first),
                2 => some_rows::<2, VECTORS>(rows, states, row, keys, values, first),
                3 => some_rows::<3, VECTORS>(rows, states, row, keys, values, first),
                4 => some_rows::<4, VECTORS>(rows, states, row, keys, values, first),
                5 => some_rows::<5, VECTORS>(rows, states, row, keys, values, first),
                _ => some_rows::<ROWS_MAX, VECTORS>(rows, states, row, keys, values, first),
            }
        }
        row += take;
    }
}

/// SAFETY: as for [`all_rows`]; besides, rows `start..start + ROWS` must exist.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")]
unsafe fn some_rows<const ROWS: usize, const VECTORS: usize>(
    rows: &AttentionRows<'_>,
    states: &mut RowStates,
    start: usize,
    keys: &[f16],
    values: &[f16],
    first: usize,
) {
    let head = VECTORS * LANES;
    let seen: [usize; ROWS] =
        std::array::from_fn(|r| rows.lengths[start + r].saturating_sub(first).min(BLOCK_TOKENS));
    if seen == [0; ROWS] {
        return;
    }
    let queries = rows.data[start * head..(start + ROWS) * head].as_ptr();
    let (keys, values) = (keys.as_ptr(), values.as_ptr());

    // SAFETY (all pointer arithmetic below): queries and sums have ROWS * head numbers from their start, keys and
    // values have BLOCK_TOKENS * head, and every offset is a row below ROWS, a position below BLOCK_TOKENS, a number
    // below head.
    let mut low = [_mm512_setzero_ps(); ROWS];
    let mut high = [_mm512_setzero_ps(); ROWS];
    for d in 0..head {
        let (key_low, key_high) =
            unsafe { (widen(keys.add(d * BLOCK_TOKENS)), widen(keys.add(d * BLOCK_TOKENS + LANES))) };
        for r in 0..ROWS {
            let query = _mm512_set1_ps(unsafe { *queries.add(r * head + d) });
            low[r] = _mm512_fmadd_ps(query, key_low, low[r]);
            high[r] = _mm512_fmadd_ps(query, key_high, high[r]);
        }
    }

    let mut weights = [[0f32; BLOCK_TOKENS]; ROWS];
    let scale = _mm512_set1_ps(rows.scale);
    let nothing = _mm512_set1_ps(f32::NEG_INFINITY);
    let sums = states.values[start * head..(start + ROWS) * head].as_mut_ptr();
    for r in 0..ROWS {
        if seen[r] == 0 {
            continue;
        }
        let bits = u32::MAX >> (BLOCK_TOKENS - seen[r]);
        let (mask_low, mask_high) = ((bits & 0xFFFF) as u16, (bits >> 16) as u16);
        let score_low = _mm512_mask_mul_ps(nothing, mask_low, low[r], scale);
        let score_high = _mm512_mask_mul_ps(nothing, mask_high, high[r], scale);
        let old_max = states.max[start + r];
        let max = old_max.max(_mm512_reduce_max_ps(_mm512_max_ps(score_low, score_high)));
        let shift = _mm512_set1_ps(max);
        let weight_low = _mm512_maskz_mov_ps(mask_low, exp(_mm512_sub_ps(score_low, shift)));
        let weight_high = _mm512_maskz_mov_ps(mask_high, exp(_mm512_sub_ps(score_high, shift)));
        unsafe {
            _mm512_storeu_ps(weights[r].as_mut_ptr(), weight_low);
            _mm512_storeu_ps(weights[r].as_mut_ptr().add(LANES), weight_high);
        }
        let keep = if old_max == f32::NEG_INFINITY { 0.0 } else { (old_max - max).exp() };
        states.sum[start + r] =
            states.sum[start + r] * keep + _mm512_reduce_add_ps(_mm512_add_ps(weight_low, weight_high));
        states.max[start + r] = max;
        if old_max < max {
            let keep = _mm512_set1_ps(keep);
            for vector in 0..VECTORS {
                unsafe {
                    let place = sums.add(r * head + vector * LANES);
                    _mm512_storeu_ps(place, _mm512_mul_ps(_mm512_loadu_ps(place), keep));
                }
            }
        }
    }

    let mut out = [[_mm512_setzero_ps(); VECTORS]; ROWS];
    for (r, out) in out.iter_mut().enumerate() {
        for (vector, out) in out.iter_mut().enumerate() {
            *out = unsafe { _mm512_loadu_ps(sums.add(r * head + vector * LANES)) };
        }
    }
    // Positions that no row sees hold whatever was there before; zero times that may be no number.
    let most = seen.iter().copied().max().unwrap_or(0);
    for position in 0..most {
        let mut value = [_mm512_setzero_ps(); VECTORS];
        for (vector, value) in value.iter_mut().enumerate() {
            *value = unsafe { widen(values.add(position * head + vector * LANES)) };
        }
        for (out, weights) in out.iter_mut().zip(&weights) {
            let weight = _mm512_set1_ps(weights[position]);
            for (out, value) in out.iter_mut().zip(&value) {
                *out = _mm512_fmadd_ps(weight, *value, *out);
            }
        }
    }
    for (r, out) in out.iter().enumerate() {
        for (vector, out) in out.iter().enumerate() {
            unsafe { _mm512_storeu_ps(sums.add(r * head + vector * LANES), *out) };
        }
    }
}

/// SAFETY: 16 numbers must be readable at `from`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")]
#[inline]
unsafe fn widen(from: *const f16) -> __m512 {
    // SAFETY: the caller's; the load needs no alignment.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(from.cast()) })
}

/// e^x, as [`super::vector::exp`] in form and accuracy.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")]
#[inline]
fn exp(x: __m512) -> __m512 {
    let x = _mm512_max_ps(_mm512_min_ps(x, _mm512_set1_ps(88.0)), _mm512_set1_ps(-87.0));
    let whole = _mm512_roundscale_ps::<0>(_mm512_mul_ps(x, _mm512_set1_ps(std::f32::consts::LOG2_E)));
    let rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(0.693_359_4), x);
    let rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(-2.121_944_4e-4), rest);
    let mut sum = _mm512_set1_ps(1.987_569_1e-4);
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(coefficient));
    }
    let mantissa = _mm512_add_ps(_mm512_fmadd_ps(sum, _mm512_mul_ps(rest, rest), rest), _mm512_set1_ps(1.0));
    _mm512_scalef_ps(mantissa, whole)
}
