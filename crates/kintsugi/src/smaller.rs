//! The second, smaller model: loaded beside the main one, in its part of the memory, or refused with what is wrong.

use kintsugi_agent::SmallerModel;
use kintsugi_inference::{Backend as _, CandleEngine, EngineConfig, InferenceError, ModelSource};
use kintsugi_types::{ByteCount, ModelName};

use crate::failure::Failure;
use crate::model;
use crate::resolved::Resolved;
use crate::settings::ModelSettings;

/// The smaller model, loaded.
pub(crate) struct Loaded {
    pub(crate) model: SmallerModel,
    /// An engine to try things with.
    pub(crate) engine: CandleEngine,
    /// What others are made by.
    pub(crate) config: EngineConfig,
}

/// Loads the smaller model where one is named, as `of_main` says but for its memory. `main` is the engine beside it.
pub(crate) fn load(
    resolved: &Resolved,
    of_main: &EngineConfig,
    main: &CandleEngine,
) -> Result<Option<Loaded>, Failure> {
    const KEY: &str = "model.smaller.name";
    let settings = &resolved.settings.model;
    let Some(name) = &settings.smaller.name else { return Ok(None) };
    let source = model::source(name).map_err(|failure| resolved.at(KEY, failure))?;
    let (_, memory_budget) = settings.shared_out(settings.memory_budget);
    let (_, host_memory) = settings.shared_out(settings.host_memory);
    let config = EngineConfig { model: source.clone(), memory_budget, host_memory, ..of_main.clone() };
    let engine = CandleEngine::load(&config).map_err(|error| {
        let key = if is_too_small(&error) { "model.memory_budget" } else { KEY };
        resolved.at(key, explain(settings, settings.smaller.memory_share, error))
    })?;
    let refuse = |reason: String| Err(resolved.at(KEY, Failure::usage(reason)));
    let (weights, weights_of_main) = (engine.memory().weights, main.memory().weights);
    if weights >= weights_of_main {
        return refuse(format!(
            "{name:?} is no smaller model: its weights take {weights}, those of {:?} {weights_of_main}; name one that \
             takes less, or leave the setting out",
            settings.name
        ));
    }
    let Some(name) = name_of(&engine.info().name, &source, &main.info().name) else {
        return refuse(format!(
            "{name:?} and {:?} both call themselves {:?}, and events could not tell them apart: give the file another \
             name",
            settings.name,
            main.info().name.as_str()
        ));
    };
    let model = SmallerModel { name, context_tokens: engine.info().context_tokens };
    Ok(Some(Loaded { model, engine, config }))
}

/// What the smaller model is called in events: as its file says, and by its file's name where the main one says the
/// same, as another quantization of it does.
fn name_of(named: &ModelName, source: &ModelSource, main: &ModelName) -> Option<ModelName> {
    let stem = match source {
        ModelSource::Path(path) => {
            path.file_stem().and_then(|stem| ModelName::new(stem.to_string_lossy()).ok())
        }
        ModelSource::Bytes { name, .. } => ModelName::new(name).ok(),
    };
    [Some(named.clone()), stem].into_iter().flatten().find(|name| name != main)
}

/// Why the main model cannot be loaded. Its budget is a part of the whole where a smaller one is named.
pub(crate) fn explain_main(settings: &ModelSettings, error: InferenceError) -> Failure {
    if settings.smaller.name.is_none() {
        return model::explain(error);
    }
    explain(settings, 1.0 - settings.smaller.memory_share, error)
}

const fn is_too_small(error: &InferenceError) -> bool {
    matches!(error, InferenceError::BudgetTooSmall { .. })
}

/// Why one of the two, which has this share of the whole budget, cannot be loaded.
fn explain(settings: &ModelSettings, share: f64, error: InferenceError) -> Failure {
    let InferenceError::BudgetTooSmall { file, budget, weights, scratch, kv_least, context_tokens, needed } =
        error
    else {
        return model::explain(error);
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bytes, rounded up; what does not fit is as good as endless"
    )]
    let whole = ByteCount((needed.bytes() as f64 / share).ceil() as u64 + 1);
    Failure::usage(format_args!(
        "memory budget of {} is too small for both models: {file} has {budget} of it and needs {needed}: weights {weights}, \
         activations {scratch}, keys and values of one sequence of {context_tokens} tokens {kv_least}; raise it \
         (--memory-budget {}), lower model.context_tokens, or divide it otherwise: model.smaller.memory_share is {}",
        settings.memory_budget,
        whole.as_setting(),
        settings.smaller.memory_share
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::SmallerSettings;

    #[test]
    fn the_two_parts_are_never_more_than_the_whole() {
        for share in [0.01, 0.1, 0.25, 1.0 / 3.0, 0.5, 0.99] {
            let smaller = SmallerSettings { name: Some("x".to_owned()), memory_share: share };
            let settings = ModelSettings { smaller, ..ModelSettings::default() };
            for bytes in [0, 1, 2, 3, 1_000_003, 1 << 33, (1 << 53) + 1, u64::MAX] {
                let (of_main, of_smaller) = settings.shared_out(ByteCount(bytes));
                assert_eq!(
                    of_main.bytes().checked_add(of_smaller.bytes()),
                    Some(bytes),
                    "{share} of {bytes}"
                );
            }
        }
        let alone = ModelSettings::default();
        assert_eq!(alone.shared_out(ByteCount(7)), (ByteCount(7), ByteCount(0)));
    }

    #[test]
    fn a_model_that_is_called_as_the_main_one_goes_by_its_file() {
        let name = |text: &str| ModelName::new(text).unwrap();
        let file = ModelSource::Path("models/small-q4.gguf".into());
        assert_eq!(name_of(&name("small"), &file, &name("large")), Some(name("small")));
        assert_eq!(name_of(&name("large"), &file, &name("large")), Some(name("small-q4")));
        assert_eq!(name_of(&name("small-q4"), &file, &name("small-q4")), None);
    }
}
