//! Matrix products with quantised weights.
//!
//! candle 0.11.1 is fast for `Q4_K` and `Q6_K` with a multiple of 16 rows, of which it keeps a second, tiled copy;
//! other row counts are padded with zeros at load. Blocks of 32 (`Q4_1`, `Q8_0` and their kin) go through our own
//! [`BlockMatrix`], which holds them exactly and takes any width; candle has no fast path for most of them. The
//! rarer types become `Q8_0`. Floating-point weights stay exact.

use std::borrow::Cow;
use std::sync::Arc;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Tensor};

use crate::error::InferenceError;
use crate::kernels::{BlockActivations, BlockFormat, BlockMatrix, Level};

/// Rows in a tile of candle's kernels.
const TILE_ROWS: usize = 16;
/// From this many activation rows on candle may take its AMX path, which keeps a third copy of `Q4_K` weights.
const AMX_ROWS: usize = 32;

enum Weight {
    /// Blocks of 32, ours.
    Blocks(BlockMatrix),
    /// `[rows padded][columns]`, candle's.
    Quantised(Arc<QTensor>),
    /// `[columns][rows]`, ready to multiply from the right.
    Float(Tensor),
}

/// A matrix `[rows][columns]` that activations are multiplied with: `output = input * matrix^T`.
pub(crate) struct Linear {
    weight: Weight,
    level: Level,
    rows: usize,
    columns: usize,
    rows_padded: usize,
}

/// Activations in the form that one kind of weight takes.
enum Activations {
    Blocks(BlockActivations),
    Tensor(Tensor),
}

impl Linear {
    /// Prepares `tensor` of shape `[rows][columns]`.
    pub(crate) fn new(tensor: QTensor) -> Result<Self, InferenceError> {
        let (rows, columns) = tensor.shape().dims2()?;
        let rows_padded = rows.next_multiple_of(TILE_ROWS);
        let blocks = |format: BlockFormat, tensor: &QTensor| -> Result<Weight, InferenceError> {
            BlockMatrix::new(format, &tensor.data()?, rows, columns)
                .map(Weight::Blocks)
                .ok_or_else(|| candle_core::Error::msg("a tensor's bytes do not fit its shape").into())
        };
        let weight = match tensor.dtype() {
            GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 => {
                Weight::Float(tensor.dequantize(&Device::Cpu)?.t()?.contiguous()?)
            }
            GgmlDType::Q4K | GgmlDType::Q6K if rows == rows_padded => Weight::Quantised(Arc::new(tensor)),
            GgmlDType::Q4K | GgmlDType::Q6K => {
                Weight::Quantised(Arc::new(with_zero_rows(&tensor, rows_padded, columns)?))
            }
            GgmlDType::Q4_0 => blocks(BlockFormat::Q4_0, &tensor)?,
            GgmlDType::Q4_1 => blocks(BlockFormat::Q4_1, &tensor)?,
            GgmlDType::Q5_0 => blocks(BlockFormat::Q5_0, &tensor)?,
            GgmlDType::Q5_1 => blocks(BlockFormat::Q5_1, &tensor)?,
            GgmlDType::Q8_0 => blocks(BlockFormat::Q8_0, &tensor)?,
            GgmlDType::Q8_1 | GgmlDType::Q2K | GgmlDType::Q3K | GgmlDType::Q5K | GgmlDType::Q8K => {
                let dense = tensor.dequantize(&Device::Cpu)?;
                blocks(BlockFormat::Q8_0, &QTensor::quantize(&dense, GgmlDType::Q8_0)?)?
            }
        };
        let rows_padded = if matches!(weight, Weight::Quantised(_)) { rows_padded } else { rows };
        Ok(Self { weight, level: Level::detect(), rows, columns, rows_padded })
    }

    /// Numbers in an output row.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes that the matrix takes once all of candle's tiled copies have been made.
    pub(crate) fn bytes(&self) -> u64 {
        match &self.weight {
            Weight::Blocks(matrix) => matrix.bytes(),
            Weight::Float(tensor) => tensor.elem_count() as u64 * 4,
            Weight::Quantised(tensor) => {
                let numbers = (self.rows_padded * self.columns) as u64;
                tensor.storage_size_in_bytes() as u64 + tiled_bytes(tensor.dtype(), numbers)
            }
        }
    }

    /// What [`Self::bytes`] of a tensor of this type and shape will be, before it is loaded.
    pub(super) fn bytes_of(dtype: GgmlDType, rows: usize, columns: usize) -> u64 {
        match dtype {
            GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 => (rows * columns) as u64 * 4,
            GgmlDType::Q4K | GgmlDType::Q6K => {
                let numbers = rows.next_multiple_of(TILE_ROWS) * columns;
                (numbers / dtype.block_size() * dtype.type_size()) as u64 + tiled_bytes(dtype, numbers as u64)
            }
            _ => BlockMatrix::bytes_of(rows, columns),
        }
    }

    /// Rows `ids` of the matrix, one after the other: an embedding lookup. Ids are below [`Self::rows`].
    pub(crate) fn lookup(&self, ids: &[u32]) -> Result<Vec<f32>, InferenceError> {
        let wide = match &self.weight {
            Weight::Blocks(matrix) => {
                let mut out = Vec::with_capacity(ids.len() * self.columns);
                for id in ids {
                    matrix.append_row(*id as usize, &mut out);
                }
                return Ok(out);
            }
            Weight::Quantised(tensor) => tensor.embedding(&Tensor::new(ids, &Device::Cpu)?)?,
            Weight::Float(tensor) => {
                tensor.index_select(&Tensor::new(ids, &Device::Cpu)?, 1)?.t()?.contiguous()?
            }
        };
        Ok(wide.flatten_all()?.to_vec1()?)
    }

    /// Multiplies `input` (`[tokens][columns]`) with this matrix; the result is `[tokens][rows]`.
    pub(crate) fn forward(&self, input: Vec<f32>, tokens: usize) -> Result<Vec<f32>, InferenceError> {
        self.multiply(&self.activations(input, tokens)?)
    }

    /// Multiplies `input` with several matrices of the same number of columns, preparing it once where they take it
    /// in the same form, and in one pass where candle can.
    pub(crate) fn forward_all<const N: usize>(
        matrices: [&Self; N],
        input: Vec<f32>,
        tokens: usize,
    ) -> Result<[Vec<f32>; N], InferenceError> {
        let mut results = [const { Vec::new() }; N];
        let Some(first) = matrices.first() else { return Ok(results) };
        let same_form = matrices
            .iter()
            .all(|matrix| std::mem::discriminant(&matrix.weight) == std::mem::discriminant(&first.weight));
        if !same_form {
            for (matrix, result) in matrices.iter().zip(&mut results) {
                *result = matrix.forward(input.clone(), tokens)?;
            }
            return Ok(results);
        }
        let activations = first.activations(input, tokens)?;
        // From that many rows on separate products may use AMX, the fused one cannot.
        if let Activations::Tensor(tensor) = &activations
            && tokens < AMX_ROWS
        {
            let quantised: Vec<&QTensor> = matrices
                .iter()
                .filter_map(|matrix| {
                    if let Weight::Quantised(tensor) = &matrix.weight { Some(tensor.as_ref()) } else { None }
                })
                .collect();
            if quantised.len() == N
                && let Some(products) = QTensor::gemv_fused_shared_lhs(&quantised, tensor)?
            {
                for ((matrix, result), product) in matrices.iter().zip(&mut results).zip(products) {
                    *result = matrix.narrow(product.flatten_all()?.to_vec1()?);
                }
                return Ok(results);
            }
        }
        for (matrix, result) in matrices.iter().zip(&mut results) {
            *result = matrix.multiply(&activations)?;
        }
        Ok(results)
    }

    fn activations(&self, input: Vec<f32>, tokens: usize) -> Result<Activations, InferenceError> {
        Ok(match self.weight {
            Weight::Blocks(_) => Activations::Blocks(BlockActivations::new(self.level, &input, self.columns)),
            _ => Activations::Tensor(Tensor::from_vec(input, (tokens, self.columns), &Device::Cpu)?),
        })
    }

    fn multiply(&self, activations: &Activations) -> Result<Vec<f32>, InferenceError> {
        let product = match (&self.weight, activations) {
            (Weight::Blocks(matrix), Activations::Blocks(input)) => {
                return Ok(matrix.multiply(self.level, input));
            }
            (Weight::Quantised(tensor), Activations::Tensor(input)) => {
                input.apply_op1_no_bwd(tensor.as_ref())?
            }
            (Weight::Float(tensor), Activations::Tensor(input)) => input.matmul(tensor)?,
            _ => return Err(candle_core::Error::msg("activations in the form of another matrix").into()),
        };
        Ok(self.narrow(product.flatten_all()?.to_vec1()?))
    }

    /// Drops what padded rows added to every row of a product.
    fn narrow(&self, mut values: Vec<f32>) -> Vec<f32> {
        let (width, keep) = (self.rows_padded, self.rows);
        if width != keep {
            let count = values.len() / width;
            for row in 1..count {
                values.copy_within(row * width..row * width + keep, row * keep);
            }
            values.truncate(count * keep);
        }
        values
    }
}

/// Appends blocks of zero bytes, which are zeros in `Q4_K` and `Q6_K`.
fn with_zero_rows(tensor: &QTensor, rows: usize, columns: usize) -> Result<QTensor, InferenceError> {
    let dtype = tensor.dtype();
    let mut bytes = tensor.data()?.into_owned();
    bytes.resize(rows * columns / dtype.block_size() * dtype.type_size(), 0);
    Ok(QTensor::new(QStorage::from_data(Cow::Owned(bytes), &Device::Cpu, dtype)?, (rows, columns))?)
}

/// Bytes of candle's tiled copies of `numbers` weights of type `dtype` on this machine, by the sizes of
/// `TileQ4K`, `TileQ4KAmx` and `TileQ6K` in candle-core 0.11.1.
fn tiled_bytes(dtype: GgmlDType, numbers: u64) -> u64 {
    let features = TileFeatures::detect();
    if !features.any {
        return 0;
    }
    match dtype {
        GgmlDType::Q4K => numbers * 3072 / 4096 + if features.amx { numbers * 5120 / 4096 } else { 0 },
        GgmlDType::Q6K => numbers * 5120 / 4096,
        _ => 0,
    }
}

/// Which of candle's tiled kernels this machine gets, found out as candle does.
struct TileFeatures {
    any: bool,
    amx: bool,
}

impl TileFeatures {
    #[cfg(target_arch = "x86_64")]
    fn detect() -> Self {
        let avx512 = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni");
        let avx2 = is_x86_feature_detected!("avx2")
            && (is_x86_feature_detected!("fma") || is_x86_feature_detected!("avxvnni"));
        // Leaf 7: AMX tiles are bit 24, AMX int8 bit 25 of EDX. The kernel may still refuse; then this counts too
        // much, never too little.
        let leaf = std::arch::x86_64::__cpuid_count(7, 0);
        let amx = avx512 && cfg!(target_os = "linux") && leaf.edx >> 24 & 3 == 3;
        Self { any: avx512 || avx2, amx }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn detect() -> Self {
        Self { any: false, amx: false }
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
            (F32, 7, 20),
            (Q4K, 16, 256),
            (Q4K, 19, 512),
            (Q6K, 33, 256),
            (Q8_0, 48, 576),
            (Q4_1, 21, 96),
            (Q5K, 16, 256),
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
                        let dot: f32 = input[token * columns..][..columns]
                            .iter()
                            .zip(&exact[row])
                            .map(|(a, b)| a * b)
                            .sum();
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
