//! Deleting what nobody needs any more: whole sealed segments, oldest first.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::catalog::{Catalog, Sealed};
use super::index::Starts;
use super::lock::sync_directory;
use super::segment;
use crate::error::LogError;
use crate::log::Lsn;
use crate::queue::locked;

/// What has to be true of a segment before it is deleted. All three at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Its newest record is at least this old.
    pub age_min: Duration,
    /// All its records are below: the oldest that a snapshot, an open goal, effect or timer still needs.
    pub low_water: Lsn,
}

/// What was deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retained {
    /// Segments that are gone.
    pub segments_deleted: usize,
    /// Their bytes.
    pub bytes_deleted: u64,
    /// The oldest LSN that is left.
    pub start_lsn: Lsn,
}

/// Deletes segments as far as `retention` and the consumers' positions allow.
pub(super) fn retain(shared: &Shared, retention: &Retention) -> Result<Retained, LogError> {
    let _one_at_a_time = locked(&shared.retention);
    let now_ms = shared.clock.now().timestamp_millis();
    let age_min_ms = i64::try_from(retention.age_min.as_millis()).unwrap_or(i64::MAX);
    let mut retained = Retained::default();
    loop {
        let oldest = {
            let mut catalog = shared.view.catalog_mut();
            let may_go = |sealed: &Sealed| {
                now_ms.saturating_sub(sealed.summary.newest_ms) >= age_min_ms
                    && sealed.summary.next_lsn <= retention.low_water.0
                    && every_consumer_is_past(&catalog, sealed)
            };
            match catalog.sealed.front() {
                Some(oldest) if may_go(oldest) => catalog.sealed.pop_front(),
                _ => None,
            }
        };
        let Some(oldest) = oldest else { break };
        delete(shared, &oldest)?;
        retained.segments_deleted += 1;
        retained.bytes_deleted += oldest.summary.bytes;
    }
    retained.start_lsn = Lsn(shared.view.catalog().start_lsn());
    Ok(retained)
}

/// Whether whoever ever stored a position of a partition has read all that `oldest` holds of it.
///
/// `false` too where the next segment has no frame yet: its first one has to carry the tables on.
fn every_consumer_is_past(catalog: &Catalog, oldest: &Sealed) -> bool {
    let next: &Starts = match (catalog.sealed.get(1), &catalog.active) {
        (Some(next), _) => &next.summary.starts,
        (None, Some(active)) if !active.is_empty() => &active.starts,
        _ => return false,
    };
    catalog.positions.iter().all(|(of, consumers)| {
        let (begins, ends) = (oldest.summary.starts.of(*of), next.of(*of));
        begins == ends || consumers.values().all(|next_offset| *next_offset >= ends)
    })
}

fn delete(shared: &Shared, oldest: &Arc<Sealed>) -> Result<(), LogError> {
    if let Err(error) = segment::remove(&oldest.path) {
        // Still there: were a later one deleted now, the log would have a hole.
        shared.view.catalog_mut().sealed.push_front(Arc::clone(oldest));
        return Err(error);
    }
    shared.view.forget(oldest.summary.first_batch);
    segment::remove(&segment::index_path(&oldest.path))?;
    sync_directory(&shared.directory)
}
