//! Keeps lanes of a shared log open, each for as long as it is this process's.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use crate::lane_core::OnLaneFailure;
use crate::node::NodeError;

/// How soon a lane that could not be opened, or that was lost, is tried again: from, to.
const AGAIN_AFTER: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// A lane that was open for so long was not lost for being opened.
const STEADY_AFTER: Duration = Duration::from_secs(30);

/// Who has lanes that have to be kept open.
pub(crate) trait LaneOwner: Send + Sync + 'static {
    /// Opens a lane and returns when it is restored and running. Other lanes go on meanwhile.
    fn open(&self, number: u32, on_failure: OnLaneFailure) -> Result<(), NodeError>;

    /// Closes a lane, if it is open, and returns when nothing works on it any more.
    fn close(&self, number: u32, is_orderly: bool);
}

/// The keepers of an owner's lanes, by their number.
#[derive(Debug, Default)]
pub(crate) struct Keepers(Mutex<BTreeMap<u32, Keeper>>);

impl Keepers {
    fn keepers(&self) -> MutexGuard<'_, BTreeMap<u32, Keeper>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lanes that are to be open.
    pub(crate) fn numbers(&self) -> Vec<u32> {
        self.keepers().keys().copied().collect()
    }

    /// Keeps these lanes of `owner` open from now on.
    pub(crate) fn gain(&self, owner: &Arc<impl LaneOwner>, numbers: &[u32]) {
        info!(lanes = ?numbers, "gained lanes");
        for number in numbers {
            if self.keepers().contains_key(number) {
                continue;
            }
            match Keeper::start(*number, owner.clone()) {
                Ok(keeper) => _ = self.keepers().insert(*number, keeper),
                Err(failure) => error!(lane = number, %failure, "start thread"),
            }
        }
    }

    /// Closes these lanes, and returns when nothing works on them any more.
    pub(crate) fn lose(&self, numbers: &[u32]) {
        info!(lanes = ?numbers, "letting go of lanes");
        let keepers: Vec<Keeper> =
            numbers.iter().filter_map(|number| self.keepers().remove(number)).collect();
        // All at once: each may wait for a tool.
        keepers.iter().for_each(Keeper::let_go);
        keepers.into_iter().for_each(Keeper::join);
    }
}

/// What a keeper is told.
#[derive(Debug, Clone, Copy)]
enum Word {
    /// The lane cannot go on.
    Failed,
    /// The lane goes to somebody else.
    LetGo,
}

/// A thread that keeps one lane open.
#[derive(Debug)]
struct Keeper {
    words: Sender<Word>,
    thread: JoinHandle<()>,
}

impl Keeper {
    /// Opens lane number `number` of `lanes` from now on, again and again where that is needed.
    fn start(number: u32, lanes: Arc<dyn LaneOwner>) -> std::io::Result<Self> {
        let (words, heard) = channel();
        let to_itself = words.clone();
        let keeping = Keeping { number, lanes, heard, to_itself };
        let name = format!("lane-{number}");
        let thread = std::thread::Builder::new().name(name).spawn(move || keeping.run())?;
        Ok(Self { words, thread })
    }

    /// Tells it to close the lane.
    fn let_go(&self) {
        // One that has ended keeps nothing.
        let _ = self.words.send(Word::LetGo);
    }

    /// Waits until the lane is closed.
    fn join(self) {
        // A thread that panicked keeps nothing either.
        let _ = self.thread.join();
    }
}

struct Keeping {
    number: u32,
    lanes: Arc<dyn LaneOwner>,
    heard: Receiver<Word>,
    to_itself: Sender<Word>,
}

impl Keeping {
    fn run(self) {
        let number = self.number;
        let mut again_after = AGAIN_AFTER.0;
        loop {
            let failed = self.to_itself.clone();
            let on_failure = Box::new(move |reason: &str| {
                info!(lane = number, reason, "the lane cannot go on");
                // The keeper lives for as long as its lane is open.
                let _ = failed.send(Word::Failed);
            });
            match self.lanes.open(number, on_failure) {
                Ok(()) => {
                    let opened = Instant::now();
                    let is_orderly = matches!(self.heard.recv(), Ok(Word::LetGo) | Err(_));
                    self.lanes.close(number, is_orderly);
                    if is_orderly {
                        return;
                    }
                    warn!(lane = number, "the lane was lost");
                    // Two that take a lane from each other do so ever more rarely, until the group has told one of them.
                    if opened.elapsed() > STEADY_AFTER {
                        again_after = AGAIN_AFTER.0;
                    }
                }
                Err(failure) => warn!(lane = number, %failure, "open lane"),
            }
            // Whoever took it over may be who has it now: then somebody says so in a moment.
            if self.is_let_go_within(again_after) {
                return;
            }
            again_after = (again_after * 2).min(AGAIN_AFTER.1);
        }
    }

    /// Waits, and says whether the lane went to somebody else meanwhile.
    fn is_let_go_within(&self, time: Duration) -> bool {
        let begun = Instant::now();
        loop {
            match self.heard.recv_timeout(time.saturating_sub(begun.elapsed())) {
                // It is known already.
                Ok(Word::Failed) => {}
                Ok(Word::LetGo) | Err(RecvTimeoutError::Disconnected) => return true,
                Err(RecvTimeoutError::Timeout) => return false,
            }
        }
    }
}
