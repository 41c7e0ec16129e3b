//! Where a run lives, and how an unfinished one is found again.

use std::fs::{remove_dir_all, remove_file};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use kintsugi_eventlog::{LogReader, Lsn, TopicPartition};
use kintsugi_events::Topic;
use kintsugi_types::{Clock, RunId, SystemClock, SystemIds, TenantId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::backbone;
use crate::failure::{Explain, Failure};
use crate::roster::Roster;

/// Where runs live without `--data-dir`, beside the current directory.
pub(crate) const RUNS_DIR: &str = ".kintsugi";

const MANIFEST: &str = "manifest.json";

/// What a run is. It may be resumed only by the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// The run's id, and its tenant.
    pub(crate) run: RunId,
    /// The example's name.
    pub(crate) example: String,
    /// BLAKE3 of the goals, in base 16.
    pub(crate) goals_hash: String,
    /// How many goals there are.
    pub(crate) goals: usize,
    /// BLAKE3 of the configuration, in base 16.
    pub(crate) config_hash: String,
    /// The seed.
    pub(crate) seed: u64,
    /// When it began.
    pub(crate) started_at: Timestamp,
    /// Whether it came to its end.
    pub(crate) is_finished: bool,
    /// Whether it is no run but the data of a long-lived node, which takes goals at any time.
    #[serde(default)]
    pub(crate) is_served: bool,
    /// Where a run's events lie that is worked on a cluster: not in this folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cluster: Option<OnCluster>,
    /// Who works in it and with what. Missing where an older version wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) roster: Option<Roster>,
}

/// Where the events of a run lie that is worked on a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OnCluster {
    /// What the names of its topics begin with.
    pub(crate) prefix: String,
    /// No event of the run lies before this.
    pub(crate) from: Lsn,
    /// Where the partitions of the goals ended when it began.
    #[serde(default)]
    pub(crate) goals: Vec<u64>,
    /// The same of the results.
    #[serde(default)]
    pub(crate) results: Vec<u64>,
}

impl OnCluster {
    /// A run that begins now.
    pub(crate) fn begin(prefix: String, log: &dyn LogReader, partitions: u32) -> Self {
        let ends = |topic| {
            let of = |partition| log.end_offset(TopicPartition::new(topic, partition));
            (0..partitions).map(of).collect()
        };
        Self { prefix, from: log.end_lsn(), goals: ends(Topic::Goals), results: ends(Topic::Results) }
    }

    /// Refuses to go on where the cluster has deleted what tells which goals were published and have ended: a goal
    /// that its lane knows would be waited for without end.
    pub(crate) fn check_kept(&self, log: &dyn LogReader) -> Result<(), Failure> {
        for (topic, ends) in [(Topic::Goals, &self.goals), (Topic::Results, &self.results)] {
            for (partition, end) in (0..).zip(ends) {
                let at = TopicPartition::new(topic, partition);
                let start = log.start_offset(at);
                if start > *end {
                    return Err(Failure::outside(format_args!(
                        "{at} begins at {start}, and the run began at {end}: the cluster has deleted events of the run, \
                         so what became of its goals is not known; begin anew with another --data-dir, and keep the \
                         topics for longer (`retention.ms`)"
                    )));
                }
            }
        }
        Ok(())
    }
}

/// A run's folder.
#[derive(Debug)]
pub(crate) struct RunFolder {
    pub(crate) path: PathBuf,
    pub(crate) manifest: Manifest,
    /// Whether it was there before, unfinished.
    pub(crate) is_resumed: bool,
    traces: Traces,
}

/// What a start has made in the file system so far. It is taken away where the start is refused, so that only what
/// was begun leaves a folder behind.
#[derive(Debug, Default)]
struct Traces {
    /// Folders that were not there before, the outermost first.
    folders: Vec<PathBuf>,
    /// What the start makes in the run's folder, as far as it was not there.
    content: Vec<PathBuf>,
    /// Whether the lock of the log or of the folder is held: without it the content may be another process's.
    is_locked: bool,
}

impl Drop for Traces {
    fn drop(&mut self) {
        // What cannot be taken away stays: the refusal is what has to be told.
        if self.is_locked {
            for path in &self.content {
                let _ = if path.is_dir() { remove_dir_all(path) } else { remove_file(path) };
            }
        }
        for folder in self.folders.iter().rev() {
            // Only where it is empty: somebody else may have begun something in it.
            let _ = std::fs::remove_dir(folder);
        }
    }
}

impl RunFolder {
    pub(crate) fn log(path: &Path) -> PathBuf {
        path.join("log")
    }

    /// A folder that holds what can go on.
    fn found(path: PathBuf, manifest: Manifest) -> Self {
        Self { path, manifest, is_resumed: true, traces: Traces::default() }
    }

    /// Where the copies of the example's data lie, which tools work on.
    pub(crate) fn files(&self) -> PathBuf {
        self.path.join("files")
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path.join("store")
    }

    /// The tenant that the run's goals belong to.
    pub(crate) fn tenant(&self) -> Result<TenantId, Failure> {
        TenantId::new(self.manifest.run.to_string()).map_err(Failure::usage)
    }

    /// Checks, once the log is locked, that nobody else worked here after the folder was looked at.
    pub(crate) fn check_unchanged(&mut self) -> Result<(), Failure> {
        if manifest_of(&self.path)?.as_ref() == self.is_resumed.then_some(&self.manifest) {
            self.traces.is_locked = true;
            return Ok(());
        }
        Err(Failure::outside(format_args!(
            "another process worked in {} in this moment: repeat the command, or name another folder with \
             --data-dir",
            self.path.display()
        )))
    }

    /// Writes the manifest: from here on the folder stays, whatever comes.
    pub(crate) fn save(&mut self) -> Result<(), Failure> {
        let file = self.path.join(MANIFEST);
        let partial = self.path.join(format!(".{MANIFEST}.partial"));
        let text = serde_json::to_string_pretty(&self.manifest).map_err(Failure::job)?;
        std::fs::write(&partial, text)
            .and_then(|()| std::fs::File::open(&partial)?.sync_all())
            .and_then(|()| std::fs::rename(&partial, &file))
            .outside(|| format!("write {}", file.display()))?;
        self.traces.content.clear();
        self.traces.folders.clear();
        Ok(())
    }
}

/// Reads the manifest of the run in `path`, if there is one.
pub(crate) fn manifest_of(path: &Path) -> Result<Option<Manifest>, Failure> {
    let file = path.join(MANIFEST);
    match std::fs::read_to_string(&file) {
        Ok(text) => serde_json::from_str(&text).map(Some).map_err(|error| {
            Failure::outside(format_args!("{} is no manifest of a run: {error}", file.display()))
        }),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(Failure::outside(format_args!("read {}: {error}", file.display()))),
    }
}

/// What the run would be if it were begun now.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) example: &'a str,
    pub(crate) goals_hash: String,
    pub(crate) goals: usize,
    pub(crate) seed: u64,
    /// What the names of topics begin with, where the run is to be worked on a cluster.
    pub(crate) cluster: Option<&'a str>,
}

impl Wanted<'_> {
    fn fits(&self, manifest: &Manifest) -> bool {
        !manifest.is_finished
            && !manifest.is_served
            && manifest.example == self.example
            && manifest.goals_hash == self.goals_hash
            && manifest.seed == self.seed
            && manifest.cluster.as_ref().map(|cluster| cluster.prefix.as_str()) == self.cluster
    }

    fn begin(&self, path: PathBuf, run: RunId) -> RunFolder {
        RunFolder {
            path,
            manifest: Manifest {
                run,
                example: self.example.to_owned(),
                goals_hash: self.goals_hash.clone(),
                goals: self.goals,
                config_hash: String::new(),
                seed: self.seed,
                started_at: SystemClock.now(),
                is_finished: false,
                is_served: false,
                cluster: self
                    .cluster
                    .map(|prefix| OnCluster { prefix: prefix.to_owned(), ..OnCluster::default() }),
                roster: None,
            },
            is_resumed: false,
            traces: Traces::default(),
        }
    }
}

/// The folder of the run: the one named, else an unfinished one of the same, else a new one.
pub(crate) fn find_or_begin(data_dir: Option<&Path>, wanted: &Wanted<'_>) -> Result<RunFolder, Failure> {
    if let Some(path) = data_dir {
        return match manifest_of(path)? {
            None => create(wanted.begin(path.to_owned(), RunId::new(&mut SystemIds))),
            Some(manifest) if wanted.fits(&manifest) => Ok(RunFolder::found(path.to_owned(), manifest)),
            Some(manifest) if manifest.is_served => Err(Failure::usage(format_args!(
                "{} holds the data of a node that `kintsugi up` runs: name an empty folder",
                path.display()
            ))),
            Some(manifest) if manifest.is_finished => Err(Failure::usage(format_args!(
                "{} holds the finished run {}: name an empty folder, or look at it with `kintsugi goals list --data-dir {}`",
                path.display(),
                manifest.run,
                path.display()
            ))),
            Some(manifest) => Err(Failure::usage(format_args!(
                "{} holds the unfinished run {} of other goals, seed, example or log: repeat its command to resume it, or name an empty folder",
                path.display(),
                manifest.run
            ))),
        };
    }
    let runs = Path::new(RUNS_DIR).join(wanted.example);
    for path in newest_first(&runs)? {
        if let Some(manifest) = manifest_of(&path)?.filter(|manifest| wanted.fits(manifest)) {
            return Ok(RunFolder::found(path, manifest));
        }
    }
    let run = RunId::new(&mut SystemIds);
    create(wanted.begin(runs.join(run.to_string()), run))
}

/// The name of a long-lived node's folder, beside the runs of its example.
const NODE_DIR: &str = "up";

/// The folder of a long-lived node: the one named, else the example's own; what lies there goes on.
pub(crate) fn find_or_begin_node(
    data_dir: Option<&Path>,
    example: &str,
    seed: u64,
) -> Result<RunFolder, Failure> {
    let path = data_dir.map_or_else(|| Path::new(RUNS_DIR).join(example).join(NODE_DIR), Path::to_owned);
    match manifest_of(&path)? {
        None => {
            let wanted = Wanted { example, goals_hash: String::new(), goals: 0, seed, cluster: None };
            let mut folder = wanted.begin(path, RunId::new(&mut SystemIds));
            folder.manifest.is_served = true;
            create(folder)
        }
        Some(manifest) if !manifest.is_served => Err(Failure::usage(format_args!(
            "{} holds the run {}, whose goals are fixed: name another folder with --data-dir",
            path.display(),
            manifest.run
        ))),
        Some(manifest) if manifest.example != example => Err(Failure::usage(format_args!(
            "{} holds the data of a node for {}, not for {example}: name another folder with --data-dir",
            path.display(),
            manifest.example
        ))),
        Some(manifest) => Ok(RunFolder::found(path, manifest)),
    }
}

/// Makes the folder, and remembers what was made.
fn create(mut folder: RunFolder) -> Result<RunFolder, Failure> {
    let missing: Vec<PathBuf> = folder
        .path
        .ancestors()
        .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
        .map(Path::to_owned)
        .collect();
    let content =
        [RunFolder::log(&folder.path), folder.files(), folder.store(), backbone::lock_file(&folder.path)];
    folder.traces.content = content.into_iter().filter(|path| !path.exists()).collect();
    folder.traces.folders = missing.into_iter().rev().collect();
    std::fs::create_dir_all(&folder.path).map_err(|error| {
        Failure::outside(format_args!(
            "create {}: {error}; name a folder that you may write with --data-dir",
            folder.path.display()
        ))
    })?;
    Ok(folder)
}

/// The folder of the run or node to look at: the one named, else the one that was started last.
pub(crate) fn to_look_at(data_dir: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(path) = data_dir {
        return if is_run(path) {
            Ok(path.to_owned())
        } else if path.join(MANIFEST).is_file() {
            Err(Failure::usage(format_args!(
                "{} holds no events, they lie on a cluster: name that with --log kafka://HOST:PORT in place of \
                 --data-dir",
                path.display()
            )))
        } else {
            Err(Failure::outside(format_args!(
                "{} holds no run: name the folder that `kintsugi run` was given with --data-dir",
                path.display()
            )))
        };
    }
    let mut runs = Vec::new();
    for example in newest_first(Path::new(RUNS_DIR))? {
        runs.extend(newest_first(&example)?);
    }
    // A damaged manifest is told when its folder is looked at; here it only makes the folder the oldest.
    let started_at = |run: &PathBuf| manifest_of(run).ok().flatten().map(|manifest| manifest.started_at);
    runs.into_iter().filter(|run| is_run(run)).max_by_key(started_at).ok_or_else(|| {
        Failure::outside(format_args!(
            "there is no run below {RUNS_DIR}: start one with `kintsugi run DIR`, or name its folder with --data-dir"
        ))
    })
}

/// A start that failed leaves no manifest, and what is on a cluster no log.
fn is_run(path: &Path) -> bool {
    path.join(MANIFEST).is_file() && RunFolder::log(path).is_dir()
}

fn newest_first(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Failure::outside(format_args!("list {}: {error}", dir.display()))),
    };
    let mut folders = Vec::new();
    for entry in entries {
        let path = entry.outside(|| format!("list {}", dir.display()))?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    folders.sort();
    folders.reverse();
    Ok(folders)
}
