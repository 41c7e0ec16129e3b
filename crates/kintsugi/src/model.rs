//! From a model's name or path to something that makes engines of it.

use std::num::NonZeroUsize;
use std::path::Path;

use kintsugi_gpu_scheduler::BackendFactory;
use kintsugi_inference::{
    Backend, CandleEngine, EngineConfig, InferenceError, ModelSource, configure_threads,
};

use crate::failure::Failure;
use crate::settings::{ModelSettings, SHIPPED_MODEL};

/// The model that comes with the program.
static SHIPPED_GGUF: &[u8] = include_bytes!("../../../models/kintsugi-nano.gguf");

/// Makes a factory of engines, after one engine was made and thrown away to find what is wrong before anything
/// else is started.
pub(crate) fn factory(settings: &ModelSettings, slots: usize) -> Result<BackendFactory, Failure> {
    set_threads(settings.threads)?;
    let model = source(&settings.name)?;
    let slots = u32::try_from(slots).unwrap_or(u32::MAX);
    let config = EngineConfig {
        model,
        slots,
        context_tokens: settings.context_tokens,
        memory_budget: settings.memory_budget,
        step_tokens_max: EngineConfig::STEP_TOKENS_DEFAULT.max(slots),
    };
    drop(CandleEngine::load(&config).map_err(explain)?);
    Ok(Box::new(move || {
        let engine = CandleEngine::load(&config).map_err(|error| error.to_string())?;
        Ok(Box::new(engine) as Box<dyn Backend>)
    }))
}

/// A setting that does not go with the model is the user's to mend; for a model that cannot be read another is needed.
fn explain(error: InferenceError) -> Failure {
    match error {
        InferenceError::BudgetTooSmall { .. } | InferenceError::Setting { .. } => Failure::usage(error),
        _ => Failure::outside(error),
    }
}

fn source(name: &str) -> Result<ModelSource, Failure> {
    if name == SHIPPED_MODEL {
        return Ok(ModelSource::Bytes { name: SHIPPED_MODEL.to_owned(), bytes: SHIPPED_GGUF.into() });
    }
    let path = Path::new(name);
    if path.is_file() {
        return Ok(ModelSource::Path(path.to_owned()));
    }
    Err(Failure::outside(format_args!(
        "there is no model {name:?}: give the path of a GGUF file, or {SHIPPED_MODEL}, which is shipped"
    )))
}

/// Inference takes all cores but one, which async work, the log's writer and the tools share.
fn set_threads(wanted: usize) -> Result<(), Failure> {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = if wanted == 0 { cores.saturating_sub(1).max(1) } else { wanted };
    let threads = NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN);
    configure_threads(threads).map_err(Failure::outside)
}
