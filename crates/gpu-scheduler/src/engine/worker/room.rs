//! Room for keys and values: conversations that wait leave the device before a request has to wait.

use kintsugi_inference::{Admitted, ContextId, RequestId};
use kintsugi_types::{AgentId, ByteCount, Score};

use super::{Phase, Worker};
use crate::engine::guarded::Guarded;
use crate::residency;

impl Worker {
    /// A request is in the batch with what its conversation held.
    pub(super) fn entered(&mut self, id: RequestId, context: ContextId, urgency: Score, admitted: &Admitted) {
        self.jobs.enter_batch(id, context);
        self.ledger.admit(id, context, admitted.kv);
        if self.residency.enter(context, urgency) {
            self.swaps.back += 1;
            let wake = self.jobs.get(id).map(|job| job.since.elapsed());
            let swap_in = self.turn.take().map(|(_, since)| since.elapsed());
            self.links.picture.send_modify(|picture| {
                if let Some((wake, swap_in)) = wake.zip(swap_in) {
                    picture.wakes.record(wake);
                    picture.swaps_in.record(swap_in);
                }
            });
        }
        if let Err(reason) = self.relieve() {
            return self.fault(&reason, None);
        }
        self.audit();
    }

    /// Lets conversations that wait leave the device while more is in use than the mark allows.
    pub(super) fn relieve(&mut self) -> Result<(), String> {
        while residency::is_above_mark(&self.backend()?.holdings()?.0) {
            let Some(context) = self.residency.next_out(None) else { break };
            self.leave_device(context)?;
        }
        Ok(())
    }

    /// Makes `missing` bytes of keys and values free for a request of the conversation `own`, as far as others that
    /// wait can leave. Where none can and nothing runs, `own` begins anew. False when nothing could be done.
    pub(super) fn make_room(&mut self, own: ContextId, missing: ByteCount) -> Result<bool, String> {
        let used = self.backend()?.holdings()?.0.kv_used;
        let mut is_changed = false;
        while let Some(context) = self.residency.next_out(Some(own)) {
            self.leave_device(context)?;
            is_changed = true;
            let left = self.backend()?.holdings()?.0.kv_used;
            if used.0.saturating_sub(left.0) >= missing.0 {
                return Ok(true);
            }
        }
        if !is_changed && self.ledger.requests() == 0 && self.residency.holds(own) {
            self.swaps.forgotten += 1;
            self.drop_context(own)?;
            is_changed = true;
        }
        Ok(is_changed)
    }

    /// Drops what the conversations of `agents` hold.
    pub(super) fn forget(&mut self, agents: &[AgentId]) -> Result<(), String> {
        if matches!(self.phase, Phase::Away { .. }) {
            return Ok(());
        }
        for agent in agents {
            for context in self.residency.of_agent(agent) {
                self.drop_context(context)?;
            }
        }
        Ok(())
    }

    /// Moves a conversation to host memory, for which one that is missed less may have to leave that for good.
    fn leave_device(&mut self, context: ContextId) -> Result<(), String> {
        while !self.backend()?.swap_out(context)? {
            self.swaps.forgotten += 1;
            let Some(least) = self.residency.next_forgotten_for(context) else {
                return self.drop_context(context);
            };
            self.drop_context(least)?;
        }
        self.swaps.out += 1;
        self.residency.swapped_out(context);
        self.ledger.drop_context(context);
        Ok(())
    }

    fn drop_context(&mut self, context: ContextId) -> Result<(), String> {
        self.backend()?.forget(context)?;
        self.ledger.drop_context(context);
        self.residency.forget(context);
        Ok(())
    }

    fn backend(&mut self) -> Result<&mut Guarded, String> {
        match &mut self.phase {
            Phase::Up(backend) => Ok(backend),
            Phase::Away { .. } => Err("the engine is away".to_owned()),
        }
    }
}
