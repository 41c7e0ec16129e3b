//! The conformance suite.

use std::sync::Arc;

use kintsugi_eventlog::conformance::{CHECKS, Harness};
use kintsugi_eventlog::{EventLog, KafkaLog};

use super::support::Topics;

/// A lane of eight partitions, as many as the checks name.
struct OnKafka {
    topics: Topics,
    log: Option<Arc<KafkaLog>>,
}

impl OnKafka {
    fn new() -> Self {
        let topics = Topics::new(8);
        let log = Some(open(&topics));
        Self { topics, log }
    }
}

fn open(topics: &Topics) -> Arc<KafkaLog> {
    topics.open((0..8).collect::<Vec<_>>())
}

impl Harness for OnKafka {
    fn log(&self) -> Arc<dyn EventLog> {
        Arc::clone(self.log.as_ref().expect("an open log")) as Arc<dyn EventLog>
    }

    fn reopen(&mut self) {
        if let Some(log) = self.log.take() {
            log.close().expect("the log closes");
        }
        self.log = Some(open(&self.topics));
    }

    /// The next owner comes while the last one is still there and knows nothing of it.
    fn crash(&mut self) {
        let before = self.log.take();
        self.log = Some(open(&self.topics));
        if let Some(before) = before {
            before.abandon();
        }
    }

    fn append_bytes_max(&self) -> usize {
        8 << 20
    }

    fn is_dense(&self) -> bool {
        false
    }
}

#[test]
fn the_kafka_log_keeps_the_contract() {
    for check in CHECKS {
        let begun = std::time::Instant::now();
        (check.run)(&mut OnKafka::new());
        println!("{check:?}: {:.1} s", begun.elapsed().as_secs_f64());
    }
}
