//! An example's folder: agents, tools, policies and data.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kintsugi_agent::{KindConfig, Limits};
use kintsugi_recover::PolicySet;
use kintsugi_runtime::Population;
use kintsugi_tools::{DatabaseSource, LoadContext, Registry};
use kintsugi_types::{AgentKind, ToolName};
use serde::Deserialize;

use crate::failure::{Explain, Failure};
use crate::settings::{Settings, did_you_mean};

/// A kind of agent as `agents/*.toml` declares it.
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

/// An example, read.
pub(crate) struct Example {
    /// The folder's name.
    pub(crate) name: String,
    /// The tools.
    pub(crate) tools: Arc<Registry>,
    /// The kinds of agent.
    pub(crate) kinds: BTreeMap<AgentKind, Arc<KindConfig>>,
    /// How many agents of each kind.
    pub(crate) population: Vec<Population>,
    /// The policies of recovery.
    pub(crate) policies: Arc<PolicySet>,
    /// BLAKE3 over all files that make the configuration, in base 16.
    pub(crate) config_hash: String,
}

/// Files that belong to the example itself; everything else at its top is data and is copied.
const OWN_FILES: [&str; 3] = ["kintsugi.toml", "goals.jsonl", "README.md"];

/// Checks that `dir` is an example, and gives its name.
pub(crate) fn name_of(dir: &Path) -> Result<String, Failure> {
    if !dir.is_dir() {
        return Err(Failure::usage(format_args!(
            "{} is no folder: name an example's folder, such as examples/support-desk",
            dir.display()
        )));
    }
    if !dir.join("agents").is_dir() {
        return Err(Failure::usage(format_args!(
            "{} is no example: it has no folder `agents` with at least one agent kind",
            dir.display()
        )));
    }
    let absolute = dir.canonicalize().outside(|| format!("find {}", dir.display()))?;
    Ok(absolute.file_name().map_or_else(|| "example".to_owned(), |name| name.to_string_lossy().into_owned()))
}

/// Copies the example's data files to `files`, unless they are there already from before.
pub(crate) fn copy_data(dir: &Path, files: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(files).outside(|| format!("create {}", files.display()))?;
    for entry in std::fs::read_dir(dir).outside(|| format!("list {}", dir.display()))? {
        let entry = entry.outside(|| format!("list {}", dir.display()))?;
        let name = entry.file_name();
        let is_data = entry.path().is_file() && !OWN_FILES.iter().any(|own| name == *own);
        let target = files.join(&name);
        if is_data && !target.exists() {
            // Renamed into place, so that a copy that was cut short is never taken for the data.
            let partial = files.join(format!(".{}.partial", name.to_string_lossy()));
            std::fs::copy(entry.path(), &partial)
                .and_then(|_| std::fs::rename(&partial, &target))
                .outside(|| format!("copy {} to {}", entry.path().display(), target.display()))?;
        }
    }
    Ok(())
}

/// Loads an example whose data lies in `files`. `agents` overrides how many agents there are in all.
pub(crate) fn load(
    dir: &Path,
    files: &Path,
    settings: &Settings,
    agents: Option<u32>,
) -> Result<Example, Failure> {
    let name = name_of(dir)?;
    let mut hasher = blake3::Hasher::new();
    let databases = DatabaseSource::Folder(files.to_owned());
    #[expect(clippy::disallowed_methods, reason = "the binary is where secrets come from the environment")]
    let secrets = |name: &str| std::env::var(name).ok();
    let context = LoadContext { databases: &databases, secrets: &secrets };
    let tools_dir = dir.join("tools");
    let tools = if tools_dir.is_dir() {
        Registry::load(&tools_dir, &context).map_err(Failure::usage)?
    } else {
        Registry::default()
    };
    hash_folder(&mut hasher, &tools_dir)?;
    hash_folder(&mut hasher, &dir.join("agents"))?;
    hash_folder(&mut hasher, &dir.join("policies"))?;
    let (mut kinds, mut population) = (BTreeMap::new(), Vec::new());
    let declarations = sorted_files(&dir.join("agents"), "toml")?;
    if declarations.is_empty() {
        return Err(Failure::usage(format_args!(
            "{} declares no kind of agent: write one, for example {}",
            dir.join("agents").display(),
            dir.join("agents/support.toml").display()
        )));
    }
    for file in declarations {
        let text = std::fs::read_to_string(&file).outside(|| format!("read {}", file.display()))?;
        let declared: KindFile = toml::from_str(&text).map_err(|error| {
            let hint = did_you_mean(error.message());
            Failure::usage(format_args!("{}: {}{hint}", file.display(), error.to_string().trim_end()))
        })?;
        let mut specs = Vec::with_capacity(declared.tools.len());
        for tool in &declared.tools {
            let spec = tools.spec(tool).ok_or_else(|| {
                Failure::usage(format_args!(
                    "{}: there is no tool `{tool}`: declare it in {}",
                    file.display(),
                    tools_dir.join(format!("{tool}.toml")).display()
                ))
            })?;
            specs.push(spec.clone());
        }
        if declared.count == 0 {
            return Err(Failure::usage(format_args!(
                "{}: `count` is 0: a kind needs at least one agent, or take the file away",
                file.display()
            )));
        }
        if kinds.contains_key(&declared.kind) {
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
            tools: specs,
            limits: declared.limits,
            prices: settings.prices,
            thresholds: settings.healing.thresholds,
            temperature: settings.model.temperature,
            top_p: settings.model.top_p,
            context_tokens: settings.model.context_tokens,
        };
        kinds.insert(declared.kind, Arc::new(config));
    }
    if let Some(wanted) = agents {
        share_out(&mut population, wanted)?;
    }
    let settings_text = toml::to_string(settings).map_err(Failure::usage)?;
    hasher.update(settings_text.as_bytes());
    hasher.update(format!("{population:?}").as_bytes());
    let policies = Arc::new(load_policies(&dir.join("policies"))?);
    let config_hash = hasher.finalize().to_hex().to_string();
    Ok(Example { name, tools: Arc::new(tools), kinds, population, policies, config_hash })
}

fn load_policies(dir: &Path) -> Result<PolicySet, Failure> {
    let files = if dir.is_dir() { sorted_files(dir, "yaml")? } else { Vec::new() };
    match files.as_slice() {
        [] => Ok(PolicySet::builtin()),
        [file] => {
            let text = std::fs::read_to_string(file).outside(|| format!("read {}", file.display()))?;
            PolicySet::parse(&text, &file.display().to_string()).map_err(Failure::usage)
        }
        [_, second, ..] => Err(Failure::usage(format_args!(
            "{}: one file of policies is read, put all of them into it",
            second.display()
        ))),
    }
}

/// Shares `wanted` agents out among the kinds in proportion to what the example says, each at least one.
fn share_out(population: &mut [Population], wanted: u32) -> Result<(), Failure> {
    let kinds = u32::try_from(population.len()).unwrap_or(u32::MAX);
    if wanted < kinds {
        return Err(Failure::usage(format_args!(
            "--agents {wanted}: the example has {kinds} kinds, each needs one"
        )));
    }
    let declared: u64 = population.iter().map(|kind| u64::from(kind.count)).sum::<u64>().max(1);
    let mut left = wanted;
    let mut kinds_left = kinds;
    for kind in population.iter_mut() {
        kinds_left -= 1;
        let share = u64::from(wanted) * u64::from(kind.count) / declared;
        let share = u32::try_from(share).unwrap_or(u32::MAX).clamp(1, left - kinds_left);
        kind.count = if kinds_left == 0 { left } else { share };
        left -= kind.count;
    }
    Ok(())
}

fn sorted_files(dir: &Path, extension: &str) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).outside(|| format!("list {}", dir.display()))? {
        let path = entry.outside(|| format!("list {}", dir.display()))?.path();
        if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn hash_folder(hasher: &mut blake3::Hasher, dir: &Path) -> Result<(), Failure> {
    if !dir.is_dir() {
        return Ok(());
    }
    let mut files: Vec<PathBuf> = Vec::new();
    for extension in ["toml", "yaml"] {
        files.extend(sorted_files(dir, extension)?);
    }
    for file in files {
        let bytes = std::fs::read(&file).outside(|| format!("read {}", file.display()))?;
        hasher.update(file.file_name().map_or(b"".as_slice(), |name| name.as_encoded_bytes()));
        hasher.update(&bytes);
    }
    Ok(())
}
