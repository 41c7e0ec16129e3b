//! Settings: defaults, then the example's `kintsugi.toml`, then `KINTSUGI_SECTION__KEY`, then flags.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use kintsugi_agent::Prices;
use kintsugi_events::Mode;
use kintsugi_events::health::HealthThresholds;
use kintsugi_types::ByteCount;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::cli::{ModeArgument, NodeArguments};
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
    pub(crate) http: HttpSettings,
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
    /// Host memory that the keys and values of waiting agents may take, beside the budget.
    pub(crate) host_memory: ByteCount,
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
            host_memory: ByteCount::mib(1024),
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

/// The HTTP API of `up`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct HttpSettings {
    /// Where it listens.
    pub(crate) listen: String,
    /// A file that holds the token which every request has to bring; relative to the folder of `kintsugi.toml`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_file: Option<PathBuf>,
    /// Goals that may be open at the same time; further ones are answered with 429.
    pub(crate) open_goals_max: usize,
    /// Event streams that may be open at the same time; further ones are answered with 503.
    pub(crate) streams_max: usize,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:7878".to_owned(),
            token_file: None,
            open_goals_max: 10_000,
            streams_max: 64,
        }
    }
}

/// Where a setting was last set. What no origin is known for is a default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// `kintsugi.toml`.
    File(PathBuf),
    /// This environment variable.
    Variable(String),
    /// This flag.
    Flag(&'static str),
}

/// Settings, and from where each came that is no default, by `section.key`.
#[derive(Debug)]
pub(crate) struct Resolved {
    pub(crate) settings: Settings,
    pub(crate) origins: BTreeMap<String, Origin>,
}

/// Resolves the settings of a node. `listen` is what the flag of that name says.
pub(crate) fn resolve(
    file: &Path,
    flags: &NodeArguments,
    listen: Option<&String>,
) -> Result<Resolved, Failure> {
    let mut table = read_file(file)?;
    let mut origins = BTreeMap::new();
    for key in leaves(&table).into_keys() {
        origins.insert(key, Origin::File(file.to_owned()));
    }
    for (name, value) in std::env::vars_os() {
        if let Some(name) = name.to_str().filter(|name| name.starts_with(VARIABLE_PREFIX))
            && let Some(key) = overlay(&mut table, name, &value.to_string_lossy())?
        {
            origins.insert(key, Origin::Variable(name.to_owned()));
        }
    }
    let mut settings: Settings = table.try_into().map_err(|error| explain(file, &error))?;
    let mut note = |key: &str, flag| origins.insert(key.to_owned(), Origin::Flag(flag));
    if let Some(slots) = flags.slots {
        settings.node.slots = slots;
        note("node.slots", "--slots");
    }
    if let Some(seed) = flags.seed {
        settings.node.seed = seed;
        note("node.seed", "--seed");
    }
    if let Some(model) = &flags.model {
        settings.model.name.clone_from(model);
        note("model.name", "--model");
    }
    if let Some(budget) = flags.memory_budget {
        settings.model.memory_budget = budget;
        note("model.memory_budget", "--memory-budget");
    }
    if let Some(mode) = flags.mode {
        settings.healing.mode = match mode {
            ModeArgument::Observe => Mode::Observe,
            ModeArgument::Recommend => Mode::Recommend,
            ModeArgument::ActNoncritical => Mode::ActNoncritical,
            ModeArgument::Act => Mode::Act,
        };
        note("healing.mode", "--mode");
    }
    if let Some(listen) = listen {
        settings.http.listen.clone_from(listen);
        note("http.listen", "--listen");
    }
    settings.check(file)?;
    Ok(Resolved { settings, origins })
}

/// Every value of a table of tables, by its keys with dots between.
pub(crate) fn leaves(table: &Table) -> BTreeMap<String, &Value> {
    let mut found = BTreeMap::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) => {
                found.extend(leaves(inner).into_iter().map(|(rest, leaf)| (format!("{key}.{rest}"), leaf)));
            }
            leaf => {
                found.insert(key.clone(), leaf);
            }
        }
    }
    found
}

impl Settings {
    /// Refuses values that no node can run with, before they cost a run.
    fn check(&self, file: &Path) -> Result<(), Failure> {
        let Self { node, model, healing, prices, http } = self;
        let thresholds = healing.thresholds;
        let is_price = |price: f64| price.is_finite() && price >= 0.0;
        let facts: [(bool, &str, &dyn fmt::Display, &str); 12] = [
            (node.slots > 0, "node.slots", &node.slots, "at least 1"),
            (node.tool_threads > 0, "node.tool_threads", &node.tool_threads, "at least 1"),
            (node.tool_ms_max > 0, "node.tool_ms_max", &node.tool_ms_max, "at least 1"),
            (model.lease_ms_max > 0, "model.lease_ms_max", &model.lease_ms_max, "at least 1"),
            (
                model.temperature.is_finite() && model.temperature >= 0.0,
                "model.temperature",
                &model.temperature,
                "a number not below 0",
            ),
            (model.top_p > 0.0 && model.top_p <= 1.0, "model.top_p", &model.top_p, "above 0 and at most 1"),
            (
                thresholds.recovering <= thresholds.degraded,
                "healing.thresholds.recovering",
                &thresholds.recovering.get(),
                "at most healing.thresholds.degraded",
            ),
            (
                thresholds.failed <= thresholds.recovering,
                "healing.thresholds.failed",
                &thresholds.failed.get(),
                "at most healing.thresholds.recovering",
            ),
            (
                is_price(prices.prompt_usd_per_million),
                "prices.prompt_usd_per_million",
                &prices.prompt_usd_per_million,
                "a number not below 0",
            ),
            (
                is_price(prices.completion_usd_per_million),
                "prices.completion_usd_per_million",
                &prices.completion_usd_per_million,
                "a number not below 0",
            ),
            (http.open_goals_max > 0, "http.open_goals_max", &http.open_goals_max, "at least 1"),
            (http.streams_max > 0, "http.streams_max", &http.streams_max, "at least 1"),
        ];
        let Some((_, key, value, must)) = facts.into_iter().find(|(holds, ..)| !holds) else { return Ok(()) };
        Err(Failure::usage(format_args!(
            "setting `{key}` is {value}, it must be {must}: change it in {}, in the variable \
             {VARIABLE_PREFIX}{} or in its flag",
            file.display(),
            key.to_ascii_uppercase().replace('.', "__")
        )))
    }
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

/// `KINTSUGI_NODE__SLOTS=4` sets `slots` in `[node]`. Variables without `__` mean something else. Returns the key that
/// was set, `node.slots`.
///
/// Settings are read after each variable, so that a mistake is told with the variable's name.
fn overlay(table: &mut Table, name: &str, value: &str) -> Result<Option<String>, Failure> {
    let path = name.strip_prefix(VARIABLE_PREFIX).unwrap_or(name).to_ascii_lowercase();
    let keys: Vec<&str> = path.split("__").collect();
    if keys.len() < 2 {
        return Ok(None);
    }
    let parsed = toml::from_str::<Table>(&format!("value = {value}"))
        .ok()
        .and_then(|mut parsed| parsed.remove("value"))
        .unwrap_or_else(|| Value::String(value.to_owned()));
    set(table, &keys, parsed);
    table.clone().try_into::<Settings>().map(|_| Some(keys.join("."))).map_err(|error| {
        let hint = did_you_mean(error.message());
        Failure::usage(format_args!(
            "environment variable {name} is {value:?}: {}{hint}",
            error.message().trim_end()
        ))
    })
}

fn set(table: &mut Table, keys: &[&str], value: Value) {
    match keys {
        [] => {}
        [key] => {
            table.insert((*key).to_owned(), value);
        }
        [section, keys @ ..] => {
            let inner = table.entry((*section).to_owned()).or_insert_with(|| Value::Table(Table::new()));
            if !inner.is_table() {
                *inner = Value::Table(Table::new());
            }
            if let Some(inner) = inner.as_table_mut() {
                set(inner, keys, value);
            }
        }
    }
}
