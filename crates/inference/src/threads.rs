//! How many threads compute.
//!
//! candle reads that number from the environment when its pools are first used and never again, so it has to be
//! there before. Setting the environment is sound only while nobody else may read it: with one thread.

use std::num::NonZeroUsize;

use crate::error::InferenceError;

const VARIABLES: [&str; 2] = ["CANDLE_NUM_THREADS", "RAYON_NUM_THREADS"];
const HINT: &str = "call configure_threads first in main, or start the process with CANDLE_NUM_THREADS and \
                    RAYON_NUM_THREADS set";

/// Makes the compute pools of this process have `threads` threads, the caller of [`crate::Backend::step`] included.
/// To be called first in `main`. A number that the environment already has stays as it is.
///
/// Fails with [`InferenceError::Threads`] when the process already has other threads, or when that cannot be known
/// (outside Linux).
pub fn configure_threads(threads: NonZeroUsize) -> Result<(), InferenceError> {
    if VARIABLES.iter().all(|variable| std::env::var_os(variable).is_some()) {
        return Ok(());
    }
    let running = std::fs::read_dir("/proc/self/task").map(Iterator::count).map_err(|error| {
        InferenceError::Threads {
            reason: format!("the threads of this process cannot be counted ({error})"),
            hint: HINT,
        }
    })?;
    if running != 1 {
        return Err(InferenceError::Threads {
            reason: format!("{running} threads are already running"),
            hint: HINT,
        });
    }
    for variable in VARIABLES {
        if std::env::var_os(variable).is_none() {
            #[expect(unsafe_code, reason = "candle takes its thread count from the environment alone")]
            // SAFETY: the count above found this thread alone, so nobody reads the environment meanwhile, and only
            // this thread could start one that would.
            unsafe {
                std::env::set_var(variable, threads.to_string());
            }
        }
    }
    Ok(())
}

/// How many threads the compute pool has, the caller included. Starts the pool.
pub fn compute_threads() -> usize {
    candle_core::utils::barrier_pool().n_workers() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_several_threads_is_refused() {
        // The test harness runs this on a thread of its own.
        let result = configure_threads(NonZeroUsize::MIN);
        assert!(
            std::env::var_os("RAYON_NUM_THREADS").is_some()
                || matches!(result, Err(InferenceError::Threads { .. }))
        );
    }
}
