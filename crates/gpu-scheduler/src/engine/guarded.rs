//! A backend whose panics are faults.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kintsugi_inference::{
    AdmitError, Admitted, Backend, ContextId, Finished, MemoryUse, ModelInfo, Origin, RequestId,
};
use kintsugi_types::CompletionRequest;

use crate::config::BackendFactory;

/// The backend behind `catch_unwind`. After a fault it is dropped and never called again, which is what makes
/// asserting unwind safety sound: state that saw a panic is thrown away.
pub(super) struct Guarded {
    backend: Option<Box<dyn Backend>>,
    /// Whether the next step is to panic, as a bug would.
    is_to_break: Arc<AtomicBool>,
}

impl Guarded {
    /// Makes a backend; a panic in the factory is a failure like any other.
    pub(super) fn build(factory: &mut BackendFactory, is_to_break: Arc<AtomicBool>) -> Result<Self, String> {
        match catch_unwind(AssertUnwindSafe(factory)) {
            Ok(built) => built.map(|backend| Self { backend: Some(backend), is_to_break }),
            Err(payload) => Err(format!("panic while building: {}", message_of(payload.as_ref()))),
        }
    }

    pub(super) fn info(&mut self) -> Result<ModelInfo, String> {
        self.call(|backend| backend.info().clone())
    }

    /// Memory in use and requests in the batch.
    pub(super) fn holdings(&mut self) -> Result<(MemoryUse, usize), String> {
        self.call(|backend| (backend.memory(), backend.active()))
    }

    pub(super) fn admit(
        &mut self,
        id: RequestId,
        request: CompletionRequest,
        origin: &Origin,
    ) -> Result<Result<Admitted, AdmitError>, String> {
        self.call(|backend| backend.admit(id, request, origin))
    }

    pub(super) fn cancel(&mut self, id: RequestId) -> Result<(), String> {
        self.call(|backend| backend.cancel(id))
    }

    pub(super) fn swap_out(&mut self, context: ContextId) -> Result<bool, String> {
        self.call(|backend| backend.swap_out(context))
    }

    pub(super) fn forget(&mut self, context: ContextId) -> Result<(), String> {
        self.call(|backend| backend.forget(context))
    }

    pub(super) fn step(&mut self) -> Result<Vec<Finished>, String> {
        let is_to_break = self.is_to_break.swap(false, Ordering::Relaxed);
        let step = |backend: &mut dyn Backend| {
            assert!(!is_to_break, "broken on purpose");
            backend.step()
        };
        self.call(step)?.map_err(|fault| fault.reason)
    }

    fn call<T>(&mut self, work: impl FnOnce(&mut dyn Backend) -> T) -> Result<T, String> {
        let Some(backend) = self.backend.as_deref_mut() else {
            return Err("the backend is gone".to_owned());
        };
        catch_unwind(AssertUnwindSafe(|| work(backend)))
            .map_err(|payload| format!("panic: {}", message_of(payload.as_ref())))
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let backend = self.backend.take();
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(backend))) {
            tracing::error!(reason = message_of(payload.as_ref()), "backend panicked while dropped");
        }
    }
}

/// What a panic said.
pub(super) fn message_of(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
