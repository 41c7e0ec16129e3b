//! From a model's name or path to something that makes engines of it.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use kintsugi_agent::prompt::system_message;
use kintsugi_agent::{KindConfig, SmallerModel};
use kintsugi_gpu_scheduler::BackendFactory;
use kintsugi_inference::{
    AdmitError, Backend, CandleEngine, EngineConfig, InferenceError, ModelSource, Origin, RequestId,
    configure_threads,
};
use kintsugi_types::{CompletionRequest, Grammar, Message, ModelName, Role, Sampling};

use crate::failure::Failure;
use crate::resolved::Resolved;
use crate::settings::SHIPPED_MODEL;
use crate::smaller::{self, Loaded};

/// The model that comes with the program.
static SHIPPED_GGUF: &[u8] = include_bytes!("../../../models/kintsugi-nano.gguf");

/// Where models lie, beside the current directory.
const MODELS_DIR: &str = "models";

/// What engines are made by.
pub(crate) struct Backends {
    /// Those of the main model.
    pub(crate) main: BackendFactory,
    /// Those of the smaller one, and its name.
    pub(crate) smaller: Option<(ModelName, BackendFactory)>,
}

/// The engines that were made to find what is wrong before anything else is started. They have to be dropped before
/// others are made: together they take the whole budget.
#[derive(Debug)]
pub(crate) struct Probe {
    main: CandleEngine,
    smaller: Option<(SmallerModel, CandleEngine)>,
}

impl Probe {
    /// The smaller model, where there is one.
    pub(crate) fn smaller(&self) -> Option<SmallerModel> {
        self.smaller.as_ref().map(|(smaller, _)| smaller.clone())
    }

    /// Whether the instructions and tools of a kind and the longest answer leave room for a goal in the context of each
    /// model. Fails with the name of the smaller one where it is that which has no room.
    pub(crate) fn try_prompt(&mut self, kind: &KindConfig) -> Result<(), (Option<ModelName>, AdmitError)> {
        try_prompt(&mut self.main, kind).map_err(|error| (None, error))?;
        let Some((smaller, engine)) = &mut self.smaller else { return Ok(()) };
        try_prompt(engine, kind).map_err(|error| (Some(smaller.name.clone()), error))
    }
}

fn try_prompt(engine: &mut CandleEngine, kind: &KindConfig) -> Result<(), AdmitError> {
    let request = CompletionRequest {
        messages: vec![
            system_message(&kind.instructions, &kind.tools),
            Message::new(Role::User, String::new()),
        ],
        grammar: Grammar::Free,
        sampling: Sampling { temperature: kind.temperature, top_p: kind.top_p, seed: 0 },
        tokens_max: kind.limits.answer_tokens_max,
    };
    let id = RequestId(0);
    engine.admit(id, request, &Origin::default())?;
    engine.cancel(id);
    Ok(())
}

/// Makes the factories of engines, and an engine of each model to try things with.
pub(crate) fn factory(resolved: &Resolved) -> Result<(Backends, Probe), Failure> {
    let settings = &resolved.settings.model;
    set_threads(settings.threads).map_err(|failure| resolved.at("model.threads", failure))?;
    let model = source(&settings.name).map_err(|failure| resolved.at("model.name", failure))?;
    let (memory_budget, _) = settings.shared_out(settings.memory_budget);
    let (host_memory, _) = settings.shared_out(settings.host_memory);
    let slots = u32::try_from(resolved.settings.node.slots).unwrap_or(u32::MAX);
    let config = EngineConfig {
        model,
        slots,
        context_tokens: settings.context_tokens,
        memory_budget,
        host_memory,
        step_tokens_max: EngineConfig::STEP_TOKENS_DEFAULT.max(slots),
    };
    let main = CandleEngine::load(&config).map_err(|error| {
        let key = match &error {
            InferenceError::BudgetTooSmall { .. } => "model.memory_budget",
            InferenceError::Setting { name: "context_tokens", .. } => "model.context_tokens",
            // How many tokens a step may have follows from the slots.
            InferenceError::Setting { .. } => "node.slots",
            _ => "model.name",
        };
        resolved.at(key, smaller::explain_main(settings, error))
    })?;
    let smaller = smaller::load(resolved, &config, &main)?;
    let (of_smaller, smaller) = smaller.map_or((None, None), |Loaded { model, engine, config }| {
        (Some((model.name.clone(), engines_of(config))), Some((model, engine)))
    });
    Ok((Backends { main: engines_of(config), smaller: of_smaller }, Probe { main, smaller }))
}

fn engines_of(config: EngineConfig) -> BackendFactory {
    Box::new(move || {
        let engine = CandleEngine::load(&config).map_err(|error| error.to_string())?;
        Ok(Box::new(engine) as Box<dyn Backend>)
    })
}

/// A setting that does not go with the model is the user's to mend; for a model that cannot be read another is needed.
pub(crate) fn explain(error: InferenceError) -> Failure {
    match error {
        InferenceError::BudgetTooSmall { needed, .. } => {
            Failure::usage(format_args!("{error} (--memory-budget {})", needed.as_setting()))
        }
        InferenceError::Setting { .. } => Failure::usage(error),
        _ => Failure::outside(error),
    }
}

/// A model by its name or path.
pub(crate) fn source(name: &str) -> Result<ModelSource, Failure> {
    if name == SHIPPED_MODEL {
        return Ok(ModelSource::Bytes { name: SHIPPED_MODEL.to_owned(), bytes: SHIPPED_GGUF.into() });
    }
    let path = Path::new(name);
    if path.is_file() {
        return Ok(ModelSource::Path(path.to_owned()));
    }
    // A name without a folder is that of a model in one of the folders, with its ending or without.
    let is_bare = path.file_name().is_some_and(|file| file == name);
    for folder in folders().into_iter().filter(|_| is_bare) {
        for file in [name.to_owned(), format!("{name}.gguf")] {
            let path = folder.join(file);
            if path.is_file() {
                return Ok(ModelSource::Path(path));
            }
        }
    }
    Err(Failure::outside(format_args!(
        "there is no model {name:?}: give the path of a GGUF file, the name of one that `kintsugi models list` shows, or \
         get one with `kintsugi models pull`"
    )))
}

/// Where models are looked for that are named without a path.
pub(crate) fn folders() -> Vec<PathBuf> {
    let mut folders = vec![PathBuf::from(MODELS_DIR)];
    folders.extend(folder());
    folders
}

/// The user's folder of models: `kintsugi/models` in the data folder of the XDG base directory specification.
pub(crate) fn folder() -> Result<PathBuf, Failure> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let data = absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/share")));
    data.map(|data| data.join("kintsugi/models")).ok_or_else(|| {
        Failure::usage("neither HOME nor XDG_DATA_HOME names a folder for models: name one with --to")
    })
}

/// Inference takes all cores but one, which async work, the log's writer and the tools share.
pub(crate) fn set_threads(wanted: usize) -> Result<(), Failure> {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = if wanted == 0 { cores.saturating_sub(1).max(1) } else { wanted };
    let threads = NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN);
    configure_threads(threads).map_err(Failure::outside)
}
