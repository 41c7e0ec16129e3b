//! Settings: defaults, then the example's `kintsugi.toml`, then `KINTSUGI_SECTION__KEY`, then flags.

use std::path::Path;

use kintsugi_agent::Prices;
use kintsugi_events::Mode;
use kintsugi_events::health::HealthThresholds;
use kintsugi_types::ByteCount;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::cli::{ModeArgument, RunArguments};
use crate::failure::Failure;

/// The name of the model that is shipped in the binary.
pub(crate) const SHIPPED_MODEL: &str = "kintsugi-nano";

/// The prefix of environment variables that are settings.
const VARIABLE_PREFIX: &str = "KINTSUGI_";

/// All settings of a node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) node: NodeSettings,
    pub(crate) model: ModelSettings,
    pub(crate) healing: HealingSettings,
    pub(crate) prices: Prices,
}

/// The node itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct NodeSettings {
    /// Agents on the model at the same time.
    pub(crate) slots: usize,
    /// Seed of all draws.
    pub(crate) seed: u64,
    /// Threads that tools may block at the same time.
    pub(crate) tool_threads: usize,
    /// The longest wait for one tool call, in milliseconds, whatever the tool itself promises.
    pub(crate) tool_ms_max: u64,
}

impl Default for NodeSettings {
    fn default() -> Self {
        Self { slots: 12, seed: 7, tool_threads: 4, tool_ms_max: 30_000 }
    }
}

/// The model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ModelSettings {
    /// A GGUF file, or the name of a shipped model.
    pub(crate) name: String,
    /// Memory that it may take, keys and values included.
    pub(crate) memory_budget: ByteCount,
    /// The longest context, in tokens; at most what the model takes.
    pub(crate) context_tokens: u32,
    /// Temperature of sampling; 0 takes the likeliest token.
    pub(crate) temperature: f32,
    /// Nucleus of sampling.
    pub(crate) top_p: f32,
    /// The longest that one lease lasts, in milliseconds.
    pub(crate) lease_ms_max: u64,
    /// Compute threads; 0 takes all cores but one, at least one.
    pub(crate) threads: usize,
}

impl Default for ModelSettings {
    fn default() -> Self {
        Self {
            name: SHIPPED_MODEL.to_owned(),
            memory_budget: ByteCount::mib(512),
            context_tokens: 1024,
            temperature: 0.0,
            top_p: 1.0,
            lease_ms_max: 60_000,
            threads: 0,
        }
    }
}

/// Healing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct HealingSettings {
    /// How much the system may do by itself.
    pub(crate) mode: Mode,
    /// From which health an agent counts as degraded, recovering, failed.
    pub(crate) thresholds: HealthThresholds,
}

/// Resolves the settings of a run.
pub(crate) fn resolve(file: &Path, flags: &RunArguments) -> Result<Settings, Failure> {
    let mut table = read_file(file)?;
    for (name, value) in std::env::vars().filter(|(name, _)| name.starts_with(VARIABLE_PREFIX)) {
        overlay(&mut table, &name, &value);
    }
    let mut settings: Settings = serde_path(table, file)?;
    if let Some(slots) = flags.slots {
        settings.node.slots = slots;
    }
    if let Some(seed) = flags.seed {
        settings.node.seed = seed;
    }
    if let Some(model) = &flags.model {
        settings.model.name.clone_from(model);
    }
    if let Some(budget) = flags.memory_budget {
        settings.model.memory_budget = budget;
    }
    if let Some(mode) = flags.mode {
        settings.healing.mode = match mode {
            ModeArgument::Observe => Mode::Observe,
            ModeArgument::Recommend => Mode::Recommend,
            ModeArgument::ActNoncritical => Mode::ActNoncritical,
            ModeArgument::Act => Mode::Act,
        };
    }
    if settings.node.slots == 0 {
        return Err(Failure::usage("`slots` is 0: at least one agent has to be on the model"));
    }
    Ok(settings)
}

fn read_file(file: &Path) -> Result<Table, Failure> {
    match std::fs::read_to_string(file) {
        Ok(text) => {
            // Read once as it stands, so that a mistake is shown with its line.
            toml::from_str::<Settings>(&text).map_err(|error| explain(file, &error))?;
            toml::from_str(&text).map_err(|error| explain(file, &error))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Table::new()),
        Err(error) => Err(Failure::outside(format_args!("read {}: {error}", file.display()))),
    }
}

fn explain(file: &Path, error: &toml::de::Error) -> Failure {
    let hint = did_you_mean(error.message());
    Failure::usage(format_args!("{}: {}{hint}", file.display(), error.to_string().trim_end()))
}

/// `unknown field `slotz`, expected one of …` becomes a suggestion.
pub(crate) fn did_you_mean(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let Some(unknown) = quoted.next().filter(|_| message.contains("unknown field")) else {
        return String::new();
    };
    quoted
        .map(|known| (strsim::damerau_levenshtein(unknown, known), known))
        .filter(|(distance, _)| *distance <= 3)
        .min()
        .map_or_else(String::new, |(_, known)| format!("\ndid you mean `{known}`?"))
}

/// `KINTSUGI_NODE__SLOTS=4` sets `slots` in `[node]`. Variables without `__` mean something else.
fn overlay(table: &mut Table, name: &str, value: &str) {
    let Some((section, key)) = name.strip_prefix(VARIABLE_PREFIX).and_then(|rest| rest.split_once("__"))
    else {
        return;
    };
    let parsed = toml::from_str::<Table>(&format!("value = {value}"))
        .ok()
        .and_then(|mut parsed| parsed.remove("value"))
        .unwrap_or_else(|| Value::String(value.to_owned()));
    let section = table.entry(section.to_ascii_lowercase()).or_insert_with(|| Value::Table(Table::new()));
    if let Some(section) = section.as_table_mut() {
        section.insert(key.to_ascii_lowercase(), parsed);
    }
}

fn serde_path(table: Table, file: &Path) -> Result<Settings, Failure> {
    table.try_into().map_err(|error: toml::de::Error| {
        Failure::usage(format_args!(
            "settings from {} and the environment: {}{}",
            file.display(),
            error.message(),
            did_you_mean(error.message())
        ))
    })
}
