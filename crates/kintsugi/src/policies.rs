//! The policies of an example's folder: read at the start, and again when somebody edits them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kintsugi_recover::PolicySet;
use kintsugi_runtime::SharedPolicies;

use crate::example::sorted_files;
use crate::failure::{Explain as _, Failure};

/// YAML is written with either ending.
const ENDINGS: [&str; 2] = ["yaml", "yml"];

/// How often the folder is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A folder's policies as text, with the file that they stand in; nothing where the built-in ones hold.
type Text = Option<(PathBuf, String)>;

/// Keeps a node's policies as they stand in their folder.
pub(crate) struct PolicyFolder {
    dir: PathBuf,
    shared: SharedPolicies,
    /// What was last taken over or refused; nothing while the folder cannot be read, which was told then.
    settled: Option<Text>,
    /// What the last look found: an edit counts when it has stood for one look, so that half a file is not read.
    found: Option<Text>,
    looked_at: Instant,
}

impl PolicyFolder {
    /// Reads the policies in `dir`.
    pub(crate) fn open(dir: PathBuf) -> Result<Self, Failure> {
        let text = read(&dir)?;
        let shared = SharedPolicies::new(parse(&text)?);
        Ok(Self { dir, shared, settled: Some(text.clone()), found: Some(text), looked_at: Instant::now() })
    }

    /// The policies as they are, and as they will be after an edit.
    pub(crate) fn shared(&self) -> SharedPolicies {
        self.shared.clone()
    }

    /// Looks, now and then, whether somebody edited the policies, and takes them over. Returns what there is to say of
    /// that. A mistake changes nothing: the old ones hold.
    pub(crate) fn follow(&mut self, now: Instant) -> Option<String> {
        if now.duration_since(self.looked_at) < LOOK_EVERY {
            return None;
        }
        self.looked_at = now;
        let refused = |failure: Failure| format!("{}; the policies stay as they were", failure.message);
        let text = match read(&self.dir) {
            Ok(text) => text,
            Err(failure) => {
                self.found = None;
                return self.settled.take().map(|_| refused(failure));
            }
        };
        let found = Some(text.clone());
        let has_stood = self.found == found;
        self.found.clone_from(&found);
        if !has_stood || self.settled == found {
            return None;
        }
        self.settled = found;
        Some(match parse(&text) {
            Ok(policies) => {
                self.shared.replace(policies);
                let place = text.as_ref().map_or(&self.dir, |(file, _)| file);
                format!("policies: taken over from {}", place.display())
            }
            Err(failure) => refused(failure),
        })
    }
}

fn read(dir: &Path) -> Result<Text, Failure> {
    let files = if dir.is_dir() { sorted_files(dir, &ENDINGS)? } else { Vec::new() };
    match files.as_slice() {
        [] => Ok(None),
        [file] => {
            let text = std::fs::read_to_string(file).outside(|| format!("read {}", file.display()))?;
            Ok(Some((file.clone(), text)))
        }
        [_, second, ..] => Err(Failure::usage(format_args!(
            "{}: one file of policies is read, put all of them into it",
            second.display()
        ))),
    }
}

fn parse(text: &Text) -> Result<Arc<PolicySet>, Failure> {
    let policies = match text {
        None => PolicySet::builtin(),
        Some((file, text)) => PolicySet::parse(text, &file.display().to_string()).map_err(Failure::usage)?,
    };
    Ok(Arc::new(policies))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "policies:\n  - { name: one, priority: 1, when: {}, action: retry }\n";

    /// What is said at looks a second apart.
    fn looks(folder: &mut PolicyFolder, count: u64) -> Vec<String> {
        let begun = folder.looked_at;
        (1..=count).filter_map(|second| folder.follow(begun + Duration::from_secs(second))).collect()
    }

    fn names(folder: &PolicyFolder) -> Vec<String> {
        folder.shared().get().policies().iter().map(|policy| policy.name.clone()).collect()
    }

    #[test]
    fn an_edit_is_taken_over_and_a_broken_one_is_told_once_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("p.yaml");
        std::fs::write(&file, ONE).unwrap();
        let mut folder = PolicyFolder::open(dir.path().to_owned()).unwrap();
        assert!(looks(&mut folder, 3).is_empty());

        std::fs::write(&file, ONE.replace("one", "two")).unwrap();
        assert_eq!(looks(&mut folder, 4), [format!("policies: taken over from {}", file.display())]);
        assert_eq!(names(&folder), ["two"]);

        std::fs::write(&file, ONE.replace("retry", "retri")).unwrap();
        let said = looks(&mut folder, 4);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with(&format!("{}:2:", file.display())), "{said:?}");
        assert!(said[0].ends_with("the policies stay as they were"), "{said:?}");
        assert_eq!(names(&folder), ["two"]);

        std::fs::write(dir.path().join("q.yaml"), ONE).unwrap();
        let said = looks(&mut folder, 4);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("q.yaml: one file of policies is read"), "{said:?}");
        std::fs::remove_file(dir.path().join("q.yaml")).unwrap();
        std::fs::write(&file, ONE).unwrap();
        assert_eq!(looks(&mut folder, 4).len(), 1);
        assert_eq!(names(&folder), ["one"]);

        std::fs::remove_file(&file).unwrap();
        assert_eq!(looks(&mut folder, 4).len(), 1);
        assert_eq!(names(&folder).len(), PolicySet::builtin().policies().len());
    }
}
