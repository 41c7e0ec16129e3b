//! What `test`, `bench` and `prove` consist of.

use anyhow::{Result, bail};

use crate::kafka::ForTests;
use crate::shell::{cargo, run};
use crate::{clients, generate, reference_model, tidy, validators};

/// Everything that has to hold before a change lands. Tests run in the release profile, so that they test the
/// program that a user runs and one build serves all.
pub(crate) fn test() -> Result<()> {
    run("format", &mut cargo(["fmt", "--all", "--check"])?)?;
    tidy::tidy()?;
    generate::generate(true)?;
    validators::check()?;
    run(
        "lints",
        &mut cargo([
            "clippy",
            "--workspace",
            "--all-targets",
            "--all-features",
            "--locked",
            // The profile of the tests: the C libraries are built once for all.
            "--release",
            "--",
            "-D",
            "warnings",
        ])?,
    )?;
    run(
        "docs",
        cargo(["doc", "--release", "--workspace", "--no-deps", "--locked", "--document-private-items"])?
            .env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    // The tests of the Kafka log start a broker by themselves; begun here, it ends here too.
    let broker = ForTests::begin()?;
    clients::check(&broker.brokers)?;
    run(
        "tests",
        &mut cargo(["test", "--release", "--workspace", "--all-features", "--locked", "--no-fail-fast"])?,
    )
}

/// The clients in `examples/`.
pub(crate) fn clients() -> Result<()> {
    clients::check(&ForTests::begin()?.brokers)
}

/// The benches, each a program that prints its figures with a reference measured in the same run.
const BENCHES: [&str; 8] = ["append", "kafka", "steps", "cluster", "wake", "heal", "decode", "kv"];

/// Runs all benches, or the one named.
pub(crate) fn bench(name: Option<&str>) -> Result<()> {
    let wanted: Vec<_> = BENCHES.iter().filter(|bench| name.is_none_or(|name| name == **bench)).collect();
    if wanted.is_empty() {
        bail!("there is no bench {}; there are {}", name.unwrap_or_default(), BENCHES.join(", "));
    }
    let needs_broker = wanted.iter().any(|bench| **bench == "kafka");
    let _broker = needs_broker.then(ForTests::begin).transpose()?;
    for bench in wanted {
        // With the features of the tests, so that what those built serves here too.
        run(bench, &mut cargo(["bench", "--workspace", "--all-features", "--bench", bench])?)?;
    }
    Ok(())
}

/// The long form of the proofs: all tests, those that take long or need the reference model among them.
pub(crate) fn prove() -> Result<()> {
    let model = reference_model::smollm2()?;
    let mut tests = cargo(["test", "--release", "--workspace", "--all-features", "--locked"])?;
    tests.args(["--no-fail-fast", "--", "--include-ignored", "--nocapture"]).env("SMOLLM2_GGUF", model);
    let _broker = ForTests::begin()?;
    run("long tests", &mut tests)
}
