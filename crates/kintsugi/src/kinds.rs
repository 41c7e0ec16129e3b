//! The kinds of agent that an example declares in `agents/*.toml`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use kintsugi_agent::{KindConfig, Limits};
use kintsugi_inference::AdmitError;
use kintsugi_recover::policy::TIME_MS_MAX;
use kintsugi_runtime::Population;
use kintsugi_tools::Registry;
use kintsugi_types::{AgentKind, ModelName, ToolName, ToolSpec};
use serde::Deserialize;

use crate::example::sorted_files;
use crate::failure::{Explain, Failure};
use crate::hint;
use crate::model::Probe;
use crate::settings::Settings;

/// A kind of agent as a file declares it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KindFile {
    kind: AgentKind,
    prompt: String,
    #[serde(default)]
    tools: Vec<ToolName>,
    #[serde(default = "one")]
    count: u32,
    #[serde(default)]
    limits: Limits,
}

const fn one() -> u32 {
    1
}

/// All kinds of an example.
pub(crate) struct Kinds {
    pub(crate) configs: BTreeMap<AgentKind, Arc<KindConfig>>,
    /// How many agents of each kind, as the files say.
    pub(crate) population: Vec<Population>,
}

/// Reads the kinds of the example in `dir`, which may name these tools, and tries each prompt.
pub(crate) fn load(
    dir: &Path,
    tools: &Registry,
    settings: &Settings,
    probe: &mut Probe,
) -> Result<Kinds, Failure> {
    let (mut configs, mut population) = (BTreeMap::new(), Vec::new());
    let declarations = sorted_files(&dir.join("agents"), &["toml"])?;
    if declarations.is_empty() {
        return Err(Failure::usage(format_args!(
            "{} declares no kind of agent: write one, for example {}",
            dir.join("agents").display(),
            dir.join("agents/support.toml").display()
        )));
    }
    for file in declarations {
        let declared = read(&file)?;
        if configs.contains_key(&declared.kind) {
            return Err(Failure::usage(format_args!(
                "{}: another file declares the kind `{}` too: give each kind one file",
                file.display(),
                declared.kind
            )));
        }
        population.push(Population { kind: declared.kind.clone(), count: declared.count });
        let config = KindConfig {
            kind: declared.kind.clone(),
            instructions: declared.prompt,
            tools: specs(&file, &declared.tools, dir, tools)?,
            limits: declared.limits,
            prices: settings.prices,
            thresholds: settings.healing.thresholds,
            temperature: settings.model.temperature,
            top_p: settings.model.top_p,
            population: declared.count,
            context_tokens: settings.model.context_tokens,
            smaller: probe.smaller(),
        };
        probe
            .try_prompt(&config)
            .map_err(|(smaller, error)| too_long(&file, dir, settings, smaller.as_ref(), &error))?;
        configs.insert(declared.kind, Arc::new(config));
    }
    Ok(Kinds { configs, population })
}

fn read(file: &Path) -> Result<KindFile, Failure> {
    let text = std::fs::read_to_string(file).outside(|| format!("read {}", file.display()))?;
    let declared: KindFile = toml::from_str(&text).map_err(|error| {
        let hint = hint::of_message(error.message());
        Failure::usage(format_args!("{}: {}{hint}", file.display(), error.to_string().trim_end()))
    })?;
    if declared.count == 0 {
        return Err(Failure::usage(format_args!(
            "{}: `count` is 0: a kind needs at least one agent, or take the file away",
            file.display()
        )));
    }
    check(file, &declared.limits)?;
    Ok(declared)
}

/// Refuses limits under which no goal can be worked: each would end partial, or wait for ever; or longer than times
/// can be reckoned with.
fn check(file: &Path, limits: &Limits) -> Result<(), Failure> {
    let a_week = format!("at most a week ({TIME_MS_MAX})");
    let facts: [(bool, &str, &dyn fmt::Display, &str); 8] = [
        (limits.steps_max > 0, "steps_max", &limits.steps_max, "at least 1"),
        (limits.tokens_max > 0, "tokens_max", &limits.tokens_max, "at least 1"),
        (limits.seconds_max > 0.0, "seconds_max", &limits.seconds_max, "above 0"),
        (limits.usd_max > 0.0, "usd_max", &limits.usd_max, "above 0"),
        (limits.answer_tokens_max > 0, "answer_tokens_max", &limits.answer_tokens_max, "at least 1"),
        (limits.queue_max > 0, "queue_max", &limits.queue_max, "at least 1"),
        (limits.attempts_max > 0, "attempts_max", &limits.attempts_max, "at least 1"),
        (limits.park_ms <= TIME_MS_MAX, "park_ms", &limits.park_ms, &a_week),
    ];
    let Some((_, key, value, must)) = facts.into_iter().find(|(holds, ..)| !holds) else { return Ok(()) };
    Err(Failure::usage(format_args!(
        "{}: `limits.{key}` is {value}, it must be {must}: change it, or take the line away for the default",
        file.display()
    )))
}

fn specs(file: &Path, names: &[ToolName], dir: &Path, tools: &Registry) -> Result<Vec<ToolSpec>, Failure> {
    let spec = |name: &ToolName| {
        tools.spec(name).cloned().ok_or_else(|| {
            Failure::usage(format_args!(
                "{}: there is no tool `{name}`: declare it in {}",
                file.display(),
                dir.join("tools").join(format!("{name}.toml")).display()
            ))
        })
    };
    names.iter().map(spec).collect()
}

/// Where prompt and answer exceed the context, either can be mended.
fn too_long(
    file: &Path,
    dir: &Path,
    settings: &Settings,
    smaller: Option<&ModelName>,
    error: &AdmitError,
) -> Failure {
    let of = smaller.map_or_else(String::new, |name| format!(" of the smaller model {name}"));
    let AdmitError::TooLong { prompt_tokens, wanted_tokens, context_tokens } = *error else {
        return Failure::usage(format_args!("{}: `prompt` cannot be used{of}: {error}", file.display()));
    };
    let remedy = if context_tokens < settings.model.context_tokens {
        "the model takes no longer one".to_owned()
    } else {
        format!(
            "raise `model.context_tokens` in {} or in the variable KINTSUGI_MODEL__CONTEXT_TOKENS",
            dir.join("kintsugi.toml").display()
        )
    };
    Failure::usage(format_args!(
        "{}: before any goal the prompt takes {prompt_tokens} tokens and an answer up to {wanted_tokens} \
         (`limits.answer_tokens_max`), the context{of} has {context_tokens}: {remedy}; or shorten `prompt`, name \
         fewer tools or lower `limits.answer_tokens_max`",
        file.display()
    ))
}
