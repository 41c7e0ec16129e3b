//! Rules of style that a program can check. One that nothing checks dies.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use cargo_metadata::MetadataCommand;
use serde::Deserialize;
use spdx::{Expression, Licensee};

use crate::shell::root;

/// The most lines of a source file. Past that, look for the second concept inside.
const LINES_MAX: usize = 500;

/// Marks of work that was left behind, put together so that this file does not hold them.
const LEFT_BEHIND: [&str; 3] = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];

/// Fails with every place that breaks a rule.
pub(crate) fn tidy() -> Result<()> {
    let root = root()?;
    let mut found = Vec::new();
    for file in tracked_files(&root)? {
        if file.extension().is_some_and(|extension| extension == "rs") {
            check_source(&root, &file, &mut found)?;
        }
    }
    check_licences(&root, &mut found)?;
    if found.is_empty() {
        return Ok(());
    }
    bail!("{}", found.join("\n"))
}

fn tracked_files(root: &Path) -> Result<Vec<PathBuf>> {
    let listed = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(root)
        .output()
        .context("run git ls-files")?;
    if !listed.status.success() {
        bail!("git ls-files failed: {}", String::from_utf8_lossy(&listed.stderr));
    }
    let names = String::from_utf8(listed.stdout).context("read file names")?;
    Ok(names
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(PathBuf::from)
        .filter(|file| root.join(file).exists())
        .collect())
}

fn check_source(root: &Path, file: &Path, found: &mut Vec<String>) -> Result<()> {
    let text =
        std::fs::read_to_string(root.join(file)).with_context(|| format!("read {}", file.display()))?;
    let lines = text.lines().count();
    if lines > LINES_MAX {
        found.push(format!(
            "{}: {lines} lines, at most {LINES_MAX}: which second concept is inside?",
            file.display()
        ));
    }
    for (number, line) in text.lines().enumerate() {
        for mark in LEFT_BEHIND {
            if line.split(|c: char| !c.is_ascii_alphabetic()).any(|word| word == mark) {
                found.push(format!("{}:{}: {mark}", file.display(), number + 1));
            }
        }
    }
    Ok(())
}

#[derive(Deserialize)]
struct Deny {
    licenses: Licences,
}

#[derive(Deserialize)]
struct Licences {
    allow: BTreeSet<String>,
}

/// Every dependency has a licence that `deny.toml` allows.
fn check_licences(root: &Path, found: &mut Vec<String>) -> Result<()> {
    let text = std::fs::read_to_string(root.join("deny.toml")).context("read deny.toml")?;
    let deny: Deny = toml::from_str(&text).context("parse deny.toml")?;
    let allowed = deny
        .licenses
        .allow
        .iter()
        .map(|licence| Licensee::parse(licence).with_context(|| format!("parse licence {licence}")))
        .collect::<Result<Vec<_>>>()?;
    let metadata = MetadataCommand::new().current_dir(root).exec().context("run cargo metadata")?;
    for package in metadata.packages.iter().filter(|package| package.source.is_some()) {
        let name = format!("{} {}", package.name, package.version);
        let Some(licence) = &package.license else {
            found.push(format!("{name}: states no licence"));
            continue;
        };
        // Some still write the slash of old.
        let expression = Expression::parse(&licence.replace('/', " OR "))
            .with_context(|| format!("parse licence {licence:?} of {name}"))?;
        if !expression.evaluate(|requirement| allowed.iter().any(|licensee| licensee.satisfies(requirement)))
        {
            found.push(format!("{name}: licence {licence} is not allowed by deny.toml"));
        }
    }
    Ok(())
}
