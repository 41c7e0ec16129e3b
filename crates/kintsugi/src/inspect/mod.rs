//! Looking at a run from outside: read from its log alone, whether it still runs or not.

pub(crate) mod agents;
mod at;
mod explain;
pub(crate) mod goals;
pub(crate) mod seams;
pub(crate) mod watch;

use std::time::Duration;

use kintsugi_eventlog::embedded::ReadOnlyLog;
use kintsugi_eventlog::{LogReader, Lsn};

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

/// How often a log is read at most while the node that writes it deletes its beginning.
const READS_MAX: usize = 5;

/// What `read` makes of the whole log. It reads again where it failed and the log's beginning was deleted meanwhile: a
/// node keeps nothing for those who look at its log from outside.
pub(crate) fn read_whole<T>(
    log: &dyn LogReader,
    mut read: impl FnMut(&dyn LogReader) -> Result<T, Failure>,
) -> Result<T, Failure> {
    for _ in 1..READS_MAX {
        let oldest = log.start_lsn();
        let outcome = read(log);
        if outcome.is_ok() {
            return outcome;
        }
        // Takes in what was deleted.
        log.wait_past(Lsn(0), Duration::ZERO);
        if log.start_lsn() == oldest {
            return outcome;
        }
    }
    read(log)
}

/// Reads the run to look at.
pub(crate) fn view(place: &Where) -> Result<RunView, Failure> {
    read_whole(open(&place.log)?.as_ref(), RunView::read)
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

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::path::Path;

    use kintsugi_eventlog::embedded::{EmbeddedLog, Options};
    use kintsugi_eventlog::{Append, EventLog as _, LogError, NewRecord, Retention};
    use kintsugi_events::Topic;
    use kintsugi_types::ByteCount;

    use super::*;

    /// A log of several files, open for writing and for reading from outside.
    fn opened_twice(directory: &Path) -> (EmbeddedLog, ReadOnlyLog) {
        let log =
            EmbeddedLog::open(directory, Options { segment_bytes: ByteCount(256), ..Options::default() })
                .unwrap();
        fill(&log);
        let outside = ReadOnlyLog::open(directory).unwrap();
        (log, outside)
    }

    /// Appends more than one file holds.
    fn fill(log: &EmbeddedLog) {
        for _ in 0..20 {
            let records = vec![NewRecord::bare(Topic::Metrics, 0, "key", b"a metric".to_vec())];
            log.append_wait(&Append { records, ..Append::default() }).unwrap();
        }
    }

    fn delete_all_but_the_newest(log: &EmbeddedLog) {
        let any = Retention { age_min: Duration::ZERO, bytes_min: 0, low_water: Lsn(u64::MAX) };
        assert!(log.retain(&any).unwrap().segments_deleted > 0);
    }

    fn count(log: &dyn LogReader) -> Result<u64, LogError> {
        let mut records = 0;
        log.replay(log.start_lsn(), &mut |_| {
            records += 1;
            ControlFlow::Continue(())
        })?;
        Ok(records)
    }

    #[test]
    fn what_is_deleted_while_it_is_read_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let (log, outside) = opened_twice(directory.path());
        delete_all_but_the_newest(&log);
        assert!(matches!(count(&outside), Err(LogError::Trimmed { .. })), "nothing was in the way");
        let left = read_whole(&outside, |log| Ok(count(log)?)).unwrap();
        assert_eq!(left, 20 - log.start_lsn().0);
    }

    #[test]
    fn a_failure_that_has_nothing_to_do_with_deleting_is_told_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let (_log, outside) = opened_twice(directory.path());
        let mut reads = 0;
        let failed = read_whole(&outside, |_| {
            reads += 1;
            Err::<(), _>(Failure::usage("there is no such agent"))
        });
        assert_eq!((failed.unwrap_err().message.as_str(), reads), ("there is no such agent", 1));
    }

    #[test]
    fn a_log_that_is_deleted_faster_than_it_is_read_is_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let (log, outside) = opened_twice(directory.path());
        let mut reads = 0;
        let failed = read_whole(&outside, |outside| {
            reads += 1;
            let begins = outside.start_lsn();
            fill(&log);
            delete_all_but_the_newest(&log);
            Err::<(), _>(LogError::Trimmed { oldest: begins.0 + 1 }.into())
        });
        assert!(failed.unwrap_err().message.contains("ask again"));
        assert_eq!(reads, READS_MAX);
    }
}
