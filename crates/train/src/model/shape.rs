//! The network's sizes and where each of its tensors lies in the one flat parameter vector.

use std::ops::Range;

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;
use serde::{Deserialize, Serialize};

/// The sizes of a Llama network.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    /// Rows of the embedding, one a token.
    pub vocabulary: usize,
    /// Width of the residual stream.
    pub width: usize,
    /// Transformer blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of the feed-forward part.
    pub ffn: usize,
    /// The most tokens of a sequence.
    pub context: usize,
    /// Base of the rotary embedding's wavelengths.
    pub rope_base: f32,
    /// Added to the mean square in every norm.
    pub norm_epsilon: f32,
}

impl Shape {
    /// The shipped model: 3.7 million parameters.
    pub const NANO: Self = Self {
        vocabulary: 2048,
        width: 256,
        layers: 4,
        heads: 8,
        kv_heads: 4,
        ffn: 768,
        context: 1024,
        rope_base: 10_000.0,
        norm_epsilon: 1e-5,
    };

    /// Width of one head.
    pub const fn head(&self) -> usize {
        self.width / self.heads
    }

    /// Width of all keys (or all values) of a token.
    pub const fn kv_width(&self) -> usize {
        self.kv_heads * self.head()
    }

    /// Width of a token's query, key and value side by side.
    pub const fn qkv_width(&self) -> usize {
        self.width + 2 * self.kv_width()
    }
}

/// One tensor in the flat parameter vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Its name in the GGUF file.
    pub name: String,
    /// Output size; 1 for the gain of a norm.
    pub rows: usize,
    /// Input size.
    pub columns: usize,
    /// Where it lies.
    pub range: Range<usize>,
}

impl Parameter {
    /// Whether this is the gain of a norm, which is neither decayed nor quantised.
    pub fn is_gain(&self) -> bool {
        self.name.ends_with("_norm.weight")
    }
}

/// Where the tensors of one block lie. Those that are multiplied with the same input are neighbours, so that one
/// product serves them.
#[derive(Debug, Clone)]
pub(crate) struct BlockRanges {
    pub(crate) attention_norm: Range<usize>,
    /// Query, key and value: `[qkv_width, width]`.
    pub(crate) qkv: Range<usize>,
    /// `[width, width]`.
    pub(crate) output: Range<usize>,
    pub(crate) ffn_norm: Range<usize>,
    /// Gate and up: `[2 ffn, width]`.
    pub(crate) gate_up: Range<usize>,
    /// `[width, ffn]`.
    pub(crate) down: Range<usize>,
}

/// Where every tensor lies.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The sizes.
    pub shape: Shape,
    /// All tensors in the order in which they lie.
    pub parameters: Vec<Parameter>,
    pub(crate) embedding: Range<usize>,
    pub(crate) blocks: Vec<BlockRanges>,
    pub(crate) output_norm: Range<usize>,
    /// Number of parameters.
    pub len: usize,
}

impl Layout {
    /// The layout for a shape.
    pub fn new(shape: Shape) -> Self {
        let mut parameters = Vec::new();
        let mut end = 0;
        let mut add = |name: String, rows: usize, columns: usize| {
            let range = end..end + rows * columns;
            end = range.end;
            parameters.push(Parameter { name, rows, columns, range: range.clone() });
            range
        };
        let width = shape.width;
        let embedding = add("token_embd.weight".to_owned(), shape.vocabulary, width);
        let blocks = (0..shape.layers)
            .map(|layer| {
                let mut add =
                    |name: &str, rows, columns| add(format!("blk.{layer}.{name}.weight"), rows, columns);
                let attention_norm = add("attn_norm", 1, width);
                let query = add("attn_q", width, width);
                let _key = add("attn_k", shape.kv_width(), width);
                let value = add("attn_v", shape.kv_width(), width);
                let output = add("attn_output", width, width);
                let ffn_norm = add("ffn_norm", 1, width);
                let gate = add("ffn_gate", shape.ffn, width);
                let up = add("ffn_up", shape.ffn, width);
                let down = add("ffn_down", width, shape.ffn);
                let (qkv, gate_up) = (query.start..value.end, gate.start..up.end);
                BlockRanges { attention_norm, qkv, output, ffn_norm, gate_up, down }
            })
            .collect();
        let output_norm = add("output_norm.weight".to_owned(), 1, width);
        Self { shape, parameters, embedding, blocks, output_norm, len: end }
    }

    /// Parameters before training: normal with standard deviation 0.02, that of the projections back into the
    /// residual stream divided by the square root of twice the depth (GPT-2); gains 1.
    pub fn initial(&self, seed: u64) -> Vec<f32> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut values = vec![1.0; self.len];
        let depth_scale = 1.0 / (2.0 * self.shape.layers as f32).sqrt();
        for parameter in self.parameters.iter().filter(|parameter| !parameter.is_gain()) {
            let into_residual = parameter.name.contains("attn_output") || parameter.name.contains("ffn_down");
            let deviation = if into_residual { 0.02 * depth_scale } else { 0.02 };
            for value in values.get_mut(parameter.range.clone()).into_iter().flatten() {
                // Box-Muller.
                let (radius, angle): (f32, f32) = (rng.random(), rng.random());
                let radius = (-2.0 * (1.0 - radius).ln()).sqrt();
                *value = deviation * radius * (std::f32::consts::TAU * angle).cos();
            }
        }
        values
    }
}
