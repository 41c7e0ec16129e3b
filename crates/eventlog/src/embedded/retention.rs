//! Deleting what nobody needs any more: whole sealed segments, oldest first.

use std::sync::Arc;

use super::Shared;
use super::catalog::{Catalog, Sealed};
use super::index::Starts;
use super::lock::sync_directory;
use super::segment;
use crate::error::LogError;
use crate::log::{Lsn, Retained, Retention};
use crate::queue::locked;

/// Deletes segments as far as `retention` and the consumers' positions allow.
pub(super) fn retain(shared: &Shared, retention: &Retention) -> Result<Retained, LogError> {
    let _one_at_a_time = locked(&shared.retention);
    let rule = Rule::new(shared, retention);
    let mut retained = Retained::default();
    loop {
        let oldest = {
            let mut catalog = shared.view.catalog_mut();
            if rule.lets_go(&catalog, 0, bytes(&catalog)) { catalog.sealed.pop_front() } else { None }
        };
        let Some(oldest) = oldest else { break };
        delete(shared, &oldest)?;
        retained.segments_deleted += 1;
        retained.bytes_deleted += oldest.summary.bytes;
    }
    retained.start_lsn = Lsn(shared.view.catalog().start_lsn());
    Ok(retained)
}

/// What [`retain`] would delete.
pub(super) fn retainable(shared: &Shared, retention: &Retention) -> Retained {
    let rule = Rule::new(shared, retention);
    let catalog = shared.view.catalog();
    let mut left = bytes(&catalog);
    let mut retained = Retained { start_lsn: Lsn(catalog.start_lsn()), ..Retained::default() };
    for (place, sealed) in catalog.sealed.iter().enumerate() {
        if !rule.lets_go(&catalog, place, left) {
            break;
        }
        left -= sealed.summary.bytes;
        retained.segments_deleted += 1;
        retained.bytes_deleted += sealed.summary.bytes;
        retained.start_lsn = Lsn(sealed.summary.next_lsn);
    }
    retained
}

/// Bytes of all segments.
fn bytes(catalog: &Catalog) -> u64 {
    let sealed: u64 = catalog.sealed.iter().map(|sealed| sealed.summary.bytes).sum();
    sealed + catalog.active.as_ref().map_or(0, |active| active.bytes)
}

/// A [`Retention`] at one moment.
struct Rule<'a> {
    retention: &'a Retention,
    now_ms: i64,
    age_min_ms: i64,
}

impl<'a> Rule<'a> {
    fn new(shared: &Shared, retention: &'a Retention) -> Self {
        Self {
            retention,
            now_ms: shared.clock.now().timestamp_millis(),
            age_min_ms: i64::try_from(retention.age_min.as_millis()).unwrap_or(i64::MAX),
        }
    }

    /// Whether the sealed segment at `place` may go once those before it are gone, when `left` bytes are left.
    fn lets_go(&self, catalog: &Catalog, place: usize, left: u64) -> bool {
        catalog.sealed.get(place).is_some_and(|sealed| {
            self.now_ms.saturating_sub(sealed.summary.newest_ms) >= self.age_min_ms
                && left.saturating_sub(sealed.summary.bytes) >= self.retention.bytes_min
                && sealed.summary.next_lsn <= self.retention.low_water.0
                && every_consumer_is_past(catalog, place, sealed)
        })
    }
}

/// Whether whoever ever stored a position of a partition has read all that the segment at `place` holds of it.
///
/// `false` too where the next segment has no frame yet: its first one has to carry the tables on.
fn every_consumer_is_past(catalog: &Catalog, place: usize, segment: &Sealed) -> bool {
    let next: &Starts = match (catalog.sealed.get(place + 1), &catalog.active) {
        (Some(next), _) => &next.summary.starts,
        (None, Some(active)) if !active.is_empty() => &active.starts,
        _ => return false,
    };
    catalog.positions.iter().all(|(of, consumers)| {
        let (begins, ends) = (segment.summary.starts.of(*of), next.of(*of));
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
