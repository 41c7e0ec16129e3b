//! The embedded log: the conformance suite, and what only files can show.

mod codec;
mod damage;
mod failures;
mod read_only;
mod retention;
mod segments;
mod support;

use std::path::Path;
use std::sync::Arc;

use kintsugi_types::ByteCount;
use tempfile::TempDir;

use super::{EmbeddedLog, Options};
use crate::conformance::{Harness, run_all};
use crate::log::EventLog;

struct Embedded {
    directory: TempDir,
    segment_bytes: ByteCount,
    log: Option<Arc<EmbeddedLog>>,
}

impl Embedded {
    fn new(segment_bytes: ByteCount) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let log = Some(open(directory.path(), segment_bytes));
        Self { directory, segment_bytes, log }
    }
}

fn open(directory: &Path, segment_bytes: ByteCount) -> Arc<EmbeddedLog> {
    let options = Options { segment_bytes, ..Options::default() };
    Arc::new(EmbeddedLog::open(directory, options).expect("the log opens"))
}

impl Harness for Embedded {
    fn log(&self) -> Arc<dyn EventLog> {
        Arc::clone(self.log.as_ref().expect("an open log")) as Arc<dyn EventLog>
    }

    fn reopen(&mut self) {
        if let Some(log) = self.log.take() {
            log.close().expect("the log closes");
        }
        self.log = Some(open(self.directory.path(), self.segment_bytes));
    }

    /// What was acknowledged is in the files already: they are copied away from under the open log.
    fn crash(&mut self) {
        let copy = tempfile::tempdir().expect("a temporary directory");
        for entry in std::fs::read_dir(self.directory.path()).expect("a directory") {
            let path = entry.expect("an entry").path();
            std::fs::copy(&path, copy.path().join(path.file_name().expect("a name"))).expect("a copy");
        }
        self.log = Some(open(copy.path(), self.segment_bytes));
        self.directory = copy;
    }

    fn append_bytes_max(&self) -> usize {
        16 << 20
    }
}

#[test]
fn the_embedded_log_keeps_the_contract() {
    run_all(|| Box::new(Embedded::new(ByteCount::mib(64))));
}

#[test]
fn the_embedded_log_keeps_the_contract_over_many_small_segments() {
    run_all(|| Box::new(Embedded::new(ByteCount(400))));
}
