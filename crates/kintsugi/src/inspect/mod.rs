//! Looking at a run from outside: read from its log alone, whether it still runs or not.

pub(crate) mod agents;
mod at;
mod explain;
pub(crate) mod goals;
pub(crate) mod seams;
pub(crate) mod watch;

use std::path::Path;

use kintsugi_eventlog::embedded::ReadOnlyLog;

use crate::cli::Where;
use crate::failure::Failure;
use crate::roster::Roster;
use crate::run_folder::{RunFolder, manifest_of, to_look_at};
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

/// Reads the run to look at, and who works in it where its folder tells.
pub(crate) fn view_with_roster(place: &Where) -> Result<(RunView, Option<Roster>), Failure> {
    let folder = to_look_at(place.data_dir.as_deref())?;
    let view = RunView::read(&ReadOnlyLog::open(RunFolder::log(&folder))?)?;
    // Events are told whether the manifest can be read or not.
    let roster = manifest_of(&folder).ok().flatten().and_then(|manifest| manifest.roster);
    Ok((view, roster))
}
