//! What the engine thread has to run, and whom it may suspect of breaking the engine.

use std::collections::BTreeMap;

use kintsugi_inference::{ContextId, RequestId};

use crate::messages::Job;

/// A request that was in the batch in so many faults is not run again.
pub(super) const FAULTS_MAX: u32 = 3;

/// A request that was in the batch in so many faults runs alone: it either ends, and was innocent, or takes nobody
/// with it when it breaks the engine once more.
const FAULTS_SUSPECT: u32 = FAULTS_MAX - 1;

#[derive(Debug)]
struct Entry {
    job: Job,
    faults: u32,
    /// The conversation that it runs in, while it is in the batch.
    batch: Option<ContextId>,
}

impl Entry {
    fn is_in_batch(&self) -> bool {
        self.batch.is_some()
    }
}

/// What may be admitted next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing waits.
    Nothing,
    /// Something waits that has to run alone, or for something that runs alone.
    Later,
    /// This one.
    Admit(RequestId),
}

/// All jobs between their command and their end, oldest first. At most one per slot, so walking them is cheap.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    entries: BTreeMap<RequestId, Entry>,
}

impl Jobs {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn insert(&mut self, job: Job) {
        self.entries.insert(job.id, Entry { job, faults: 0, batch: None });
    }

    pub(super) fn get(&self, id: RequestId) -> Option<&Job> {
        self.entries.get(&id).map(|entry| &entry.job)
    }

    pub(super) fn remove(&mut self, id: RequestId) -> Option<Job> {
        self.entries.remove(&id).map(|entry| entry.job)
    }

    pub(super) fn ids(&self) -> Vec<RequestId> {
        self.entries.keys().copied().collect()
    }

    /// The conversation that a request in the batch runs in.
    pub(super) fn context_of(&self, id: RequestId) -> Option<ContextId> {
        self.entries.get(&id)?.batch
    }

    pub(super) fn enter_batch(&mut self, id: RequestId, context: ContextId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.batch = Some(context);
        }
    }

    /// The oldest that waits goes first and nothing overtakes it, so that a large request is not starved by small
    /// ones that still fit.
    pub(super) fn next(&self) -> Next {
        let Some((id, oldest)) = self.entries.iter().find(|(_, entry)| !entry.is_in_batch()) else {
            return Next::Nothing;
        };
        let mut batch = self.entries.values().filter(|entry| entry.is_in_batch()).peekable();
        if batch.peek().is_some() && oldest.faults >= FAULTS_SUSPECT {
            return Next::Later;
        }
        if batch.any(|entry| entry.faults >= FAULTS_SUSPECT) {
            return Next::Later;
        }
        Next::Admit(*id)
    }

    /// The engine broke: empties the batch and blames `culprit` where it is known, else all that were in the batch.
    /// Returns how many were lost with it and those that have been blamed too often.
    pub(super) fn fault(&mut self, culprit: Option<RequestId>) -> (usize, Vec<RequestId>) {
        let mut lost = 0;
        let mut condemned = Vec::new();
        for (id, entry) in &mut self.entries {
            let was_in_batch = entry.batch.take().is_some();
            let is_culprit = culprit == Some(*id);
            lost += usize::from(was_in_batch || is_culprit);
            if is_culprit || (culprit.is_none() && was_in_batch) {
                entry.faults += 1;
                if entry.faults >= FAULTS_MAX {
                    condemned.push(*id);
                }
            }
        }
        (lost, condemned)
    }
}
