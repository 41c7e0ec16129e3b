//! Who may import whom: the layers of `docs/ARCHITECTURE.md`, held by a test.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand, Package};

/// Each crate and what it may import of ours. A crate that is not here does not exist.
const ALLOWED: &[(&str, &[&str])] = &[
    ("kintsugi-types", &[]),
    ("kintsugi-events", &["types"]),
    ("kintsugi-eventlog", &["events", "types"]),
    ("kintsugi-recover", &["events", "types"]),
    ("kintsugi-diagnose", &["events", "types"]),
    ("kintsugi-monitor", &["events", "types"]),
    ("kintsugi-tools", &["events", "types"]),
    ("kintsugi-inference", &["types"]),
    ("kintsugi-gpu-scheduler", &["inference", "types"]),
    ("kintsugi-agent", &["events", "types"]),
    ("kintsugi-chaos", &["events", "types"]),
    (
        "kintsugi-runtime",
        &[
            "agent",
            "chaos",
            "gpu-scheduler",
            "tools",
            "monitor",
            "diagnose",
            "recover",
            "eventlog",
            "events",
            "types",
        ],
    ),
    ("kintsugi-train", &["agent", "tools", "inference", "events", "types"]),
    (
        "kintsugi",
        &[
            "runtime",
            "agent",
            "chaos",
            "gpu-scheduler",
            "inference",
            "tools",
            "monitor",
            "diagnose",
            "recover",
            "eventlog",
            "events",
            "types",
        ],
    ),
];

/// Helpers of development, which may import anything but the binary.
const HELPERS: &[&str] = &["kintsugi-tests", "kintsugi-broker", "xtask"];

/// Outside crates that only some of ours may name.
const RESERVED: &[(&str, &[&str])] = &[
    ("rdkafka", &["kintsugi-eventlog"]),
    ("candle-core", &["kintsugi-inference", "kintsugi-train"]),
    ("candle-nn", &["kintsugi-inference", "kintsugi-train"]),
    ("actix", &["kintsugi-runtime", "kintsugi-gpu-scheduler", "kintsugi-tests"]),
    ("actix-web", &["kintsugi"]),
    ("prometheus-client", &["kintsugi"]),
    ("fjall", &["kintsugi-runtime"]),
    ("rusqlite", &["kintsugi-tools", "kintsugi-train", "kintsugi-tests", "kintsugi"]),
];

fn packages() -> Vec<Package> {
    let metadata = MetadataCommand::new().no_deps().exec().expect("run cargo metadata");
    metadata.workspace_packages().into_iter().cloned().collect()
}

fn imports(package: &Package) -> BTreeSet<String> {
    package
        .dependencies
        .iter()
        .filter(|dependency| dependency.kind != DependencyKind::Development)
        .map(|dependency| dependency.name.clone())
        .collect()
}

#[test]
fn crates_import_only_what_lies_below_them() {
    let allowed: BTreeMap<&str, BTreeSet<String>> = ALLOWED
        .iter()
        .map(|(name, below)| (*name, below.iter().map(|short| format!("kintsugi-{short}")).collect()))
        .collect();
    for package in packages() {
        let ours = imports(&package).into_iter().filter(|name| name.starts_with("kintsugi"));
        if HELPERS.contains(&package.name.as_str()) {
            assert!(ours.into_iter().all(|name| name != "kintsugi"), "{} imports the binary", package.name);
            continue;
        }
        let may =
            allowed.get(package.name.as_str()).unwrap_or_else(|| panic!("{} has no rule", package.name));
        for import in ours {
            assert!(may.contains(&import), "{} imports {import}, which the layers forbid", package.name);
        }
    }
}

#[test]
fn some_outside_crates_have_one_home() {
    for package in packages() {
        let imports = imports(&package);
        for (outside, homes) in RESERVED {
            assert!(
                !imports.contains(*outside) || homes.contains(&package.name.as_str()),
                "{} names {outside}; only {homes:?} may",
                package.name
            );
        }
    }
}

/// The one crate that reads the environment is the binary; tests read what the test runner tells them.
#[test]
fn only_the_binary_reads_the_environment() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    let mut readers = Vec::new();
    visit(&root, &mut |path, text| {
        let crate_name = path.strip_prefix(&root).ok().and_then(|rest| rest.components().next());
        let crate_name =
            crate_name.map(|name| name.as_os_str().to_string_lossy().into_owned()).unwrap_or_default();
        let is_source = path.components().any(|part| part.as_os_str() == "src");
        // candle takes the number of its threads from the environment alone, so one file there has to look.
        let is_excepted = path.ends_with("inference/src/threads.rs");
        if is_source && crate_name != "kintsugi" && !is_excepted && text.contains("env::var") {
            readers.push(path.display().to_string());
        }
    });
    assert!(readers.is_empty(), "these read the environment: {readers:?}");
}

fn visit(folder: &std::path::Path, see: &mut dyn FnMut(&std::path::Path, &str)) {
    for entry in std::fs::read_dir(folder).expect("list folder") {
        let path = entry.expect("list folder").path();
        if path.is_dir() {
            visit(&path, see);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            see(&path, &std::fs::read_to_string(&path).expect("read source"));
        }
    }
}
