//! What a scheduler shows of itself: for the progress display and the summary of a run.

use std::collections::BTreeMap;
use std::sync::Arc;

use kintsugi_inference::{MemoryUse, ModelInfo};
use kintsugi_types::{AgentId, ByteCount, TokenUsage};
use serde::{Deserialize, Serialize};

use crate::pace::Pace;
use crate::residency::Residence;
use crate::spread::{Spread, Times};

/// Whether the engine can compute.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EngineState {
    /// The first engine is being built.
    #[default]
    Starting,
    /// It computes, or would.
    Up,
    /// It failed and is being rebuilt; requests wait.
    Rebuilding,
    /// It failed too often; requests are refused and it is tried again at a slow pace.
    Down {
        /// The last fault.
        reason: String,
    },
    /// The engine thread has ended.
    Stopped,
}

/// Moves of conversations between device and host memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwapCounts {
    /// Conversations that moved to host memory.
    pub out: u64,
    /// Conversations that came back from there with a request.
    pub back: u64,
    /// Conversations that were dropped for want of room; their next request computes its prompt again.
    pub forgotten: u64,
}

/// Counts, peaks and totals since start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SchedulerStats {
    /// Whether the engine can compute.
    pub engine: EngineState,
    /// How many engines were built so far; a lease carries the one that it was granted on.
    pub epoch: u64,
    /// The model behind, once one was loaded.
    pub model: Option<ModelInfo>,
    /// Leases that are out or whose work is still being taken back.
    pub leases_out: usize,
    /// The most leases that were out at once.
    pub leases_out_peak: usize,
    /// Leases granted in all.
    pub leases_granted: u64,
    /// Requests that wait for a lease.
    pub queued: usize,
    /// The most that waited at once.
    pub queued_peak: usize,
    /// How long those who got a lease had waited for it.
    pub lease_waits: Times,
    /// Requests for a lease that were refused in all.
    pub refused: u64,
    /// Leases whose deadline passed.
    pub expired: u64,
    /// Requests in the batch.
    pub active: usize,
    /// The most that were in the batch at once.
    pub active_peak: usize,
    /// Requests answered with a completion.
    pub completions: u64,
    /// Tokens of those completions.
    pub usage: TokenUsage,
    /// What the device may hold.
    pub memory_budget: ByteCount,
    /// What it holds, by purpose.
    pub memory: MemoryUse,
    /// The most that it held in all.
    pub memory_peak: ByteCount,
    /// The most keys and values that were in use.
    pub kv_used_peak: ByteCount,
    /// The most keys and values that lay in host memory.
    pub kv_host_peak: ByteCount,
    /// Conversations that wait for their next request with keys and values on the device.
    pub waiting_on_device: usize,
    /// The most conversations that were on the device at once, at work or waiting.
    pub residents_peak: usize,
    /// Conversations that wait with keys and values in host memory.
    pub waiting_in_host_memory: usize,
    /// Moves between the two.
    pub swaps: SwapCounts,
    /// From a swapped conversation's next request, under its lease, until that is in the batch with what came back:
    /// the copy, the step that was under way, and waiting for room.
    pub wakes: Times,
    /// The part of that from the moment when there was room or could be made: others out, its own back, its prompt
    /// read.
    pub swaps_in: Times,
    /// Faults of the engine, failed builds included.
    pub faults: u64,
    /// Engines that were rebuilt after a fault.
    pub rebuilds: u64,
}

/// The engine thread's part of the picture, which it alone writes.
#[derive(Debug, Clone, Default)]
pub(crate) struct EnginePicture {
    pub(crate) state: EngineState,
    pub(crate) epoch: u64,
    pub(crate) model: Option<ModelInfo>,
    pub(crate) active: usize,
    pub(crate) active_peak: usize,
    pub(crate) completions: u64,
    pub(crate) usage: TokenUsage,
    pub(crate) memory: MemoryUse,
    pub(crate) memory_peak: ByteCount,
    pub(crate) kv_used_peak: ByteCount,
    pub(crate) kv_host_peak: ByteCount,
    pub(crate) waiting_on_device: usize,
    pub(crate) residents_peak: usize,
    pub(crate) waiting_in_host_memory: usize,
    pub(crate) residences: Arc<BTreeMap<AgentId, Residence>>,
    pub(crate) swaps: SwapCounts,
    pub(crate) wakes: Spread,
    pub(crate) swaps_in: Spread,
    pub(crate) faults: u64,
    pub(crate) rebuilds: u64,
    pub(crate) pace: Pace,
}

/// The actor's part of the picture, which it alone writes.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeskPicture {
    pub(crate) leases_out: usize,
    pub(crate) leases_out_peak: usize,
    pub(crate) leases_granted: u64,
    pub(crate) queued: usize,
    pub(crate) queued_peak: usize,
    pub(crate) lease_waits: Spread,
    pub(crate) refused: u64,
    pub(crate) expired: u64,
}

impl EnginePicture {
    /// This engine's, with what `other` holds and did added.
    pub(crate) fn with(&self, other: &Self) -> Self {
        let mut usage = self.usage;
        usage += other.usage;
        Self {
            state: self.state.clone(),
            epoch: self.epoch,
            model: self.model.clone(),
            active: self.active + other.active,
            active_peak: self.active_peak + other.active_peak,
            completions: self.completions + other.completions,
            usage,
            memory: MemoryUse {
                weights: sum(self.memory.weights, other.memory.weights),
                kv_pool: sum(self.memory.kv_pool, other.memory.kv_pool),
                kv_used: sum(self.memory.kv_used, other.memory.kv_used),
                kv_shared: sum(self.memory.kv_shared, other.memory.kv_shared),
                kv_host: sum(self.memory.kv_host, other.memory.kv_host),
                scratch: sum(self.memory.scratch, other.memory.scratch),
            },
            memory_peak: sum(self.memory_peak, other.memory_peak),
            kv_used_peak: sum(self.kv_used_peak, other.kv_used_peak),
            kv_host_peak: sum(self.kv_host_peak, other.kv_host_peak),
            waiting_on_device: self.waiting_on_device + other.waiting_on_device,
            residents_peak: self.residents_peak + other.residents_peak,
            waiting_in_host_memory: self.waiting_in_host_memory + other.waiting_in_host_memory,
            residences: self.residences.clone(),
            swaps: SwapCounts {
                out: self.swaps.out + other.swaps.out,
                back: self.swaps.back + other.swaps.back,
                forgotten: self.swaps.forgotten + other.swaps.forgotten,
            },
            wakes: self.wakes.with(&other.wakes),
            swaps_in: self.swaps_in.with(&other.swaps_in),
            faults: self.faults + other.faults,
            rebuilds: self.rebuilds + other.rebuilds,
            pace: self.pace,
        }
    }
}

impl DeskPicture {
    /// This desk's, with what is and was at `other` added.
    pub(crate) fn with(&self, other: &Self) -> Self {
        Self {
            leases_out: self.leases_out + other.leases_out,
            leases_out_peak: self.leases_out_peak + other.leases_out_peak,
            leases_granted: self.leases_granted + other.leases_granted,
            queued: self.queued + other.queued,
            queued_peak: self.queued_peak + other.queued_peak,
            lease_waits: self.lease_waits.with(&other.lease_waits),
            refused: self.refused + other.refused,
            expired: self.expired + other.expired,
        }
    }
}

const fn sum(one: ByteCount, other: ByteCount) -> ByteCount {
    ByteCount(one.0 + other.0)
}

impl SchedulerStats {
    /// Puts the two parts together.
    pub(crate) fn of(desk: &DeskPicture, engine: &EnginePicture, memory_budget: ByteCount) -> Self {
        Self {
            engine: engine.state.clone(),
            epoch: engine.epoch,
            model: engine.model.clone(),
            leases_out: desk.leases_out,
            leases_out_peak: desk.leases_out_peak,
            leases_granted: desk.leases_granted,
            queued: desk.queued,
            queued_peak: desk.queued_peak,
            lease_waits: desk.lease_waits.times(),
            refused: desk.refused,
            expired: desk.expired,
            active: engine.active,
            active_peak: engine.active_peak,
            completions: engine.completions,
            usage: engine.usage,
            memory_budget,
            memory: engine.memory,
            memory_peak: engine.memory_peak,
            kv_used_peak: engine.kv_used_peak,
            kv_host_peak: engine.kv_host_peak,
            waiting_on_device: engine.waiting_on_device,
            residents_peak: engine.residents_peak,
            waiting_in_host_memory: engine.waiting_in_host_memory,
            swaps: engine.swaps,
            wakes: engine.wakes.times(),
            swaps_in: engine.swaps_in.times(),
            faults: engine.faults,
            rebuilds: engine.rebuilds,
        }
    }
}
