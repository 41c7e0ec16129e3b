//! `models list` and `models inspect`: GGUF files, what they are and what they need in memory.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kintsugi_inference::{Backend as _, CandleEngine, EngineConfig, GgufFile, ModelSource};
use kintsugi_types::ByteCount;
use serde::Serialize;

use crate::cli::{Format, InspectArguments, ModelsArguments};
use crate::example::sorted_files;
use crate::failure::Failure;
use crate::model;
use crate::settings::SHIPPED_MODEL;
use crate::terminal::{document, entry, json_line, line};

/// What a file says of itself.
#[derive(Debug, Serialize)]
struct Listed {
    model: String,
    architecture: String,
    parameters: u64,
    /// Tensors by the type that their weights are stored in.
    quantization: BTreeMap<String, usize>,
    stored_bytes: ByteCount,
}

/// What it needs, measured on an engine that was made of it.
#[derive(Debug, Serialize)]
struct Inspected {
    #[serde(flatten)]
    listed: Listed,
    name: String,
    context_tokens: u32,
    kv_bytes_per_token: ByteCount,
    slots: u32,
    memory: Needed,
}

#[derive(Debug, Serialize)]
#[expect(clippy::struct_field_names, reason = "units come last in the document's members")]
struct Needed {
    weights_bytes: ByteCount,
    kv_bytes: ByteCount,
    scratch_bytes: ByteCount,
    total_bytes: ByteCount,
}

fn listed(model: String, source: &ModelSource) -> Result<Listed, Failure> {
    let file = GgufFile::open(source).map_err(Failure::outside)?;
    Ok(Listed {
        model,
        architecture: file.architecture().map_err(Failure::outside)?,
        parameters: file.parameters(),
        quantization: file.quantization(),
        stored_bytes: ByteCount(file.tensors_bytes()),
    })
}

pub(crate) fn list(arguments: &ModelsArguments) -> Result<(), Failure> {
    let mut models = vec![(SHIPPED_MODEL.to_owned(), model::source(SHIPPED_MODEL)?)];
    for folder in model::folders().into_iter().filter(|folder| folder.is_dir()) {
        let files = sorted_files(&folder, &["gguf"])?;
        let named = |file: PathBuf| (file.display().to_string(), ModelSource::Path(file));
        models.extend(files.into_iter().map(named));
    }
    if arguments.format == Format::Text {
        line(&format!("{:<32} {:<8} {:>14}  {:>10}  TENSORS", "MODEL", "FAMILY", "PARAMETERS", "STORED"))?;
    }
    for (name, source) in models {
        let listed = listed(name, &source)?;
        match arguments.format {
            Format::Json => json_line(&listed)?,
            Format::Text => line(&format!(
                "{:<32} {:<8} {:>14}  {:>10}  {}",
                listed.model,
                listed.architecture,
                listed.parameters,
                listed.stored_bytes.to_string(),
                types(&listed.quantization)
            ))?,
        }
    }
    Ok(())
}

/// The types, the one of most tensors first.
fn types(quantization: &BTreeMap<String, usize>) -> String {
    let mut types: Vec<_> = quantization.iter().collect();
    types.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), name.as_str()));
    let words: Vec<String> = types.into_iter().map(|(name, count)| format!("{name} x {count}")).collect();
    words.join(", ")
}

pub(crate) fn inspect(arguments: &InspectArguments) -> Result<(), Failure> {
    if arguments.slots == 0 || arguments.context_tokens == 0 {
        return Err(Failure::usage("--slots and --context-tokens must be at least 1"));
    }
    let source = model::source(&arguments.model)?;
    let listed = listed(arguments.model.clone(), &source)?;
    model::set_threads(0)?;
    // An engine without a bound takes what it can use, and tells how much that is.
    let engine = CandleEngine::load(&EngineConfig {
        model: source,
        slots: arguments.slots,
        context_tokens: arguments.context_tokens,
        memory_budget: ByteCount(u64::MAX),
        step_tokens_max: EngineConfig::STEP_TOKENS_DEFAULT.max(arguments.slots),
        host_memory: ByteCount(0),
    })
    .map_err(model::explain)?;
    let (info, memory) = (engine.info(), engine.memory());
    let inspected = Inspected {
        listed,
        name: info.name.to_string(),
        context_tokens: info.context_tokens,
        kv_bytes_per_token: info.kv_bytes_per_token,
        slots: arguments.slots,
        memory: Needed {
            weights_bytes: memory.weights,
            kv_bytes: memory.kv_pool,
            scratch_bytes: memory.scratch,
            total_bytes: memory.total(),
        },
    };
    match arguments.format {
        Format::Json => document(&inspected),
        Format::Text => write(&inspected),
    }
}

fn write(model: &Inspected) -> Result<(), Failure> {
    entry("model", &model.listed.model)?;
    entry("name", &model.name)?;
    entry("architecture", &model.listed.architecture)?;
    entry("parameters", &model.listed.parameters.to_string())?;
    entry("quantization", &types(&model.listed.quantization))?;
    entry("context", &format!("{} tokens, {} each", model.context_tokens, model.kv_bytes_per_token))?;
    entry("stored", &model.listed.stored_bytes.to_string())?;
    let Needed { weights_bytes, kv_bytes, scratch_bytes, total_bytes } = &model.memory;
    entry(
        "memory",
        &format!(
            "{total_bytes} for {} agents at once: weights {weights_bytes}, keys and values {kv_bytes}, \
             activations {scratch_bytes}",
            model.slots
        ),
    )
}
