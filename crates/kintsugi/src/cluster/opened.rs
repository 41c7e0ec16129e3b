//! The lanes of a cluster that this process has open, and whether the cluster answers them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use kintsugi_eventlog::EventLog;
use kintsugi_eventlog::kafka::{Health, KafkaLog, Options};
use kintsugi_runtime::node::OpenLane;

/// That the cluster does not answer.
#[derive(Debug, Clone)]
pub(crate) struct Away {
    /// Since when.
    pub(crate) since: Instant,
    reason: String,
}

impl Away {
    /// Nothing where the cluster answers.
    pub(super) fn of(health: Health) -> Option<Self> {
        match health {
            Health::Up => None,
            Health::Away { since, reason } => Some(Self { since, reason }),
        }
    }
}

impl fmt::Display for Away {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { since, reason } = self;
        write!(f, "Kafka has not answered for {} s, work waits: {reason}", since.elapsed().as_secs())
    }
}

/// The lanes that were opened, by number.
#[derive(Debug, Clone, Default)]
pub(super) struct Opened(Arc<Mutex<BTreeMap<u32, Weak<KafkaLog>>>>);

impl Opened {
    /// Opens lanes as `options` say, but for their partition.
    pub(super) fn opener(&self, options: Options) -> OpenLane {
        let opened = self.clone();
        Arc::new(move |number| {
            let options = Options { partitions: vec![number], ..options.clone() };
            let log = Arc::new(KafkaLog::open(options)?);
            opened.0.lock().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::downgrade(&log));
            let log: Arc<dyn EventLog> = log;
            Ok(log)
        })
    }

    /// That the cluster does not answer, where that is so: since when, and why.
    pub(super) fn away(&self) -> Option<Away> {
        let mut opened = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        opened.retain(|_, log| log.strong_count() > 0);
        let away = opened.values().filter_map(Weak::upgrade).filter_map(|log| Away::of(log.health()));
        away.min_by_key(|away| away.since)
    }
}
