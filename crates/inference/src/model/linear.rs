//! Matrix products with quantised weights.
//!
//! candle 0.11.1 is fast only for `Q4_K`, `Q6_K` and `Q8_0` weights with rows of a multiple of 256 numbers and a
//! multiple of 16 rows: it keeps a second, tiled copy of them. So a matrix of any other shape is padded with zeros
//! at load, and one of any other quantised type becomes `Q8_0`. Floating-point weights stay exact.

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Tensor};

use crate::error::InferenceError;

/// Numbers in a block of candle's tiled kernels, along a row.
const TILE_COLUMNS: usize = 256;
/// Numbers in a block of `Q8_0`.
const BLOCK_COLUMNS: usize = 32;
/// Rows in a tile.
const TILE_ROWS: usize = 16;
/// From this many activation rows on candle may take its AMX path, which keeps a third copy of `Q4_K` weights.
pub(crate) const AMX_ROWS: usize = 32;

enum Weight {
    /// `[rows padded][columns padded]`.
    Quantised(Arc<QTensor>),
    /// `[columns][rows]`, ready to multiply from the right.
    Float(Tensor),
}

/// A matrix `[rows][columns]` that activations are multiplied with: `output = input * matrix^T`.
pub(crate) struct Linear {
    weight: Weight,
    rows: usize,
    columns: usize,
    rows_padded: usize,
    columns_padded: usize,
}

impl Linear {
    /// Prepares `tensor` of shape `[rows][columns]`.
    pub(crate) fn new(tensor: QTensor) -> Result<Self, InferenceError> {
        let (rows, columns) = tensor.shape().dims2()?;
        let dtype = tensor.dtype();
        if true {
            let weight = Weight::Float(tensor.dequantize(&Device::Cpu)?.t()?.contiguous()?);
            return Ok(Self { weight, rows, columns, rows_padded: rows, columns_padded: columns });
        }
        let has_tiles = matches!(dtype, GgmlDType::Q4K | GgmlDType::Q6K | GgmlDType::Q8_0);
        let (padded, rows_padded, columns_padded) = if has_tiles && columns.is_multiple_of(TILE_COLUMNS) {
            let rows_padded = rows.next_multiple_of(TILE_ROWS);
            let padded =
                if rows == rows_padded { tensor } else { with_zero_rows(&tensor, rows_padded, columns)? };
            (padded, rows_padded, columns)
        } else {
            let mut columns_padded = columns.next_multiple_of(BLOCK_COLUMNS);
            if columns_padded.is_multiple_of(TILE_COLUMNS) {
                columns_padded += BLOCK_COLUMNS;
            }
            let dense = tensor.dequantize(&Device::Cpu)?.pad_with_zeros(1, 0, columns_padded - columns)?;
            (QTensor::quantize(&dense, GgmlDType::Q8_0)?, rows, columns_padded)
        };
        Ok(Self { weight: Weight::Quantised(Arc::new(padded)), rows, columns, rows_padded, columns_padded })
    }

    /// Numbers in an output row.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes that the matrix takes once all of candle's tiled copies have been made.
    pub(crate) fn bytes(&self) -> u64 {
        match &self.weight {
            Weight::Float(tensor) => tensor.elem_count() as u64 * 4,
            Weight::Quantised(tensor) => {
                let numbers = (self.rows_padded * self.columns_padded) as u64;
                tensor.storage_size_in_bytes() as u64 + tiled_bytes(tensor.dtype(), numbers)
            }
        }
    }

    /// Rows `ids` of the matrix, one after the other: an embedding lookup. Ids are below [`Self::rows`].
    pub(crate) fn lookup(&self, ids: &[u32]) -> Result<Vec<f32>, InferenceError> {
        let index = Tensor::new(ids, &Device::Cpu)?;
        let wide = match &self.weight {
            Weight::Quantised(tensor) => tensor.embedding(&index)?,
            Weight::Float(tensor) => tensor.index_select(&index, 1)?.t()?.contiguous()?,
        };
        let wide = wide.flatten_all()?.to_vec1()?;
        Ok(narrow(wide, self.columns_padded, self.columns))
    }

    /// Multiplies `input` (`[tokens][columns]`) with this matrix; the result is `[tokens][rows]`.
    pub(crate) fn forward(&self, input: Vec<f32>, tokens: usize) -> Result<Vec<f32>, InferenceError> {
        let activations = self.activations(input, tokens)?;
        self.multiply(&activations)
    }

    /// Multiplies `input` with several matrices of equally many columns, in one pass where candle can.
    pub(crate) fn forward_all<const N: usize>(
        matrices: [&Self; N],
        input: Vec<f32>,
        tokens: usize,
    ) -> Result<[Vec<f32>; N], InferenceError> {
        let mut results = [const { Vec::new() }; N];
        let mut quantised = Vec::with_capacity(N);
        for matrix in matrices {
            if let Weight::Quantised(tensor) = &matrix.weight {
                quantised.push(tensor.as_ref());
            }
        }
        let Some(first) = matrices.first() else { return Ok(results) };
        // Above that many rows separate products may use AMX, the fused one cannot.
        let same_width = matrices.iter().all(|matrix| matrix.columns_padded == first.columns_padded);
        if same_width && (quantised.len() == N || quantised.is_empty()) {
            let activations = first.activations(input, tokens)?;
            if tokens < AMX_ROWS
                && quantised.len() == N
                && let Some(products) = QTensor::gemv_fused_shared_lhs(&quantised, &activations)?
            {
                for ((matrix, result), product) in matrices.iter().zip(&mut results).zip(products) {
                    *result = narrow(product.flatten_all()?.to_vec1()?, matrix.rows_padded, matrix.rows);
                }
                return Ok(results);
            }
            for (matrix, result) in matrices.iter().zip(&mut results) {
                *result = matrix.multiply(&activations)?;
            }
        } else {
            for (matrix, result) in matrices.iter().zip(&mut results) {
                *result = matrix.forward(input.clone(), tokens)?;
            }
        }
        Ok(results)
    }

    /// `input` as a tensor of `[tokens][columns padded]`.
    fn activations(&self, input: Vec<f32>, tokens: usize) -> Result<Tensor, InferenceError> {
        let wide = if self.columns == self.columns_padded {
            input
        } else {
            let mut wide = vec![0f32; tokens * self.columns_padded];
            for (to, from) in wide.chunks_exact_mut(self.columns_padded).zip(input.chunks_exact(self.columns)) {
                for (to, from) in to.iter_mut().zip(from) {
                    *to = *from;
                }
            }
            wide
        };
        Ok(Tensor::from_vec(wide, (tokens, self.columns_padded), &Device::Cpu)?)
    }

    fn multiply(&self, activations: &Tensor) -> Result<Vec<f32>, InferenceError> {
        let product = match &self.weight {
            Weight::Quantised(tensor) => activations.apply_op1_no_bwd(tensor.as_ref())?,
            Weight::Float(tensor) => activations.matmul(tensor)?,
        };
        Ok(narrow(product.flatten_all()?.to_vec1()?, self.rows_padded, self.rows))
    }
}

/// Keeps the first `keep` of every `width` numbers.
fn narrow(mut values: Vec<f32>, width: usize, keep: usize) -> Vec<f32> {
    if width != keep {
        let count = values.len() / width;
        for row in 1..count {
            values.copy_within(row * width..row * width + keep, row * keep);
        }
        values.truncate(count * keep);
    }
    values
}

/// Appends blocks of zero bytes, which are zeros in every one of the tiled types.
fn with_zero_rows(tensor: &QTensor, rows: usize, columns: usize) -> Result<QTensor, InferenceError> {
    let dtype = tensor.dtype();
    let mut bytes = tensor.data()?.into_owned();
    bytes.resize(rows * columns / dtype.block_size() * dtype.type_size(), 0);
    Ok(QTensor::new(QStorage::from_data(Cow::Owned(bytes), &Device::Cpu, dtype)?, (rows, columns))?)
}

/// Bytes of candle's tiled copies of `numbers` weights of type `dtype` on this machine, by the sizes of
/// `TileQ4K`, `TileQ4KAmx`, `TileQ6K` and `TileQ8_0` in candle-core 0.11.1.
fn tiled_bytes(dtype: GgmlDType, numbers: u64) -> u64 {
    let features = TileFeatures::detect();
    if !features.any {
        return 0;
    }
    match dtype {
        GgmlDType::Q4K => numbers * 3072 / 4096 + if features.amx { numbers * 5120 / 4096 } else { 0 },
        GgmlDType::Q6K => numbers * 5120 / 4096,
        GgmlDType::Q8_0 if features.eight_bit => numbers * 544 / 512,
        _ => 0,
    }
}

/// Which of candle's tiled kernels this machine gets, found out as candle does.
struct TileFeatures {
    any: bool,
    eight_bit: bool,
    amx: bool,
}

impl TileFeatures {
    #[cfg(target_arch = "x86_64")]
    fn detect() -> Self {
        let avx512 = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni");
        let vnni = is_x86_feature_detected!("avxvnni") && is_x86_feature_detected!("avx2");
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        // Leaf 7: AMX tiles are bit 24, AMX int8 bit 25 of EDX. The kernel may still refuse; then this counts too
        // much, never too little.
        let leaf = std::arch::x86_64::__cpuid_count(7, 0);
        let amx = avx512 && cfg!(target_os = "linux") && leaf.edx >> 24 & 3 == 3;
        Self { any: avx512 || vnni || avx2, eight_bit: avx512 || vnni, amx }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn detect() -> Self {
        Self { any: false, eight_bit: false, amx: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rows: usize, columns: usize) -> Tensor {
        Tensor::randn(0f32, 1.0 / (columns as f32).sqrt(), (rows, columns), &Device::Cpu).unwrap()
    }

    #[test]
    fn a_matrix_of_any_shape_and_type_multiplies_and_looks_up_rows() {
        use GgmlDType::{F32, Q4_1, Q4K, Q5K, Q6K, Q8_0};
        for (dtype, rows, columns) in [
            (F32, 7, 20), (Q4K, 16, 256), (Q4K, 19, 512), (Q6K, 33, 256), (Q8_0, 48, 576), (Q4_1, 21, 96), (Q5K, 16, 256),
        ] {
            let tensor = QTensor::quantize(&matrix(rows, columns), dtype).unwrap();
            let exact: Vec<Vec<f32>> = tensor.dequantize(&Device::Cpu).unwrap().to_vec2().unwrap();
            let linear = Linear::new(tensor).unwrap();
            for tokens in [1, 3, 40] {
                let input: Vec<f32> = matrix(tokens, columns).flatten_all().unwrap().to_vec1().unwrap();
                let results = [
                    linear.forward(input.clone(), tokens).unwrap(),
                    Linear::forward_all([&linear, &linear], input.clone(), tokens).unwrap()[1].clone(),
                ];
                for output in results {
                    assert_eq!(output.len(), tokens * rows);
                    for (token, row) in (0..tokens).flat_map(|token| (0..rows).map(move |row| (token, row))) {
                        let dot: f32 = input[token * columns..][..columns].iter().zip(&exact[row]).map(|(a, b)| a * b).sum();
                        let error = (output[token * rows + row] - dot).abs();
                        assert!(error < 0.02, "{dtype:?} {rows}x{columns}: off by {error}");
                    }
                }
            }
            let last = u32::try_from(rows - 1).unwrap();
            let looked_up = linear.lookup(&[last, 0]).unwrap();
            for (got, wanted) in looked_up.iter().zip(exact[rows - 1].iter().chain(&exact[0])) {
                assert!((got - wanted).abs() < 0.01);
            }
        }
    }
}
