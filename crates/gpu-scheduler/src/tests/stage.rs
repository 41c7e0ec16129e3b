//! A backend that waits, fails and panics when a test says so.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use kintsugi_inference::{
    AdmitError, Admitted, Backend, BackendFault, ContextId, Finished, KvHeld, MemoryUse, ModelInfo, Origin,
    RequestId,
};
use kintsugi_types::{ByteCount, CompletionRequest};

use crate::config::BackendFactory;
use crate::scripted::{ScriptedBackend, ScriptedShape};

/// What goes wrong in a step.
#[derive(Debug, Clone, Copy)]
pub(super) enum Mishap {
    Fault,
    Panic,
    /// A panic whose payload panics when it is dropped: no `catch_unwind` holds that.
    Bomb,
    /// The request vanishes from the batch without an outcome.
    Lose,
    /// The request alone fails.
    Fail,
}

/// What the test has ordered and what was seen.
#[derive(Default)]
pub(super) struct Script {
    /// Steps wait while set.
    pub(super) hold: bool,
    /// Builds wait while set.
    pub(super) hold_build: bool,
    /// Builds fail while set.
    pub(super) fail_build: bool,
    /// The next step goes wrong so.
    pub(super) next_step: Option<Mishap>,
    /// Every step goes wrong while a request with this text is in the batch.
    pub(super) poison_step: Option<(String, Mishap)>,
    /// Admitting a request with this text panics.
    pub(super) poison_admit: Option<String>,
    /// Texts in the order of their admission.
    pub(super) admitted: Vec<String>,
    /// Calls of admit, refused ones included.
    pub(super) admit_calls: usize,
    /// Calls of step.
    pub(super) steps: usize,
    /// The most requests that were in the batch at once.
    pub(super) batch_max: usize,
    /// Calls of the factory.
    pub(super) builds: usize,
    /// Ids that were cancelled while in the batch.
    pub(super) cancelled: usize,
}

/// Shared by the test and the backends that its factory makes.
pub(super) struct Stage {
    script: Mutex<Script>,
    changed: Condvar,
    shape: ScriptedShape,
}

/// What every stage answers to `text`.
pub(super) fn answer_to(text: &str) -> String {
    format!("re: {text}")
}

/// A shape that fits the test budget.
pub(super) fn shape() -> ScriptedShape {
    ScriptedShape {
        weights: ByteCount::mib(2),
        kv_pool: ByteCount::mib(4),
        scratch: ByteCount::mib(1),
        ..ScriptedShape::default()
    }
}

impl Stage {
    pub(super) fn new() -> Arc<Self> {
        Self::shaped(shape())
    }

    pub(super) fn shaped(shape: ScriptedShape) -> Arc<Self> {
        Arc::new(Self { script: Mutex::default(), changed: Condvar::new(), shape })
    }

    /// Reads or changes the script and wakes whoever waits for a change.
    pub(super) fn with<T>(&self, change: impl FnOnce(&mut Script) -> T) -> T {
        let outcome = change(&mut self.lock());
        self.changed.notify_all();
        outcome
    }

    pub(super) fn factory(self: &Arc<Self>) -> BackendFactory {
        let stage = Arc::clone(self);
        Box::new(move || {
            let mut script = stage.lock();
            script.builds += 1;
            while script.hold_build {
                script = stage.changed.wait(script).unwrap();
            }
            if script.fail_build {
                return Err("no such model".to_owned());
            }
            drop(script);
            let answer = Arc::new(|request: &CompletionRequest| answer_to(text_of(request)));
            let inner = ScriptedBackend::new(stage.shape, answer).map_err(|error| error.to_string())?;
            Ok(Box::new(StageBackend { inner, stage: Arc::clone(&stage), texts: BTreeMap::new() }))
        })
    }

    /// A panic on purpose never happens while the lock is held, so that it is never poisoned.
    fn lock(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }
}

fn text_of(request: &CompletionRequest) -> &str {
    request.messages.first().map_or("", |message| message.content.as_ref())
}

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("told to panic in a panic's payload");
    }
}

struct StageBackend {
    inner: ScriptedBackend,
    stage: Arc<Stage>,
    texts: BTreeMap<RequestId, String>,
}

impl StageBackend {
    fn mishap(&self) -> Option<(Mishap, Option<RequestId>)> {
        let mut script = self.stage.lock();
        script.steps += 1;
        while script.hold {
            script = self.stage.changed.wait(script).unwrap();
        }
        if let Some(mishap) = script.next_step.take() {
            return Some((mishap, self.texts.keys().next().copied()));
        }
        let (poison, mishap) = script.poison_step.as_ref()?;
        let (id, _) = self.texts.iter().find(|(_, text)| *text == poison)?;
        Some((*mishap, Some(*id)))
    }
}

impl Backend for StageBackend {
    fn info(&self) -> &ModelInfo {
        self.inner.info()
    }

    fn memory(&self) -> MemoryUse {
        self.inner.memory()
    }

    fn admit(
        &mut self,
        id: RequestId,
        request: CompletionRequest,
        origin: &Origin,
    ) -> Result<Admitted, AdmitError> {
        let text = text_of(&request).to_owned();
        let is_poisoned = self.stage.with(|script| {
            script.admit_calls += 1;
            script.poison_admit.as_ref() == Some(&text)
        });
        assert!(!is_poisoned, "told to panic in admit");
        let admitted = self.inner.admit(id, request, origin)?;
        self.texts.insert(id, text.clone());
        let active = self.inner.active();
        self.stage.with(|script| {
            script.admitted.push(text);
            script.batch_max = script.batch_max.max(active);
        });
        Ok(admitted)
    }

    fn cancel(&mut self, id: RequestId) {
        self.inner.cancel(id);
        self.texts.remove(&id);
        self.stage.with(|script| script.cancelled += 1);
    }

    fn step(&mut self) -> Result<Vec<Finished>, BackendFault> {
        match self.mishap() {
            Some((Mishap::Fault, _)) => {
                return Err(BackendFault { reason: "told to fault".to_owned() });
            }
            Some((Mishap::Panic, _)) => panic!("told to panic in step"),
            Some((Mishap::Bomb, _)) => std::panic::panic_any(Bomb),
            Some((Mishap::Lose, Some(id))) => {
                self.inner.cancel(id);
                self.texts.remove(&id);
                return Ok(Vec::new());
            }
            Some((Mishap::Fail, Some(id))) => {
                self.inner.cancel(id);
                self.texts.remove(&id);
                return Ok(vec![Finished {
                    id,
                    outcome: Err("told to fail".to_owned()),
                    kept: KvHeld::default(),
                }]);
            }
            Some((Mishap::Lose | Mishap::Fail, None)) | None => {}
        }
        let finished = self.inner.step()?;
        for finished in &finished {
            self.texts.remove(&finished.id);
        }
        Ok(finished)
    }

    fn active(&self) -> usize {
        self.inner.active()
    }

    fn swap_out(&mut self, context: ContextId) -> bool {
        self.inner.swap_out(context)
    }

    fn forget(&mut self, context: ContextId) {
        self.inner.forget(context);
    }
}
