//! The trained model as a GGUF file that any program for Llama models reads.

use std::io::BufWriter;
use std::path::Path;

use anyhow::Context as _;
use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use crate::model::Layout;
use crate::trace::CHAT_TEMPLATE;
use crate::vocabulary::{CONTROL_TOKENS, END, Vocabulary};

/// GGUF's marks for what a token is.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;

/// Writes the model. Matrices are stored as `Q8_0`, gains of norms as F32.
pub fn write(
    path: &Path,
    layout: &Layout,
    parameters: &[f32],
    vocabulary: &Vocabulary,
) -> anyhow::Result<()> {
    let tensors = layout
        .parameters
        .iter()
        .map(|parameter| {
            let values = parameters.get(parameter.range.clone()).context("parameters of another shape")?;
            let (tensor, kind) = if parameter.is_gain() {
                (Tensor::from_slice(values, parameter.columns, &Device::Cpu)?, GgmlDType::F32)
            } else {
                let shape = (parameter.rows, parameter.columns);
                (Tensor::from_slice(values, shape, &Device::Cpu)?, GgmlDType::Q8_0)
            };
            Ok((parameter.name.as_str(), QTensor::quantize(&tensor, kind)?))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let metadata = metadata(layout, vocabulary)?;
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(name, value)| (*name, value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let partial = path.with_extension("partial");
    let file = std::fs::File::create(&partial).with_context(|| format!("create {}", partial.display()))?;
    let mut file = BufWriter::new(file);
    gguf_file::write(&mut file, &metadata, &tensors).context("write the model")?;
    file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
    std::fs::rename(&partial, path).with_context(|| format!("rename to {}", path.display()))
}

fn metadata(layout: &Layout, vocabulary: &Vocabulary) -> anyhow::Result<Vec<(&'static str, Value)>> {
    let shape = layout.shape;
    let count = |value: usize| -> anyhow::Result<Value> { Ok(Value::U32(u32::try_from(value)?)) };
    let text = |value: &str| Value::String(value.to_owned());
    let texts = |values: &[String]| Value::Array(values.iter().cloned().map(Value::String).collect());
    let kinds = (0..vocabulary.tokens.len())
        .map(|id| Value::I32(if id < CONTROL_TOKENS.len() { CONTROL } else { NORMAL }))
        .collect();
    Ok(vec![
        ("general.architecture", text("llama")),
        ("general.name", text("kintsugi-nano")),
        ("general.license", text("apache-2.0")),
        ("general.quantization_version", Value::U32(2)),
        // Mostly Q8_0, in llama.cpp's numbering.
        ("general.file_type", Value::U32(7)),
        ("llama.context_length", count(shape.context)?),
        ("llama.embedding_length", count(shape.width)?),
        ("llama.block_count", count(shape.layers)?),
        ("llama.feed_forward_length", count(shape.ffn)?),
        ("llama.rope.dimension_count", count(shape.head())?),
        ("llama.attention.head_count", count(shape.heads)?),
        ("llama.attention.head_count_kv", count(shape.kv_heads)?),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(shape.norm_epsilon)),
        ("llama.rope.freq_base", Value::F32(shape.rope_base)),
        ("llama.vocab_size", count(shape.vocabulary)?),
        ("tokenizer.ggml.model", text("gpt2")),
        // Every digit alone, then GPT-2's pattern: what llama.cpp calls `smollm`.
        ("tokenizer.ggml.pre", text("smollm")),
        ("tokenizer.ggml.tokens", texts(&vocabulary.tokens)),
        ("tokenizer.ggml.merges", texts(&vocabulary.merges)),
        ("tokenizer.ggml.token_type", Value::Array(kinds)),
        ("tokenizer.ggml.eos_token_id", Value::U32(END)),
        ("tokenizer.ggml.add_bos_token", Value::Bool(false)),
        ("tokenizer.ggml.add_space_prefix", Value::Bool(false)),
        ("tokenizer.chat_template", text(CHAT_TEMPLATE)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Shape;

    #[test]
    fn the_file_holds_the_model_and_its_tokenizer() {
        let shape =
            Shape { vocabulary: 300, width: 256, layers: 1, heads: 4, kv_heads: 2, ffn: 256, ..Shape::NANO };
        let layout = Layout::new(shape);
        let parameters = layout.initial(1);
        let text = "the parcel of an order never arrived although tracking says delivered yesterday";
        let texts = vec![text.to_owned(); 3];
        let vocabulary = Vocabulary::learn(&texts, 300).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        write(&path, &layout, &parameters, &vocabulary).unwrap();
        let mut file = std::fs::File::open(&path).unwrap();
        let content = gguf_file::Content::read(&mut file).unwrap();
        assert_eq!(content.metadata["tokenizer.ggml.tokens"].to_vec().unwrap().len(), 300);
        for parameter in &layout.parameters {
            let tensor = content.tensor(&mut file, &parameter.name, &Device::Cpu).unwrap();
            let tensor = tensor.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap();
            let values = tensor.to_vec1::<f32>().unwrap();
            for (read, written) in values.iter().zip(&parameters[parameter.range.clone()]) {
                assert!((read - written).abs() < 1e-3, "{}", parameter.name);
            }
        }
    }
}
