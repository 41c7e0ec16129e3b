//! The product of two matrices in AVX-512: tiles of 6 rows by 64 columns stay in 24 registers while both operands
//! stream past in packed panels (Goto and van de Geijn 2008).

#![expect(
    clippy::indexing_slicing,
    reason = "numeric kernel; slices are sized by the caller and panic if not"
)]
#![expect(clippy::many_single_char_names, reason = "the letters of the matrix product's literature")]

use std::arch::x86_64::{
    __m512, __mmask16, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps,
    _mm512_maskz_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps,
};
use std::cell::RefCell;

use super::Matrix;

/// Rows of a tile.
const TILE_ROWS: usize = 6;
/// Columns of a tile, four vectors.
const TILE_COLUMNS: usize = 64;
const VECTOR: usize = 16;
/// Inner elements packed at a time: a panel of the right operand then takes 64 KB.
const DEPTH: usize = 256;
/// Rows packed at a time: the left block then takes 96 KB of the second-level cache.
const ROW_BLOCK: usize = 16 * TILE_ROWS;

thread_local! {
    static PANELS: RefCell<(Vec<f32>, Vec<f32>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// Writes `left × right`, or adds it, to the rows of `out`.
///
/// # Safety
///
/// The processor has AVX-512F, and `out` holds `left.rows` rows of `right.columns` elements, one every `stride`.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn product(
    out: &mut [f32],
    stride: usize,
    left: &Matrix<'_>,
    right: &Matrix<'_>,
    add: bool,
) {
    let (m, n, k) = (left.rows, right.columns, left.columns);
    if k == 0 && !add {
        out.chunks_mut(stride.max(1))
            .take(m)
            .for_each(|row| row.iter_mut().take(n).for_each(|value| *value = 0.0));
    }
    PANELS.with_borrow_mut(|(left_block, right_panels)| {
        let panels = n.div_ceil(TILE_COLUMNS);
        right_panels.resize(panels * DEPTH * TILE_COLUMNS, 0.0);
        left_block.resize(ROW_BLOCK * DEPTH, 0.0);
        for k_start in (0..k).step_by(DEPTH) {
            let depth = DEPTH.min(k - k_start);
            let add = add || k_start > 0;
            pack_right(right, k_start, depth, right_panels);
            for row_start in (0..m).step_by(ROW_BLOCK) {
                let rows = ROW_BLOCK.min(m - row_start);
                pack_left(left, row_start, rows, k_start, depth, left_block);
                for panel in 0..panels {
                    let column = panel * TILE_COLUMNS;
                    let columns = TILE_COLUMNS.min(n - column);
                    for tile in (0..rows).step_by(TILE_ROWS) {
                        let height = TILE_ROWS.min(rows - tile);
                        // SAFETY: the packed buffers were sized above; row `row_start + tile + height - 1` and
                        // column `column + columns - 1` of `out` exist, as the caller promises.
                        unsafe {
                            let a = left_block.as_ptr().add(tile * depth);
                            let b = right_panels.as_ptr().add(panel * DEPTH * TILE_COLUMNS);
                            let c = out.as_mut_ptr().add((row_start + tile) * stride + column);
                            tile_by_width(depth, a, b, c, stride, (height, columns), add);
                        }
                    }
                }
            }
        }
    });
}

/// Packs `depth` rows of the right operand into panels of 64 columns, missing columns as zeros.
fn pack_right(right: &Matrix<'_>, k_start: usize, depth: usize, panels: &mut [f32]) {
    let n = right.columns;
    for (index, panel) in panels.chunks_exact_mut(DEPTH * TILE_COLUMNS).enumerate() {
        let column = index * TILE_COLUMNS;
        let columns = TILE_COLUMNS.min(n.saturating_sub(column));
        if right.column_stride == 1 {
            for (k, row) in panel.chunks_exact_mut(TILE_COLUMNS).take(depth).enumerate() {
                let start = (k_start + k) * right.row_stride + column;
                row[..columns].copy_from_slice(&right.data[start..start + columns]);
                row[columns..].fill(0.0);
            }
        } else {
            if columns < TILE_COLUMNS {
                panel.fill(0.0);
            }
            for j in 0..columns {
                let start = (column + j) * right.column_stride + k_start * right.row_stride;
                let source = right.data[start..].iter().step_by(right.row_stride);
                for (value, source) in panel[j..].iter_mut().step_by(TILE_COLUMNS).take(depth).zip(source) {
                    *value = *source;
                }
            }
        }
    }
}

/// Packs a block of the left operand: six rows side by side for every inner index, missing rows as zeros.
fn pack_left(
    left: &Matrix<'_>,
    row_start: usize,
    rows: usize,
    k_start: usize,
    depth: usize,
    block: &mut [f32],
) {
    for (index, tile) in block.chunks_exact_mut(TILE_ROWS * depth).take(rows.div_ceil(TILE_ROWS)).enumerate()
    {
        let first = row_start + index * TILE_ROWS;
        let height = TILE_ROWS.min(row_start + rows - first);
        if left.row_stride == 1 {
            for (k, packed) in tile.chunks_exact_mut(TILE_ROWS).enumerate() {
                let start = (k_start + k) * left.column_stride + first;
                packed[..height].copy_from_slice(&left.data[start..start + height]);
                packed[height..].fill(0.0);
            }
        } else {
            if height < TILE_ROWS {
                tile.fill(0.0);
            }
            for row in 0..height {
                let start = (first + row) * left.row_stride + k_start * left.column_stride;
                let source = left.data[start..].iter().step_by(left.column_stride);
                for (value, source) in tile[row..].iter_mut().step_by(TILE_ROWS).take(depth).zip(source) {
                    *value = *source;
                }
            }
        }
    }
}

#[target_feature(enable = "avx512f")]
unsafe fn tile_by_width(
    depth: usize,
    a: *const f32,
    b: *const f32,
    c: *mut f32,
    stride: usize,
    (height, columns): (usize, usize),
    add: bool,
) {
    let vectors = columns.div_ceil(VECTOR);
    let last: __mmask16 = u16::MAX >> (vectors * VECTOR - columns);
    // SAFETY: as `product` promises; the width is that of the tile.
    unsafe {
        match vectors {
            1 => tile::<1>(depth, a, b, c, stride, (height, last), add),
            2 => tile::<2>(depth, a, b, c, stride, (height, last), add),
            3 => tile::<3>(depth, a, b, c, stride, (height, last), add),
            _ => tile::<4>(depth, a, b, c, stride, (height, last), add),
        }
    }
}

/// One tile of `VECTORS` vectors a row; `last` masks the columns of the last.
#[target_feature(enable = "avx512f")]
unsafe fn tile<const VECTORS: usize>(
    depth: usize,
    mut a: *const f32,
    mut b: *const f32,
    c: *mut f32,
    stride: usize,
    (height, last): (usize, __mmask16),
    add: bool,
) {
    let mut sums: [[__m512; VECTORS]; TILE_ROWS] = [[_mm512_setzero_ps(); VECTORS]; TILE_ROWS];
    // SAFETY: `a` holds six and `b` 64 elements for every inner index; rows below `height` and columns that the
    // mask lets through exist in `c`.
    unsafe {
        for _ in 0..depth {
            let mut columns = [_mm512_setzero_ps(); VECTORS];
            for (index, vector) in columns.iter_mut().enumerate() {
                *vector = _mm512_loadu_ps(b.add(index * VECTOR));
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let value = _mm512_set1_ps(*a.add(row));
                for (sum, vector) in sums.iter_mut().zip(columns) {
                    *sum = _mm512_fmadd_ps(value, vector, *sum);
                }
            }
            a = a.add(TILE_ROWS);
            b = b.add(TILE_COLUMNS);
        }
        for (row, sums) in sums.iter().enumerate() {
            if row >= height {
                break;
            }
            for (index, sum) in sums.iter().enumerate() {
                let mask = if index + 1 == VECTORS { last } else { u16::MAX };
                let place = c.add(row * stride + index * VECTOR);
                let sum = if add { _mm512_add_ps(*sum, _mm512_maskz_loadu_ps(mask, place)) } else { *sum };
                _mm512_mask_storeu_ps(place, mask, sum);
            }
        }
    }
}
