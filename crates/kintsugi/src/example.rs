//! An example's folder: agents, tools, policies and data.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kintsugi_agent::KindConfig;
use kintsugi_runtime::Population;
use kintsugi_tools::{DatabaseSource, LoadContext, Registry};
use kintsugi_types::AgentKind;

use crate::failure::{Explain, Failure};
use crate::kinds::{self, Kinds};
use crate::model::Probe;
use crate::policies::PolicyFolder;
use crate::roster::Roster;
use crate::settings::Settings;

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
    /// Who works in it and with what.
    pub(crate) roster: Roster,
    /// The policies of recovery. Edits are taken over while goals are open, so no configuration depends on them.
    pub(crate) policies: PolicyFolder,
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

/// What SQLite keeps beside a database, by the ending of the name.
const BESIDE_A_DATABASE: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Copies the example's data files to `files`.
///
/// A resumed run keeps the copies that its tools have worked on. A run that begins takes all of them anew, for a
/// start that failed may have left copies of what was mended since.
pub(crate) fn copy_data(dir: &Path, files: &Path, is_resumed: bool) -> Result<(), Failure> {
    std::fs::create_dir_all(files).outside(|| format!("create {}", files.display()))?;
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).outside(|| format!("list {}", dir.display()))? {
        let entry = entry.outside(|| format!("list {}", dir.display()))?;
        let name = entry.file_name();
        if entry.path().is_file() && !OWN_FILES.iter().any(|own| name == *own) {
            names.push(name);
        }
    }
    if !is_resumed {
        // Before anything is copied, for the example may hold such files too.
        names.iter().try_for_each(|name| remove_beside(files, name))?;
    }
    for name in names {
        let (from, target) = (dir.join(&name), files.join(&name));
        if is_resumed && target.exists() {
            continue;
        }
        // Renamed into place, so that a copy that was cut short is never taken for the data.
        let partial = files.join(format!(".{}.partial", name.to_string_lossy()));
        std::fs::copy(&from, &partial)
            .and_then(|_| std::fs::rename(&partial, &target))
            .outside(|| format!("copy {} to {}", from.display(), target.display()))?;
    }
    Ok(())
}

/// Removes what SQLite left beside an old copy of `name`: it must not be read into the new one.
fn remove_beside(files: &Path, name: &OsStr) -> Result<(), Failure> {
    for ending in BESIDE_A_DATABASE {
        let mut beside = name.to_owned();
        beside.push(ending);
        let file = files.join(beside);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => other.outside(|| format!("remove {}", file.display()))?,
        }
    }
    Ok(())
}

impl Example {
    /// How many agents there are in all.
    pub(crate) fn agents_total(&self) -> u32 {
        self.population.iter().map(|kind| kind.count).sum()
    }
}

/// Loads an example whose data lies in `files`. `agents` overrides how many agents there are in all; `probe` tells
/// whether their prompts fit.
pub(crate) fn load(
    dir: &Path,
    files: &Path,
    settings: &Settings,
    agents: Option<u32>,
    probe: &mut Probe,
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
    let Kinds { configs: kinds, mut population } = kinds::load(dir, &tools, settings, probe)?;
    if let Some(wanted) = agents {
        share_out(&mut population, wanted)?;
    }
    hasher.update(settings.hashed_text().map_err(Failure::usage)?.as_bytes());
    hasher.update(format!("{population:?}").as_bytes());
    let policies = PolicyFolder::open(dir.join("policies"))?;
    let config_hash = hasher.finalize().to_hex().to_string();
    let roster = Roster::new(&population, &tools);
    Ok(Example { name, tools: Arc::new(tools), kinds, population, roster, policies, config_hash })
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

/// The files in `dir` with one of these endings, by name.
pub(crate) fn sorted_files(dir: &Path, endings: &[&str]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).outside(|| format!("list {}", dir.display()))? {
        let path = entry.outside(|| format!("list {}", dir.display()))?.path();
        if path.extension().is_some_and(|found| endings.iter().any(|ending| found == *ending)) {
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
    for file in sorted_files(dir, &["toml"])? {
        let bytes = std::fs::read(&file).outside(|| format!("read {}", file.display()))?;
        hasher.update(file.file_name().map_or(b"".as_slice(), |name| name.as_encoded_bytes()));
        hasher.update(&bytes);
    }
    Ok(())
}
