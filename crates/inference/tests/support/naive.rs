//! A Llama forward pass written out in plain `f32` loops over dequantised weights: slow, and hard to get wrong.

use std::collections::HashMap;
use std::io::Cursor;

use candle_core::Device;
use candle_core::quantized::gguf_file::Content;

pub(crate) struct NaiveLlama {
    tensors: HashMap<String, Vec<f32>>,
    layers: usize,
    width: usize,
    heads: usize,
    kv_heads: usize,
    head_size: usize,
    rope_base: f32,
    epsilon: f32,
}

impl NaiveLlama {
    pub(crate) fn new(gguf: &[u8]) -> Self {
        let mut reader = Cursor::new(gguf);
        let content = Content::read(&mut reader).unwrap();
        let number = |key: &str| content.metadata[key].to_u32().unwrap() as usize;
        let tensors = content
            .tensor_infos
            .keys()
            .map(|name| {
                let tensor = content.tensor(&mut reader, name, &Device::Cpu).unwrap();
                let dense = tensor.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap();
                (name.clone(), dense.to_vec1().unwrap())
            })
            .collect();
        Self {
            tensors,
            layers: number("llama.block_count"),
            width: number("llama.embedding_length"),
            heads: number("llama.attention.head_count"),
            kv_heads: number("llama.attention.head_count_kv"),
            head_size: number("llama.attention.key_length"),
            rope_base: content.metadata["llama.rope.freq_base"].to_f32().unwrap(),
            epsilon: content.metadata["llama.attention.layer_norm_rms_epsilon"].to_f32().unwrap(),
        }
    }

    /// Logits after the last of `tokens`.
    pub(crate) fn logits(&self, tokens: &[u32]) -> Vec<f32> {
        let (head, width) = (self.head_size, self.width);
        let mut hidden: Vec<Vec<f32>> = tokens
            .iter()
            .map(|token| self.tensors["token_embd.weight"][*token as usize * width..][..width].to_vec())
            .collect();
        for layer in 0..self.layers {
            let weight = |part: &str| &self.tensors[&format!("blk.{layer}.{part}.weight")];
            let (mut queries, mut keys, mut values) = (Vec::new(), Vec::new(), Vec::new());
            for (position, row) in hidden.iter().enumerate() {
                let normed = self.norm(row, weight("attn_norm"));
                queries.push(self.rotate(times(weight("attn_q"), &normed), position));
                keys.push(self.rotate(times(weight("attn_k"), &normed), position));
                values.push(times(weight("attn_v"), &normed));
            }
            for (position, row) in hidden.iter_mut().enumerate() {
                let mut attended = vec![0f32; self.heads * head];
                for h in 0..self.heads {
                    let shared = h / (self.heads / self.kv_heads) * head;
                    let query = &queries[position][h * head..][..head];
                    let scores: Vec<f32> = keys[..=position]
                        .iter()
                        .map(|key| dot(query, &key[shared..][..head]) / (head as f32).sqrt())
                        .collect();
                    let max = scores.iter().copied().fold(f32::MIN, f32::max);
                    let weights: Vec<f32> = scores.iter().map(|score| (score - max).exp()).collect();
                    let sum: f32 = weights.iter().sum();
                    for (weight, value) in weights.iter().zip(&values) {
                        for d in 0..head {
                            attended[h * head + d] += weight / sum * value[shared + d];
                        }
                    }
                }
                add(row, &times(weight("attn_output"), &attended));
                let normed = self.norm(row, weight("ffn_norm"));
                let up = times(weight("ffn_up"), &normed);
                let gated: Vec<f32> = times(weight("ffn_gate"), &normed)
                    .iter()
                    .zip(&up)
                    .map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up)
                    .collect();
                add(row, &times(weight("ffn_down"), &gated));
            }
        }
        let last = self.norm(hidden.last().unwrap(), &self.tensors["output_norm.weight"]);
        let head = self.tensors.get("output.weight").unwrap_or(&self.tensors["token_embd.weight"]);
        times(head, &last)
    }

    fn norm(&self, row: &[f32], weight: &[f32]) -> Vec<f32> {
        let mean = dot(row, row) / row.len() as f32;
        let scale = 1.0 / (mean + self.epsilon).sqrt();
        row.iter().zip(weight).map(|(value, weight)| value * scale * weight).collect()
    }

    fn rotate(&self, mut row: Vec<f32>, position: usize) -> Vec<f32> {
        for head in row.chunks_exact_mut(self.head_size) {
            for pair in 0..self.head_size / 2 {
                let angle = position as f32 * self.rope_base.powf(-2.0 * pair as f32 / self.head_size as f32);
                let (x, y) = (head[2 * pair], head[2 * pair + 1]);
                head[2 * pair] = x * angle.cos() - y * angle.sin();
                head[2 * pair + 1] = x * angle.sin() + y * angle.cos();
            }
        }
        row
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn times(matrix: &[f32], row: &[f32]) -> Vec<f32> {
    matrix.chunks_exact(row.len()).map(|weights| dot(weights, row)).collect()
}

fn add(sum: &mut [f32], term: &[f32]) {
    for (sum, term) in sum.iter_mut().zip(term) {
        *sum += term;
    }
}
