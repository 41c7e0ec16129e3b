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

/// The shipped model with half of its layers, called `kintsugi-half`: smaller, and not much good.
#[allow(dead_code, reason = "not every test binary has a smaller model")]
pub(crate) fn half_a_model() -> Vec<u8> {
    let mut model = std::fs::read(example().join("../../models/kintsugi-nano.gguf")).unwrap();
    patch(&mut model, "llama.block_count", &4u32.to_le_bytes(), &2u32.to_le_bytes());
    patch(&mut model, "general.name", b"kintsugi-nano", b"kintsugi-half");
    model
}

/// Puts `new` in the place of `old`, the value of `key` in a GGUF file.
#[allow(dead_code, reason = "not every test binary changes a model")]
pub(crate) fn patch(model: &mut [u8], key: &str, old: &[u8], new: &[u8]) {
    let find = |place: usize, wanted: &[u8]| {
        model[place..].windows(wanted.len()).position(|window| window == wanted).map(|found| place + found)
    };
    // Between them stands the type of the value, four bytes.
    let value = find(0, key.as_bytes()).and_then(|place| find(place + key.len() + 4, old)).unwrap();
    model[value..][..new.len()].copy_from_slice(new);
}
