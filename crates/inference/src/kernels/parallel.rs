//! Spreading independent pieces of work over candle's compute pool.

#![expect(
    unsafe_code,
    reason = "hands disjoint parts of one slice to several threads; see the one unsafe block"
)]

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, PoisonError};

use candle_core::utils::barrier_pool;

/// A pointer that may cross to the pool's threads.
struct Shared<T>(*mut T);

// SAFETY: `for_each_part_mut` gives every element behind the pointer to exactly one thread, and `T: Send`.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn get(&self) -> *mut T {
        self.0
    }
}

/// Calls `work(part, slice)` once for every part of `data`, on all threads of the compute pool. Part `i` reaches
/// from `ends[i - 1]` (0 for the first) to `ends[i]`.
///
/// # Panics
///
/// If `ends` is not ascending or passes the end of `data`; and with `work`'s own panics.
pub(crate) fn for_each_part_mut<T: Send>(
    data: &mut [T],
    ends: &[usize],
    work: impl Fn(usize, &mut [T]) + Sync,
) {
    assert!(ends.is_sorted() && ends.last().is_none_or(|last| *last <= data.len()));
    let shared = Shared(data.as_mut_ptr());
    let do_range = |range: Range<usize>| {
        let mut start = range.start.checked_sub(1).and_then(|before| ends.get(before)).copied().unwrap_or(0);
        for part in range {
            let Some(end) = ends.get(part).copied() else { return };
            // SAFETY: `ends` ascends and stays within `data`, so the parts are disjoint and in bounds; the pool's
            // shared cursor gives each part index to one thread, once; `data` is borrowed until all have finished.
            let slice = unsafe { std::slice::from_raw_parts_mut(shared.get().add(start), end - start) };
            work(part, slice);
            start = end;
        }
    };
    // The pool holds a lock while it works, and a panic would poison that for every engine of the process: it goes on
    // when the pool is done.
    let panicked: Mutex<Option<Box<dyn Any + Send>>> = Mutex::new(None);
    barrier_pool().execute_chunked(ends.len(), |range| {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| do_range(range))) {
            panicked.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
        }
    });
    if let Some(panic) = panicked.into_inner().unwrap_or_else(PoisonError::into_inner) {
        resume_unwind(panic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_in_one_part_leaves_the_pool_to_others() {
        let ends: Vec<usize> = (1..=64).collect();
        let broken = catch_unwind(|| {
            for_each_part_mut(&mut [0u8; 64], &ends, |part, _| assert!(part != 40, "part 40 breaks"));
        });
        let said = broken.expect_err("the panic reaches the caller");
        assert_eq!(said.downcast_ref::<&str>(), Some(&"part 40 breaks"));
        let mut data = [0u8; 64];
        for_each_part_mut(&mut data, &ends, |_, slice| slice.fill(1));
        assert_eq!(data, [1; 64]);
    }

    #[test]
    fn every_part_is_visited_once_with_its_own_elements() {
        let mut data: Vec<usize> = vec![0; 1000];
        let ends: Vec<usize> = (0..=99).map(|part| part * part / 10).collect();
        for_each_part_mut(&mut data, &ends, |part, slice| {
            for element in slice {
                *element += part + 1;
            }
        });
        let mut start = 0;
        for (part, end) in ends.iter().enumerate() {
            assert!(data[start..*end].iter().all(|element| *element == part + 1));
            start = *end;
        }
        assert!(data[start..].iter().all(|element| *element == 0));
    }
}
