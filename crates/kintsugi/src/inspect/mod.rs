//! Looking at a run from outside: read from its log alone, whether it still runs or not.

pub(crate) mod agents;
mod at;
mod explain;
pub(crate) mod goals;
pub(crate) mod seams;
pub(crate) mod watch;

use kintsugi_eventlog::LogReader;
use kintsugi_eventlog::embedded::ReadOnlyLog;

use crate::cli::{LogArguments, Where};
use crate::cluster;
use crate::failure::Failure;
use crate::log_choice::LogChoice;
use crate::resolved;
use crate::roster::Roster;
use crate::run_folder::{RunFolder, manifest_of, to_look_at};
use crate::view::RunView;

/// Opens the log to look at: a run's, or that of a cluster.
pub(crate) fn open(place: &LogArguments) -> Result<Box<dyn LogReader>, Failure> {
    match &place.log {
        LogChoice::Embedded => {
            let folder = to_look_at(place.data_dir.as_deref())?;
            Ok(Box::new(ReadOnlyLog::open(RunFolder::log(&folder))?))
        }
        LogChoice::Kafka(brokers) => {
            let settings = resolved::of_cluster(&place.dir)?;
            Ok(Box::new(cluster::read_only(brokers, &settings, &place.dir)?))
        }
    }
}

/// Reads the run to look at.
pub(crate) fn view(place: &Where) -> Result<RunView, Failure> {
    RunView::read(open(&place.log)?.as_ref())
}

/// Reads the run to look at, and who works in it where its folder tells.
pub(crate) fn view_with_roster(place: &Where) -> Result<(RunView, Option<Roster>), Failure> {
    let view = view(place)?;
    if place.log.log != LogChoice::Embedded {
        return Ok((view, None));
    }
    let folder = to_look_at(place.log.data_dir.as_deref())?;
    // Events are told whether the manifest can be read or not.
    let roster = manifest_of(&folder).ok().flatten().and_then(|manifest| manifest.roster);
    Ok((view, roster))
}
