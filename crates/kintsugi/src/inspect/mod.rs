//! Looking at a run from outside: read from its log alone, whether it still runs or not.

pub(crate) mod agents;
mod at;
mod explain;
pub(crate) mod goals;
pub(crate) mod seams;
pub(crate) mod watch;

use std::io::Write as _;
use std::path::Path;

use kintsugi_eventlog::embedded::ReadOnlyLog;
use serde::Serialize;

use crate::cli::Where;
use crate::failure::{Explain, Failure};
use crate::run_folder::{RunFolder, to_look_at};
use crate::view::RunView;

/// Opens the log of the run to look at.
pub(crate) fn open(data_dir: Option<&Path>) -> Result<ReadOnlyLog, Failure> {
    let folder = to_look_at(data_dir)?;
    Ok(ReadOnlyLog::open(RunFolder::log(&folder))?)
}

/// Reads the run to look at.
pub(crate) fn view(place: &Where) -> Result<RunView, Failure> {
    RunView::read(&open(place.data_dir.as_deref())?)
}

/// Writes a line to stdout. Whoever reads may have read enough: that ends the program without complaint.
#[expect(clippy::exit, reason = "nobody is left to write for, and nothing is left to do")]
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.outside(|| "write to stdout".to_owned()),
    }
}

/// Writes a document to stdout.
pub(crate) fn document(value: &impl Serialize) -> Result<(), Failure> {
    line(&serde_json::to_string_pretty(value).map_err(Failure::job)?)
}

/// Writes a document as one line to stdout.
pub(crate) fn json_line(value: &impl Serialize) -> Result<(), Failure> {
    line(&serde_json::to_string(value).map_err(Failure::job)?)
}

/// How wide the names of entries are.
const NAME_CHARS: usize = 12;

/// Writes a name and its value for a person. A value of several lines goes on below its first.
pub(crate) fn entry(name: &str, value: &str) -> Result<(), Failure> {
    let mut lines = value.lines().map(plain);
    let first = lines.next().unwrap_or_else(|| "-".to_owned());
    line(&format!("{name:<NAME_CHARS$}  {first}"))?;
    lines.try_for_each(|more| line(format!("{:NAME_CHARS$}  {more}", "").trim_end()))
}

/// What others wrote, with a space for each control character: a terminal acts on those.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
