//! The shape of a model, read from the file's metadata and checked against limits before anything is allocated.

use crate::error::InferenceError;
use crate::gguf::GgufFile;

const HINT_ARCHITECTURE: &str = "use a GGUF file of the Llama family (general.architecture llama)";
const HINT_SHAPE: &str = "use a dense Llama-family model with ordinary rotary positions";

/// What a Llama-family model's shape is made of.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ModelConfig {
    /// How many layers.
    pub(crate) layers: usize,
    /// Numbers in a hidden state.
    pub(crate) width: usize,
    /// Numbers in the gate of a layer's feed-forward part.
    pub(crate) feed_forward: usize,
    /// Query heads; a multiple of `kv_heads`.
    pub(crate) heads: usize,
    /// Key-value heads.
    pub(crate) kv_heads: usize,
    /// Numbers in a head; a multiple of 16.
    pub(crate) head_size: usize,
    /// How many numbers of a head are rotated, from its start.
    pub(crate) rotated: usize,
    /// Base of the rotary frequencies.
    pub(crate) rope_base: f32,
    /// Added to the mean square in norms.
    pub(crate) norm_epsilon: f32,
    /// Rows of the embedding and of the output head.
    pub(crate) vocabulary: usize,
    /// The longest sequence that the model was made for.
    pub(crate) context: usize,
}

impl ModelConfig {
    /// Reads and checks the shape.
    ///
    /// Fails with [`InferenceError::Unsupported`] for another architecture and with [`InferenceError::Damaged`] for
    /// numbers that are missing or make no sense together.
    pub(crate) fn read(file: &GgufFile) -> Result<Self, InferenceError> {
        let architecture = file.text("general.architecture")?.unwrap_or_else(|| "unknown".to_owned());
        if architecture != "llama" {
            return Err(file.unsupported(
                format!("its architecture is {architecture:?}, this engine runs llama"),
                HINT_ARCHITECTURE,
            ));
        }
        for key in ["llama.expert_count", "llama.attention.sliding_window"] {
            if file.number(key)?.is_some_and(|count| count > 0) {
                return Err(file.unsupported(format!("it sets {key}"), HINT_SHAPE));
            }
        }
        if let Some(scaling) = file.text("llama.rope.scaling.type")?
            && scaling != "none"
        {
            return Err(file.unsupported(format!("it scales rotary positions ({scaling})"), HINT_SHAPE));
        }

        let need = |key: &str, most: usize| -> Result<usize, InferenceError> {
            let number = file.number(key)?.ok_or_else(|| file.damaged(format!("{key} is missing")))?;
            within(file, key, number, most)
        };
        let width = need("llama.embedding_length", 1 << 16)?;
        let heads = need("llama.attention.head_count", 1 << 12)?;
        let kv_heads = match file.number("llama.attention.head_count_kv")? {
            Some(count) => within(file, "llama.attention.head_count_kv", count, heads)?,
            None => heads,
        };
        let head_size = match file.number("llama.attention.key_length")? {
            Some(size) => within(file, "llama.attention.key_length", size, 512)?,
            None => within(file, "head size", width / heads, 512)?,
        };
        if file.number("llama.attention.value_length")?.is_some_and(|size| size != head_size) {
            return Err(file.unsupported("its keys and values differ in size", HINT_SHAPE));
        }
        if !head_size.is_multiple_of(16) {
            return Err(file.unsupported(
                format!("its heads have {head_size} numbers, not a multiple of 16"),
                HINT_SHAPE,
            ));
        }
        if !heads.is_multiple_of(kv_heads) {
            return Err(file.damaged(format!("{heads} heads cannot share {kv_heads} key-value heads")));
        }
        let rotated = match file.number("llama.rope.dimension_count")? {
            Some(count) => within(file, "llama.rope.dimension_count", count, head_size)?,
            None => head_size,
        };
        if !rotated.is_multiple_of(2) {
            return Err(file.damaged(format!("an odd number of rotated numbers, {rotated}")));
        }
        let rope_base = file.float("llama.rope.freq_base")?.unwrap_or(10_000.0);
        let norm_epsilon = file
            .float("llama.attention.layer_norm_rms_epsilon")?
            .ok_or_else(|| file.damaged("llama.attention.layer_norm_rms_epsilon is missing"))?;
        if rope_base <= 0.0 || norm_epsilon < 0.0 {
            return Err(file.damaged("a rotary base or a norm's epsilon is negative"));
        }
        let vocabulary = file
            .tensor_shape("token_embd.weight")
            .and_then(|shape| shape.first().copied())
            .ok_or_else(|| file.damaged("tensor token_embd.weight is missing"))?;
        Ok(Self {
            layers: need("llama.block_count", 1 << 10)?,
            width,
            feed_forward: need("llama.feed_forward_length", 1 << 18)?,
            heads,
            kv_heads,
            head_size,
            rotated,
            rope_base,
            norm_epsilon,
            vocabulary,
            context: need("llama.context_length", 1 << 24)?,
        })
    }
}

fn within(file: &GgufFile, key: &str, number: usize, most: usize) -> Result<usize, InferenceError> {
    if (1..=most).contains(&number) {
        Ok(number)
    } else {
        Err(file.damaged(format!("{key} is {number}, it should be from 1 to {most}")))
    }
}
