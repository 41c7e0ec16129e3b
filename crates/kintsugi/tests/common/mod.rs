//! What the tests of the program share.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The example that is shipped.
pub(crate) fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/support-desk").canonicalize().unwrap()
}

/// The program that a user runs.
pub(crate) fn kintsugi(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kintsugi"));
    command.args(arguments);
    command
}
