//! Small Llama models with random weights, written as GGUF files, for tests and benches.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(
    clippy::unwrap_used,
    reason = "a bench includes this too, where the exemption for tests does not reach"
)]

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

/// The control tokens that the shipped model has, in id order after the text tokens.
pub(crate) const CONTROL: [&str; 5] = ["<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>"];

/// The chat template of the shipped model.
pub(crate) const TEMPLATE: &str = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if m.role == 'assistant' %}<|end|>{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";

/// Merges of the tokenizer, best first, in GPT-2's spelling.
pub(crate) const MERGES: &[&str] = &[
    "t h", "th e", "i n", "a n", "e r", "o n", "r e", "Ġ the", "Ġ a", "Ġ t", "in g", "an d", "Ġ and", "{ \"",
    "\" :", "\": \"", "\" ,", "\", \"", "\" }", "o r", "or d", "ord er", "a c", "t i", "ti on", "ac tion",
    "Ã ©",
];

/// The shape of a random model.
#[derive(Debug, Clone)]
pub(crate) struct RandomLlama {
    pub(crate) layers: usize,
    pub(crate) width: usize,
    pub(crate) feed_forward: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_size: usize,
    /// Whether the output head is the embedding.
    pub(crate) tied: bool,
    pub(crate) dtype: GgmlDType,
    /// Type of the embedding and the output head.
    pub(crate) embedding_dtype: GgmlDType,
    pub(crate) context: u32,
    /// Text tokens in all; the control tokens come on top. At least 256 and the merges.
    pub(crate) text_tokens: usize,
    pub(crate) seed: u64,
}

impl Default for RandomLlama {
    fn default() -> Self {
        Self {
            layers: 2,
            width: 64,
            feed_forward: 96,
            heads: 2,
            kv_heads: 1,
            head_size: 32,
            tied: true,
            dtype: GgmlDType::Q8_0,
            embedding_dtype: GgmlDType::Q8_0,
            context: 512,
            text_tokens: 300,
            seed: 1,
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Uniform in [-1, 1).
    pub(crate) fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / 8_388_608.0 - 1.0
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }
}

/// GPT-2's spelling of a byte.
pub(crate) fn spelled(byte: u8) -> String {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let code = if printable(byte) {
        u32::from(byte)
    } else {
        let others_before = (0..byte).filter(|other| !printable(*other)).count();
        0x100 + u32::try_from(others_before).unwrap()
    };
    char::from_u32(code).unwrap().to_string()
}

impl RandomLlama {
    /// All tokens, text first, then [`CONTROL`].
    pub(crate) fn tokens(&self) -> Vec<String> {
        let mut tokens: Vec<String> = (0..=255u8).map(spelled).collect();
        tokens.extend(MERGES.iter().map(|merge| merge.replace(' ', "")));
        assert!(tokens.len() <= self.text_tokens);
        tokens.extend((tokens.len()..self.text_tokens).map(|id| format!("~{id}~")));
        tokens.extend(CONTROL.iter().map(|text| (*text).to_owned()));
        tokens
    }

    fn tensors(&self) -> Vec<(String, QTensor)> {
        let mut random = Random(self.seed);
        let mut matrix = |rows: usize, columns: usize, spread: f32, dtype: GgmlDType| {
            let numbers: Vec<f32> = (0..rows * columns).map(|_| random.signed() * spread).collect();
            let tensor = Tensor::from_vec(numbers, (rows, columns), &Device::Cpu).unwrap();
            QTensor::quantize(&tensor, dtype).unwrap()
        };
        // Uniform in ±sqrt(3 / n) has variance 1 / n, which keeps activations at the same size.
        let fan = |columns: usize| (3.0 / columns as f32).sqrt();
        let vocabulary = self.text_tokens + CONTROL.len();
        let (query, kv) = (self.heads * self.head_size, self.kv_heads * self.head_size);
        let mut tensors =
            vec![("token_embd.weight".to_owned(), matrix(vocabulary, self.width, 0.3, self.embedding_dtype))];
        if !self.tied {
            let spread = fan(self.width) * 2.0;
            tensors.push((
                "output.weight".to_owned(),
                matrix(vocabulary, self.width, spread, self.embedding_dtype),
            ));
        }
        for layer in 0..self.layers {
            for (part, rows, columns) in [
                ("attn_q", query, self.width),
                ("attn_k", kv, self.width),
                ("attn_v", kv, self.width),
                ("attn_output", self.width, query),
                ("ffn_gate", self.feed_forward, self.width),
                ("ffn_up", self.feed_forward, self.width),
                ("ffn_down", self.width, self.feed_forward),
            ] {
                tensors.push((
                    format!("blk.{layer}.{part}.weight"),
                    matrix(rows, columns, fan(columns), self.dtype),
                ));
            }
        }
        let mut norm = |name: String| {
            let numbers: Vec<f32> = (0..self.width).map(|_| 1.0 + 0.2 * random.signed()).collect();
            let tensor = Tensor::from_vec(numbers, self.width, &Device::Cpu).unwrap();
            (name, QTensor::quantize(&tensor, GgmlDType::F32).unwrap())
        };
        for layer in 0..self.layers {
            tensors.push(norm(format!("blk.{layer}.attn_norm.weight")));
            tensors.push(norm(format!("blk.{layer}.ffn_norm.weight")));
        }
        tensors.push(norm("output_norm.weight".to_owned()));
        tensors
    }

    /// The metadata of the file, to be changed by tests of broken files.
    pub(crate) fn metadata(&self) -> Vec<(&'static str, Value)> {
        let number = |value: usize| Value::U32(u32::try_from(value).unwrap());
        let text = |value: &str| Value::String(value.to_owned());
        let tokens = self.tokens();
        let types =
            (0..tokens.len()).map(|id| Value::I32(if id < self.text_tokens { 1 } else { 3 })).collect();
        vec![
            ("general.architecture", text("llama")),
            ("general.name", text("random llama")),
            ("llama.context_length", Value::U32(self.context)),
            ("llama.embedding_length", number(self.width)),
            ("llama.block_count", number(self.layers)),
            ("llama.feed_forward_length", number(self.feed_forward)),
            ("llama.attention.head_count", number(self.heads)),
            ("llama.attention.head_count_kv", number(self.kv_heads)),
            ("llama.attention.key_length", number(self.head_size)),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
            ("llama.rope.freq_base", Value::F32(10_000.0)),
            ("llama.rope.dimension_count", number(self.head_size)),
            ("tokenizer.ggml.model", text("gpt2")),
            ("tokenizer.ggml.pre", text("kintsugi")),
            ("tokenizer.ggml.token_type", Value::Array(types)),
            ("tokenizer.ggml.eos_token_id", number(tokens.len() - 1)),
            ("tokenizer.ggml.tokens", Value::Array(tokens.into_iter().map(Value::String).collect())),
            ("tokenizer.ggml.merges", Value::Array(MERGES.iter().map(|merge| text(merge)).collect())),
            ("tokenizer.chat_template", text(TEMPLATE)),
        ]
    }

    /// The file's bytes, with `change` applied to its metadata.
    pub(crate) fn gguf_with(&self, change: impl FnOnce(&mut Vec<(&'static str, Value)>)) -> Vec<u8> {
        let mut metadata = self.metadata();
        change(&mut metadata);
        let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (*key, value)).collect();
        let tensors = self.tensors();
        let tensors: Vec<(&str, &QTensor)> =
            tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let mut bytes = std::io::Cursor::new(Vec::new());
        gguf_file::write(&mut bytes, &metadata, &tensors).unwrap();
        bytes.into_inner()
    }

    /// The file's bytes.
    pub(crate) fn gguf(&self) -> Vec<u8> {
        self.gguf_with(|_| {})
    }
}
