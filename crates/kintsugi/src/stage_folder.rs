//! Where a stage that runs by itself keeps its cache, and its name among those that share its work.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use kintsugi_runtime::StageName;
use kintsugi_types::{RunId, SystemIds};
use serde::{Deserialize, Serialize};

use crate::backbone::lock;
use crate::failure::{Explain as _, Failure};
use crate::run_folder::RUNS_DIR;

const MANIFEST: &str = "stage.json";

/// What a folder is for.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    stage: String,
    /// What the process is called in the stage's group, for as long as the folder stays.
    member: String,
}

/// The folder of a stage. Other processes are kept out of it.
#[derive(Debug)]
pub(crate) struct StageFolder {
    pub(crate) path: PathBuf,
    /// What this process is called in the stage's group.
    pub(crate) member: String,
    _lock: File,
}

impl StageFolder {
    /// The folder that is named, else the stage's own below the current directory.
    pub(crate) fn open(data_dir: Option<&Path>, stage: StageName) -> Result<Self, Failure> {
        let path =
            data_dir.map_or_else(|| Path::new(RUNS_DIR).join(format!("stage-{stage}")), Path::to_owned);
        if path.join("manifest.json").exists() {
            return Err(Failure::usage(format_args!(
                "{} holds the data of a node or a run: name another folder with --data-dir",
                path.display()
            )));
        }
        std::fs::create_dir_all(&path).map_err(|error| {
            Failure::outside(format_args!(
                "create {}: {error}; name a folder that you may write with --data-dir",
                path.display()
            ))
        })?;
        let lock = lock(&path)?;
        let file = path.join(MANIFEST);
        let manifest: Manifest = match std::fs::read_to_string(&file) {
            Ok(text) => serde_json::from_str(&text).map_err(|error| {
                Failure::outside(format_args!(
                    "{} is not what a stage wrote: {error}; delete the folder, all in it is rebuilt from the cluster",
                    file.display()
                ))
            })?,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let manifest = Manifest {
                    stage: stage.name().to_owned(),
                    member: RunId::new(&mut SystemIds).to_string(),
                };
                write(&path, &file, &manifest)?;
                manifest
            }
            Err(error) => return Err(Failure::outside(format_args!("read {}: {error}", file.display()))),
        };
        if manifest.stage != stage.name() {
            return Err(Failure::usage(format_args!(
                "{} holds the cache of the stage {}, not of {stage}: name another folder with --data-dir",
                path.display(),
                manifest.stage
            )));
        }
        Ok(Self { path, member: manifest.member, _lock: lock })
    }

    /// Where the caches of its lanes lie.
    pub(crate) fn store(&self) -> PathBuf {
        self.path.join("store")
    }
}

/// Writes the manifest whole, or not at all.
fn write(folder: &Path, file: &Path, manifest: &Manifest) -> Result<(), Failure> {
    let partial = folder.join(format!(".{MANIFEST}.partial"));
    let text = serde_json::to_string_pretty(manifest).map_err(Failure::job)?;
    std::fs::write(&partial, text)
        .and_then(|()| File::open(&partial)?.sync_all())
        .and_then(|()| std::fs::rename(&partial, file))
        .outside(|| format!("write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::FailureKind;

    #[test]
    fn a_folder_keeps_its_name_is_one_stages_and_one_processes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stage");
        let first = StageFolder::open(Some(&path), StageName::Diagnose).unwrap();
        let busy = StageFolder::open(Some(&path), StageName::Diagnose).unwrap_err();
        assert_eq!(busy.kind, FailureKind::Outside, "{busy:?}");
        assert!(busy.message.contains("in use by another process"), "{busy:?}");
        let member = first.member.clone();
        drop(first);
        assert_eq!(StageFolder::open(Some(&path), StageName::Diagnose).unwrap().member, member);
        let other = StageFolder::open(Some(&path), StageName::Monitor).unwrap_err();
        assert_eq!(other.kind, FailureKind::Usage, "{other:?}");
        assert!(other.message.contains("of the stage diagnose, not of monitor"), "{other:?}");
    }

    #[test]
    fn the_folder_of_a_node_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("manifest.json"), "{}").unwrap();
        let refused = StageFolder::open(Some(dir.path()), StageName::Recover).unwrap_err();
        assert_eq!(refused.kind, FailureKind::Usage, "{refused:?}");
        assert!(!dir.path().join("lock").exists());
    }
}
