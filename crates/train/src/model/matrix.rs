//! Views of row-major memory as matrices, and their product.
//!
//! With AVX-512 the product is our own, two and a half times as fast here as `gemm`'s, which spills its accumulators;
//! without, it is `gemm`'s. Both take raw pointers. Every view checks on construction that it lies inside its slice,
//! so the product itself cannot reach outside.

#![expect(
    unsafe_code,
    reason = "vector loads and gemm take raw pointers, MXCSR needs assembly; views are checked"
)]

#[cfg(target_arch = "x86_64")]
mod avx512;

/// A matrix that is read: element (r, c) lies at `r * row_stride + c * column_stride`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

/// A row-major matrix that is written.
#[derive(Debug)]
pub(crate) struct MatrixMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
}

fn assert_inside(length: usize, rows: usize, columns: usize, row_stride: usize) {
    assert!(columns <= row_stride || rows <= 1, "rows of a view must not overlap");
    assert!(rows == 0 || columns == 0 || (rows - 1) * row_stride + columns <= length, "view past its slice");
}

impl<'a> Matrix<'a> {
    /// All of `data` as `rows` by `columns`.
    pub(crate) fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::strided(data, rows, columns, columns)
    }

    /// `rows` by `columns`, a row every `row_stride` elements.
    pub(crate) fn strided(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert_inside(data.len(), rows, columns, row_stride);
        Self { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// The same elements with rows and columns exchanged; nothing moves.
    pub(crate) fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

impl<'a> MatrixMut<'a> {
    /// All of `data` as `rows` by `columns`.
    pub(crate) fn new(data: &'a mut [f32], rows: usize, columns: usize) -> Self {
        Self::strided(data, rows, columns, columns)
    }

    /// `rows` by `columns`, a row every `row_stride` elements.
    pub(crate) fn strided(data: &'a mut [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert_inside(data.len(), rows, columns, row_stride);
        Self { data, rows, columns, row_stride }
    }

    /// Writes `left × right`.
    pub(crate) fn set_product(self, left: Matrix<'_>, right: Matrix<'_>) {
        self.product(left, right, false);
    }

    /// Adds `left × right` to what is there.
    pub(crate) fn add_product(self, left: Matrix<'_>, right: Matrix<'_>) {
        self.product(left, right, true);
    }

    fn product(self, left: Matrix<'_>, right: Matrix<'_>, accumulate: bool) {
        assert_eq!((self.rows, self.columns), (left.rows, right.columns), "outer sizes of a product");
        assert_eq!(left.columns, right.rows, "inner sizes of a product");
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx512f") {
            // SAFETY: the instructions are there; the rest as below.
            unsafe { avx512::product(self.data, self.row_stride, &left, &right, accumulate) };
            return;
        }
        // SAFETY: the three views were checked to lie inside their slices when they were made, `self.data` is
        // borrowed mutably and so overlaps neither operand, and the strides are those of the views.
        unsafe {
            gemm::gemm(
                self.rows,
                self.columns,
                left.columns,
                self.data.as_mut_ptr(),
                1,
                self.row_stride.cast_signed(),
                accumulate,
                left.data.as_ptr(),
                left.column_stride.cast_signed(),
                left.row_stride.cast_signed(),
                right.data.as_ptr(),
                right.column_stride.cast_signed(),
                right.row_stride.cast_signed(),
                1.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    }
}

/// Makes this thread treat denormal numbers as zero (flush-to-zero and denormals-are-zero).
///
/// Gradients of well-learned tokens underflow; arithmetic on denormals is about four times slower.
pub(crate) fn flush_denormals() {
    #[cfg(target_arch = "x86_64")]
    {
        let mut control: u32 = 0;
        // SAFETY: reads and writes this thread's MXCSR only; the two bits set change rounding of denormals, which
        // no code here relies on.
        unsafe {
            std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut control, options(nostack));
            control |= 0x8040;
            std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const control, options(nostack));
        }
    }
}
