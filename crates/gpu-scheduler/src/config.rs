//! What the owner of a scheduler decides: limits, the way to a backend, and who hears of faults.

use std::time::Duration;

use kintsugi_inference::Backend;
use kintsugi_types::{ByteCount, RetryPolicy};

/// The limits of a scheduler.
#[derive(Debug, Clone, PartialEq)]
pub struct SchedulerConfig {
    /// How many leases are out at once, which is how many requests the batch holds at most. At least 1.
    pub slots: usize,
    /// How many requests wait for a lease; the next one is refused.
    pub queue_max: usize,
    /// How long a lease lasts while the engine is up, in milliseconds.
    pub lease_ms_max: u64,
    /// What the backend may hold on its device.
    pub memory_budget: ByteCount,
    /// How a broken engine is brought back.
    pub rebuild: RebuildPolicy,
}

/// How often and how fast a broken engine is rebuilt: restart intensity as in OTP.
#[derive(Debug, Clone, PartialEq)]
pub struct RebuildPolicy {
    /// The most attempts within `window`; with one more the scheduler reports itself down.
    pub attempts_max: u32,
    /// The time over which attempts are counted. A scheduler that is down tries once each such time.
    pub window: Duration,
    /// The delay before attempt 2, 3, … within the window; the first is made at once. Its own `attempts_max` is
    /// not read, for the window's limit is what ends the attempts.
    pub backoff: RetryPolicy,
}

impl Default for RebuildPolicy {
    fn default() -> Self {
        Self {
            attempts_max: 5,
            window: Duration::from_mins(1),
            backoff: RetryPolicy {
                attempts_max: 5,
                first_delay_ms: 200,
                factor: 2.0,
                delay_max_ms: 5_000,
                jitter: 0.0,
            },
        }
    }
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            slots: 12,
            queue_max: 8_192,
            lease_ms_max: 120_000,
            memory_budget: ByteCount::mib(7_168),
            rebuild: RebuildPolicy::default(),
        }
    }
}

/// Makes a backend. Run on the engine thread, at start and for each rebuild, so that the backend need not be `Send`.
pub type BackendFactory = Box<dyn FnMut() -> Result<Box<dyn Backend>, String> + Send>;

/// What happened to the engine, for healing events.
#[derive(Debug, Clone, PartialEq)]
pub enum EngineReport {
    /// The engine failed or could not be built.
    Fault {
        /// What happened.
        reason: String,
        /// How many requests were in the batch; they run again in the next engine, within bounds.
        requests: usize,
    },
    /// A new engine is up and the leases are granted again.
    Rebuilt {
        /// How long it was away, from fault to now, in milliseconds.
        ms: u64,
        /// Which attempt succeeded, counted within the policy's window.
        attempt: u32,
    },
    /// Too many attempts: every request is answered with an engine fault until a later attempt succeeds.
    Down {
        /// The last fault.
        reason: String,
    },
}

/// Hears of faults and rebuilds, in order, on the engine thread: it must be quick and must not block.
pub type OnFault = Box<dyn Fn(EngineReport) + Send>;
