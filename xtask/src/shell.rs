//! Running other programs, each shown before it runs.

use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// The repository's root.
pub(crate) fn root() -> Result<PathBuf> {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map(ToOwned::to_owned).context("find the repository's root")
}

/// A `cargo` command in the root.
pub(crate) fn cargo<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(arguments: I) -> Result<Command> {
    let mut command = Command::new("cargo");
    command.args(arguments).current_dir(root()?);
    Ok(command)
}

/// Runs `command` under a headline, and fails when it does.
#[expect(clippy::print_stdout, reason = "what runs is shown")]
pub(crate) fn run(headline: &str, command: &mut Command) -> Result<()> {
    println!("\n== {headline}");
    let begun = Instant::now();
    let status = command.status().with_context(|| format!("start {}", command.get_program().display()))?;
    println!("== {headline}: {:.0} s", begun.elapsed().as_secs_f64());
    if !status.success() {
        bail!("{headline} failed: {status}");
    }
    Ok(())
}

/// A program that has to be installed first.
#[derive(Debug)]
pub(crate) struct MissingProgram {
    program: &'static str,
    package: &'static str,
}

impl fmt::Display for MissingProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { program, package } = self;
        write!(f, "missing: {program}; install it with: sudo apt-get install {package}")
    }
}

impl std::error::Error for MissingProgram {}

/// Fails where `program` does not answer to `arguments`; `package` is what brings it.
pub(crate) fn need(program: &'static str, arguments: &[&str], package: &'static str) -> Result<()> {
    let answer = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let is_there = answer.is_ok_and(|status| status.success());
    if is_there { Ok(()) } else { Err(MissingProgram { program, package }.into()) }
}
