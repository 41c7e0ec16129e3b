//! `doctor`: what is missing on this machine, and the command that mends it.

use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use kintsugi_types::ByteCount;
use serde::Serialize;

use crate::cli::{DoctorArguments, Format};
use crate::failure::{Explain, Failure};
use crate::model;
use crate::resolved::Resolved;
use crate::run_folder::RUNS_DIR;
use crate::settings::{ModelSettings, SHIPPED_MODEL};
use crate::terminal::{document, line};

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    ok: bool,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

pub(crate) fn doctor(arguments: &DoctorArguments) -> Result<(), Failure> {
    let findings = vec![cores(), instructions(), shipped_model(), data_folder()];
    match arguments.format {
        Format::Json => document(&serde_json::json!({ "findings": findings }))?,
        Format::Text => {
            for finding in &findings {
                let mark = if finding.ok { "ok     " } else { "missing" };
                line(&format!("{mark} {:<14} {}", finding.what, finding.detail))?;
                if let Some(remedy) = &finding.remedy {
                    line(&format!("        mend it: {remedy}"))?;
                }
            }
        }
    }
    if findings.iter().all(|finding| finding.ok) {
        Ok(())
    } else {
        Err(Failure::outside("something is missing, see above"))
    }
}

fn cores() -> Finding {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let detail =
        format!("{cores}: inference takes {}, everything else shares one", cores.saturating_sub(1).max(1));
    Finding { what: "cores", ok: true, detail, remedy: None }
}

#[cfg(target_arch = "x86_64")]
fn instructions() -> Finding {
    let detail = if std::is_x86_feature_detected!("avx512f") {
        "AVX-512"
    } else if std::is_x86_feature_detected!("avx2") {
        "AVX2"
    } else {
        "neither AVX2 nor AVX-512: inference works, slowly"
    };
    Finding { what: "instructions", ok: true, detail: detail.to_owned(), remedy: None }
}

#[cfg(not(target_arch = "x86_64"))]
fn instructions() -> Finding {
    let detail = format!("{}: portable kernels", std::env::consts::ARCH);
    Finding { what: "instructions", ok: true, detail, remedy: None }
}

fn shipped_model() -> Finding {
    match model::factory(&Resolved::default()) {
        Ok(_) => Finding { what: "model", ok: true, detail: format!("{SHIPPED_MODEL} loads"), remedy: None },
        Err(failure) => Finding {
            what: "model",
            ok: false,
            detail: failure.message,
            remedy: Some(format!(
                "free memory: {} are needed",
                ModelSettings::default().memory_budget.max(ByteCount::mib(64))
            )),
        },
    }
}

fn data_folder() -> Finding {
    match try_folder() {
        Ok(()) => Finding {
            what: "data folder",
            ok: true,
            detail: format!("{RUNS_DIR} can be written"),
            remedy: None,
        },
        Err(failure) => Finding {
            what: "data folder",
            ok: false,
            detail: failure.message,
            remedy: Some("run in a folder that you may write, or name one with --data-dir".to_owned()),
        },
    }
}

/// Writes a file where the runs' folder is or would be, and takes it away again.
fn try_folder() -> Result<(), Failure> {
    let runs = Path::new(RUNS_DIR);
    let file = if runs.exists() { runs.join(".doctor") } else { PathBuf::from(format!("{RUNS_DIR}.doctor")) };
    std::fs::File::create(&file)
        .and_then(|mut probe| probe.write_all(b"ok").and_then(|()| probe.sync_all()))
        .and_then(|()| std::fs::remove_file(&file))
        .outside(|| format!("write {}", file.display()))
}
