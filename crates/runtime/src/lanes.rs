//! The lanes of a node: the one that it always has, or those of a shared log that are its own just now.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix::prelude::*;
use kintsugi_eventlog::{EventLog, LogError};
use tracing::{info, warn};

use crate::context::NodeContext;
use crate::keeper::{Keepers, LaneOwner};
use crate::lane::{LaneSupervisor, RunningLane, prepare};
use crate::lane_context::LaneContext;
use crate::lane_core::{LanePlace, OnLaneFailure};
use crate::node::NodeError;

/// Opens the log of lane number so-and-so, and takes it over from whoever had it.
pub type OpenLane = Arc<dyn Fn(u32) -> Result<Arc<dyn EventLog>, LogError> + Send + Sync>;

/// The log of a node.
#[derive(Clone)]
pub enum Lanes {
    /// One lane, which is the node's for as long as it runs: where its log fails the node stops.
    Only(Arc<dyn EventLog>),
    /// Lanes that come and go, see [`Node::gain_lanes`](crate::Node::gain_lanes).
    Shared {
        /// How many partitions every topic has: one for each lane.
        partitions: u32,
        /// Opens one.
        open: OpenLane,
    },
}

impl From<Arc<dyn EventLog>> for Lanes {
    fn from(log: Arc<dyn EventLog>) -> Self {
        Self::Only(log)
    }
}

impl<L: EventLog + 'static> From<Arc<L>> for Lanes {
    fn from(log: Arc<L>) -> Self {
        Self::Only(log)
    }
}

impl fmt::Debug for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Only(_) => f.write_str("Only"),
            Self::Shared { partitions, .. } => {
                f.debug_struct("Shared").field("partitions", partitions).finish()
            }
        }
    }
}

/// The lanes that run now.
#[derive(Debug)]
pub(crate) struct OpenLanes {
    node: Arc<NodeContext>,
    lanes: Lanes,
    running: Mutex<BTreeMap<u32, RunningLane>>,
    keepers: Keepers,
}

impl OpenLanes {
    /// The lanes of a node that just starts. Has to be called on the thread of its actor system.
    pub(crate) fn start(node: Arc<NodeContext>, lanes: Lanes) -> Result<Arc<Self>, NodeError> {
        let mut running = BTreeMap::new();
        if let Lanes::Only(log) = &lanes {
            let stopped = node.clone();
            let told = Box::new(move |reason: &str| stopped.give_up(reason.to_owned()));
            let store_dir = node.config.store_dir.clone();
            let (lane, ended) =
                LaneContext::open(node.clone(), LanePlace::ONLY, log.clone(), &store_dir, told)?;
            let restored = prepare(&lane)?;
            running.insert(LanePlace::ONLY.number, RunningLane::start(lane, ended, restored));
        }
        let running = Mutex::new(running);
        Ok(Arc::new(Self { node, lanes, running, keepers: Keepers::default() }))
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<u32, RunningLane>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The partition of everything that has this key.
    pub(crate) fn partition_of(&self, key: &str) -> u32 {
        let partitions = match &self.lanes {
            Lanes::Only(_) => 1,
            Lanes::Shared { partitions, .. } => *partitions,
        };
        LanePlace { number: 0, partitions }.partition_of(key)
    }

    /// What the actors of lane number `number` share, if it is open.
    pub(crate) fn lane(&self, number: u32) -> Option<Arc<LaneContext>> {
        self.running().get(&number).map(|running| running.lane.clone())
    }

    /// Who supervises lane number `number`, if it is open.
    pub(crate) fn supervisor(&self, number: u32) -> Option<Addr<LaneSupervisor>> {
        self.running().get(&number).map(|running| running.supervisor.clone())
    }

    /// The numbers of the lanes that are open.
    pub(crate) fn numbers(&self) -> Vec<u32> {
        self.running().keys().copied().collect()
    }

    /// Whether there are lanes, and none waits to be opened.
    pub(crate) fn are_open(&self) -> bool {
        let open = self.running().len();
        open > 0 && open >= self.keepers.numbers().len()
    }

    /// Keeps these lanes open from now on.
    pub(crate) fn gain(self: &Arc<Self>, numbers: &[u32]) {
        self.keepers.gain(self, numbers);
    }

    /// Closes these lanes, and returns when nothing works on them any more.
    pub(crate) fn lose(&self, numbers: &[u32]) {
        self.keepers.lose(numbers);
    }

    /// Lets go of everything. Lanes of a shared log are closed, for others wait for them; the only lane is returned,
    /// whose log is somebody else's to close.
    pub(crate) fn end(&self) -> Option<Arc<LaneContext>> {
        let kept = self.keepers.numbers();
        if !kept.is_empty() {
            self.lose(&kept);
        }
        let running = std::mem::take(&mut *self.running());
        if running.len() > 1 {
            warn!("lanes were left open");
        }
        running.into_values().next().map(|running| running.lane)
    }
}

impl LaneOwner for OpenLanes {
    fn open(&self, number: u32, on_failure: OnLaneFailure) -> Result<(), NodeError> {
        let Lanes::Shared { partitions, open } = &self.lanes else { return Ok(()) };
        let place = LanePlace { number, partitions: *partitions };
        let log = open(number)?;
        info!(lane = number, "restoring lane");
        let store_dir = self.node.config.store_dir.join(format!("lane-{number}"));
        let (lane, ended) = LaneContext::open(self.node.clone(), place, log, &store_dir, on_failure)?;
        let restored = prepare(&lane)?;
        let (told, started) = sync_channel(1);
        // Where the system has ended nobody sends anything.
        self.node.system.arbiter().spawn_fn(move || {
            // Whoever opens the lane waits for this.
            let _ = told.send(RunningLane::start(lane, ended, restored));
        });
        let mut started = started.recv().map_err(|_| NodeError::Died)?;
        if let Err(failure) = started.listen() {
            started.close(false);
            return Err(failure.into());
        }
        info!(lane = number, "lane opened");
        self.running().insert(number, started);
        Ok(())
    }

    fn close(&self, number: u32, is_orderly: bool) {
        let running = self.running().remove(&number);
        if let Some(running) = running {
            running.close(is_orderly);
            info!(lane = number, "lane closed");
        }
    }
}
