//! From where settings come: defaults, then the example's `kintsugi.toml`, then `KINTSUGI_SECTION__KEY`, then flags.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kintsugi_events::Mode;
use kintsugi_types::ByteCount;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use crate::cli::{ModeArgument, NodeArguments};
use crate::failure::Failure;
use crate::hint;
use crate::settings::{Settings, Unfit};
use crate::variables;

/// Where a setting was last set. What no origin is known for is a default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// `kintsugi.toml`, and the line there.
    File(PathBuf, usize),
    /// This environment variable.
    Variable(String),
    /// This flag.
    Flag(&'static str),
}

/// Settings, and from where each came that is no default, by `section.key`.
#[derive(Debug, Default)]
pub(crate) struct Resolved {
    pub(crate) settings: Settings,
    pub(crate) origins: BTreeMap<String, Origin>,
}

/// What flags say of settings.
#[derive(Debug, Default)]
pub(crate) struct Flags<'a> {
    pub(crate) slots: Option<usize>,
    pub(crate) seed: Option<u64>,
    pub(crate) model: Option<&'a str>,
    pub(crate) smaller_model: Option<&'a str>,
    pub(crate) memory_budget: Option<ByteCount>,
    pub(crate) mode: Option<ModeArgument>,
    pub(crate) listen: Option<&'a str>,
}

impl<'a> From<&'a NodeArguments> for Flags<'a> {
    fn from(arguments: &'a NodeArguments) -> Self {
        Self {
            slots: arguments.slots,
            seed: arguments.seed,
            model: arguments.model.as_deref(),
            smaller_model: arguments.smaller_model.as_deref(),
            memory_budget: arguments.memory_budget,
            mode: arguments.mode,
            listen: None,
        }
    }
}

/// Resolves the settings that hold beside `file`.
pub(crate) fn resolve(file: &Path, flags: &Flags<'_>) -> Result<Resolved, Failure> {
    let (mut table, lines) = read_file(file)?;
    let mut origins = BTreeMap::new();
    for key in leaves(&table).into_keys() {
        let line = lines.get(&key).copied().unwrap_or(1);
        origins.insert(key, Origin::File(file.to_owned(), line));
    }
    for (name, key) in variables::take(&mut table, file.parent().unwrap_or(Path::new(".")))? {
        origins.insert(key, Origin::Variable(name));
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
    if let Some(model) = flags.model {
        model.clone_into(&mut settings.model.name);
        note("model.name", "--model");
    }
    if let Some(model) = flags.smaller_model {
        settings.model.smaller.name = Some(model.to_owned());
        note("model.smaller.name", "--smaller-model");
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
    if let Some(listen) = flags.listen {
        listen.clone_into(&mut settings.http.listen);
        note("http.listen", "--listen");
    }
    let resolved = Resolved { settings, origins };
    resolved.settings.check(|unfit| resolved.refuse(unfit))?;
    Ok(resolved)
}

/// The settings of whoever looks at a cluster: those of the node in `dir`, where there is one.
pub(crate) fn of_cluster(dir: &Path) -> Result<Settings, Failure> {
    let (mut table, _) = read_file(&dir.join("kintsugi.toml"))?;
    variables::take(&mut table, dir)?;
    let resolved = Resolved {
        settings: table.try_into().map_err(|error| explain(&dir.join("kintsugi.toml"), &error))?,
        origins: BTreeMap::new(),
    };
    resolved.settings.check(|unfit| resolved.refuse(unfit))?;
    Ok(resolved.settings)
}

impl Resolved {
    /// Where `key` was set; nothing where it is the default.
    pub(crate) fn place(&self, key: &str) -> Option<String> {
        Some(match self.origins.get(key)? {
            Origin::File(file, line) => format!("{}:{line}", file.display()),
            Origin::Variable(name) => format!("variable {name}"),
            Origin::Flag(flag) => format!("flag {flag}"),
        })
    }

    /// The failure that the value of `key` led to, with the place where it was set.
    pub(crate) fn at(&self, key: &str, failure: Failure) -> Failure {
        let place = self.place(key).unwrap_or_else(|| format!("default of `{key}`"));
        let Failure { kind, message } = failure;
        Failure { kind, message: format!("{place}: {message}") }
    }

    fn refuse(&self, unfit: &Unfit<'_>) -> Failure {
        let Unfit { key, value, must, beside } = unfit;
        let failure = Failure::usage(format_args!(
            "setting `{key}` is {value}, it must be {must}: change it there, in the variable {} or in its flag",
            variables::name_of(key)
        ));
        // Of two that do not fit each other, the one that somebody wrote.
        let place = if self.origins.contains_key(*key) { key } else { beside };
        self.at(place, failure)
    }
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

/// Reads `kintsugi.toml`, and at which line each value stands.
fn read_file(file: &Path) -> Result<(Table, BTreeMap<String, usize>), Failure> {
    match std::fs::read_to_string(file) {
        Ok(text) => {
            // Read once as it stands, so that a mistake is shown with its line.
            toml::from_str::<Settings>(&text).map_err(|error| explain(file, &error))?;
            let table = toml::from_str(&text).map_err(|error| explain(file, &error))?;
            let mut lines = BTreeMap::new();
            if let Ok(spanned) = DeTable::parse(&text) {
                note_lines(&text, "", spanned.get_ref(), &mut lines);
            }
            Ok((table, lines))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok((Table::new(), BTreeMap::new())),
        Err(error) => Err(Failure::outside(format_args!("read {}: {error}", file.display()))),
    }
}

fn explain(file: &Path, error: &toml::de::Error) -> Failure {
    let hint = hint::of_message(error.message());
    Failure::usage(format_args!("{}: {}{hint}", file.display(), error.to_string().trim_end()))
}

fn note_lines(text: &str, section: &str, table: &DeTable<'_>, lines: &mut BTreeMap<String, usize>) {
    for (key, value) in table {
        let name = format!("{section}{}", key.get_ref());
        if let DeValue::Table(inner) = value.get_ref() {
            note_lines(text, &format!("{name}."), inner, lines);
        } else {
            let before = text.get(..key.span().start).unwrap_or_default();
            lines.insert(name, before.matches('\n').count() + 1);
        }
    }
}
