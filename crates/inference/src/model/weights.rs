//! A model's weights, loaded from a GGUF file.

use std::collections::BTreeSet;

use candle_core::Device;

use super::config::ModelConfig;
use super::linear::Linear;
use crate::error::InferenceError;
use crate::gguf::GgufFile;
use crate::kernels::{KvLayout, Level};

/// The factors that stretch low frequencies.
const ROTARY_FACTORS: &str = "rope_freqs.weight";

const HINT_TENSORS: &str = "use a dense Llama-family model without biases or adapters";

/// One transformer layer.
pub(super) struct Layer {
    pub(super) attention_norm: Vec<f32>,
    pub(super) query: Linear,
    pub(super) key: Linear,
    pub(super) value: Linear,
    pub(super) attention_output: Linear,
    pub(super) feed_forward_norm: Vec<f32>,
    pub(super) gate: Linear,
    pub(super) up: Linear,
    pub(super) down: Linear,
}

/// A model in memory. It holds no state of any sequence.
pub(crate) struct Model {
    pub(crate) config: ModelConfig,
    pub(super) level: Level,
    pub(super) layers: Vec<Layer>,
    /// Doubles as the output head where the file has none of its own.
    pub(super) embedding: Linear,
    pub(super) output_norm: Vec<f32>,
    pub(super) output: Option<Linear>,
    /// Cosines of the rotary angles, `[positions][rotated / 2]`.
    pub(super) cosines: Vec<f32>,
    /// Sines, in the same layout.
    pub(super) sines: Vec<f32>,
    parameters: u64,
}

impl Model {
    /// Loads all weights of `file` for sequences of up to `positions` tokens.
    ///
    /// Fails with [`InferenceError::Damaged`] when a tensor is missing or has another shape than the metadata says,
    /// and with [`InferenceError::Unsupported`] when there are tensors that this forward pass does not know.
    pub(crate) fn load(
        file: &mut GgufFile,
        config: ModelConfig,
        positions: usize,
    ) -> Result<Self, InferenceError> {
        let mut loader =
            Loader { unread: file.tensor_names().map(str::to_owned).collect(), file, parameters: 0 };
        let ModelConfig {
            layers: layer_count,
            width,
            feed_forward,
            heads,
            kv_heads,
            head_size,
            vocabulary,
            ..
        } = config;
        let (query_width, kv_width) = (heads * head_size, kv_heads * head_size);

        let embedding = loader.matrix("token_embd.weight", vocabulary, width)?;
        let output = if loader.unread.contains("output.weight") {
            Some(loader.matrix("output.weight", vocabulary, width)?)
        } else {
            None
        };
        let output_norm = loader.vector("output_norm.weight", width)?;
        let mut layers = Vec::with_capacity(layer_count);
        for index in 0..layer_count {
            let name = |part: &str| format!("blk.{index}.{part}.weight");
            layers.push(Layer {
                attention_norm: loader.vector(&name("attn_norm"), width)?,
                query: loader.matrix(&name("attn_q"), query_width, width)?,
                key: loader.matrix(&name("attn_k"), kv_width, width)?,
                value: loader.matrix(&name("attn_v"), kv_width, width)?,
                attention_output: loader.matrix(&name("attn_output"), width, query_width)?,
                feed_forward_norm: loader.vector(&name("ffn_norm"), width)?,
                gate: loader.matrix(&name("ffn_gate"), feed_forward, width)?,
                up: loader.matrix(&name("ffn_up"), feed_forward, width)?,
                down: loader.matrix(&name("ffn_down"), width, feed_forward)?,
            });
        }
        // Llama 3.1 and later stretch low frequencies by factors that stand in the file.
        let factors = if loader.unread.contains(ROTARY_FACTORS) {
            Some(loader.vector(ROTARY_FACTORS, config.rotated / 2)?)
        } else {
            None
        };
        if let Some(unknown) = loader.unread.first() {
            return Err(loader.file.unsupported(format!("it has the tensor {unknown}"), HINT_TENSORS));
        }
        let parameters = loader.parameters;
        let (cosines, sines) = rotary_tables(&config, factors.as_deref(), positions);
        let level = Level::detect();
        Ok(Self { config, level, layers, embedding, output_norm, output, cosines, sines, parameters })
    }

    /// How many weights the file has.
    pub(crate) fn parameters(&self) -> u64 {
        self.parameters
    }

    /// Bytes of all weights and tables, with the copies that candle makes of them.
    pub(crate) fn bytes(&self) -> u64 {
        let layers: u64 = self
            .layers
            .iter()
            .map(|layer| {
                let Layer { query, key, value, attention_output, gate, up, down, .. } = layer;
                let matrices: u64 = [query, key, value, attention_output, gate, up, down]
                    .iter()
                    .map(|linear| linear.bytes())
                    .sum();
                matrices + (layer.attention_norm.len() + layer.feed_forward_norm.len()) as u64 * 4
            })
            .sum();
        let tables = (self.cosines.len() + self.sines.len() + self.output_norm.len()) as u64 * 4;
        layers + tables + self.embedding.bytes() + self.output.as_ref().map_or(0, Linear::bytes)
    }

    /// What [`Self::bytes`] will be, from the list of tensors alone.
    pub(crate) fn bytes_before_loading(file: &GgufFile, config: &ModelConfig, positions: usize) -> u64 {
        let tensors = file.tensors().map(|(name, shape, dtype)| match *shape {
            [rows, columns] => Linear::bytes_of(dtype, rows, columns),
            // It goes into the tables.
            _ if name == ROTARY_FACTORS => 0,
            _ => shape.iter().product::<usize>() as u64 * 4,
        });
        let tables = positions as u64 * (config.rotated / 2) as u64 * 2 * 4;
        tensors.fold(tables, u64::saturating_add)
    }

    /// The shape of a page of keys and values.
    pub(crate) fn kv_layout(&self) -> KvLayout {
        KvLayout {
            layers: self.config.layers,
            kv_heads: self.config.kv_heads,
            head_size: self.config.head_size,
        }
    }
}

struct Loader<'a> {
    file: &'a mut GgufFile,
    /// Names of tensors that nobody asked for yet.
    unread: BTreeSet<String>,
    parameters: u64,
}

impl Loader<'_> {
    fn tensor(
        &mut self,
        name: &str,
        shape: &[usize],
    ) -> Result<candle_core::quantized::QTensor, InferenceError> {
        match self.file.tensor_shape(name) {
            None => return Err(self.file.damaged(format!("tensor {name} is missing"))),
            Some(found) if found != shape => {
                let reason = format!("tensor {name} has shape {found:?}, the metadata says {shape:?}");
                return Err(self.file.damaged(reason));
            }
            Some(_) => {}
        }
        self.unread.remove(name);
        self.parameters += shape.iter().product::<usize>() as u64;
        self.file.tensor(name)
    }

    fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<Linear, InferenceError> {
        Linear::new(self.tensor(name, &[rows, columns])?)
    }

    fn vector(&mut self, name: &str, length: usize) -> Result<Vec<f32>, InferenceError> {
        Ok(self.tensor(name, &[length])?.dequantize(&Device::Cpu)?.to_vec1()?)
    }
}

/// Cosines and sines of `position * base^(-2i / rotated) / factor_i`.
fn rotary_tables(config: &ModelConfig, factors: Option<&[f32]>, positions: usize) -> (Vec<f32>, Vec<f32>) {
    let frequencies: Vec<f64> = (0..config.rotated / 2)
        .map(|pair| {
            let factor = factors.and_then(|factors| factors.get(pair)).copied().unwrap_or(1.0);
            f64::from(config.rope_base).powf(-2.0 * pair as f64 / config.rotated as f64) / f64::from(factor)
        })
        .collect();
    let angles = (0..positions).flat_map(|position| frequencies.iter().map(move |f| position as f64 * f));
    #[expect(clippy::cast_possible_truncation, reason = "tables are single precision, angles are not")]
    angles.map(|angle| (angle.cos() as f32, angle.sin() as f32)).unzip()
}
