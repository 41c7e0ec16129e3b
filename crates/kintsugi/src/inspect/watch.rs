//! `watch`: events as JSON lines, as they become durable.

use std::ops::ControlFlow;
use std::time::Duration;

use kintsugi_eventlog::{LogError, Lsn};

use super::open;
use crate::cli::WatchArguments;
use crate::documents::cloud_event;
use crate::failure::Failure;
use crate::partitions_read::PartitionsRead;
use crate::terminal::{line, say};

/// How long to wait for news before looking again.
const WAIT: Duration = Duration::from_secs(1);

pub(crate) fn watch(arguments: &WatchArguments) -> Result<(), Failure> {
    let log = open(&arguments.log)?;
    let mut next = if arguments.from_beginning { log.start_lsn() } else { log.end_lsn() };
    if arguments.from_beginning && next > Lsn(0) {
        say(&format!("events before {next} are deleted"));
    }
    let (mut failed, mut read) = (None, PartitionsRead::default());
    loop {
        let mut seen = next;
        let replayed = log.replay(next, &mut |record| {
            seen = seen.max(Lsn(record.lsn.0 + 1));
            if !read.note(&record) {
                return ControlFlow::Continue(());
            }
            if !arguments.topics.contains(&record.topic) {
                return ControlFlow::Continue(());
            }
            match cloud_event(&record).map_err(Failure::outside).and_then(|event| line(&event.to_string())) {
                Ok(()) => ControlFlow::Continue(()),
                Err(failure) => {
                    failed = Some(failure);
                    ControlFlow::Break(())
                }
            }
        });
        if let Some(failure) = failed {
            return Err(failure);
        }
        next = match replayed {
            Err(LogError::Trimmed { .. }) => {
                // Whoever reads what is printed was slower than the node deletes.
                log.wait_past(Lsn(0), Duration::ZERO);
                let oldest = log.start_lsn();
                if oldest > seen {
                    say(&format!("events before {oldest} are deleted, {} of them unseen", oldest.0 - seen.0));
                } else {
                    // Topics of a cluster lose their oldest events each by itself, uncounted.
                    say("events were deleted before they could be read");
                }
                oldest.max(seen)
            }
            replayed => replayed?,
        };
        if arguments.until_end {
            return Ok(());
        }
        log.wait_past(next, WAIT);
    }
}
