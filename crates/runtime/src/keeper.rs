//! Keeps one lane of a shared log open for as long as it is this node's.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kintsugi_eventlog::LogError;
use tracing::{info, warn};

use crate::lanes::OpenLanes;

/// How soon a lane that could not be opened, or that was lost, is tried again: from, to.
const AGAIN_AFTER: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// A lane that was open for so long was not lost for being opened.
const STEADY_AFTER: Duration = Duration::from_secs(30);

/// What a keeper is told.
#[derive(Debug, Clone, Copy)]
enum Word {
    /// The lane's log takes no more appends.
    Failed,
    /// The lane goes to somebody else.
    LetGo,
}

/// A thread that keeps one lane open.
#[derive(Debug)]
pub(crate) struct Keeper {
    words: Sender<Word>,
    thread: JoinHandle<()>,
}

impl Keeper {
    /// Opens lane number `number` of `lanes` from now on, again and again where that is needed.
    pub(crate) fn start(number: u32, lanes: Arc<OpenLanes>) -> std::io::Result<Self> {
        let (words, heard) = channel();
        let to_itself = words.clone();
        let keeping = Keeping { number, lanes, heard, to_itself };
        let name = format!("lane-{number}");
        let thread = std::thread::Builder::new().name(name).spawn(move || keeping.run())?;
        Ok(Self { words, thread })
    }

    /// Tells it to close the lane.
    pub(crate) fn let_go(&self) {
        // One that has ended keeps nothing.
        let _ = self.words.send(Word::LetGo);
    }

    /// Waits until the lane is closed.
    pub(crate) fn join(self) {
        // A thread that panicked keeps nothing either.
        let _ = self.thread.join();
    }
}

struct Keeping {
    number: u32,
    lanes: Arc<OpenLanes>,
    heard: Receiver<Word>,
    to_itself: Sender<Word>,
}

impl Keeping {
    fn run(self) {
        let number = self.number;
        let mut again_after = AGAIN_AFTER.0;
        loop {
            let failed = self.to_itself.clone();
            let on_failure = Box::new(move |failure: &LogError| {
                info!(lane = number, %failure, "the lane's log takes no more appends");
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
