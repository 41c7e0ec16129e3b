//! Where agents and their keys and values were over the time of a run: sampled while it runs, in a bounded number of
//! points.

use std::time::Duration;

use kintsugi_gpu_scheduler::SchedulerStats;
use kintsugi_runtime::StatusSnapshot;
use kintsugi_types::ByteCount;

/// Points that are kept. When there are so many, every other goes and the time between two doubles.
const POINTS_MAX: usize = 600;

/// The time between two points at first.
const EVERY_AT_FIRST: Duration = Duration::from_millis(50);

/// What was at one time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Point {
    /// Time since the run began.
    pub(crate) at: Duration,
    /// Agents with keys and values on the device, at work or waiting for their next step.
    pub(crate) resident: u64,
    /// Agents whose keys and values lie in host memory.
    pub(crate) swapped: u64,
    /// Agents in memory with a goal, and nothing on the model.
    pub(crate) waiting: u64,
    /// Agents that are not in memory.
    pub(crate) dormant: u64,
    /// Bytes of weights and activations.
    pub(crate) fixed: ByteCount,
    /// Bytes of keys and values in use on the device.
    pub(crate) kv_used: ByteCount,
    /// Bytes of keys and values in host memory.
    pub(crate) kv_host: ByteCount,
}

impl Point {
    /// What is the case now, among `agents` in all.
    pub(crate) fn of(at: Duration, agents: u32, status: &StatusSnapshot, scheduler: &SchedulerStats) -> Self {
        let resident = (scheduler.active + scheduler.waiting_on_device) as u64;
        let swapped = scheduler.waiting_in_host_memory as u64;
        let agents = u64::from(agents);
        // Counted a moment apart, so that one may be ahead of the other.
        let in_memory = status.agents.values().sum::<u64>().max(resident + swapped).min(agents);
        Self {
            at,
            resident,
            swapped,
            waiting: in_memory.saturating_sub(resident + swapped),
            dormant: agents - in_memory,
            fixed: ByteCount(scheduler.memory.weights.0 + scheduler.memory.scratch.0),
            kv_used: scheduler.memory.kv_used,
            kv_host: scheduler.memory.kv_host,
        }
    }

    /// All that is in use on the device.
    pub(crate) const fn in_use(&self) -> ByteCount {
        ByteCount(self.fixed.0 + self.kv_used.0)
    }
}

/// The points of a run so far.
#[derive(Debug)]
pub(crate) struct Timeline {
    points: Vec<Point>,
    every: Duration,
}

impl Default for Timeline {
    fn default() -> Self {
        Self { points: Vec::new(), every: EVERY_AT_FIRST }
    }
}

impl Timeline {
    /// The points, oldest first.
    pub(crate) fn points(&self) -> &[Point] {
        &self.points
    }

    /// Takes a point in. Of those that lie closer together than the picture is fine, the one with the most in use
    /// on the device stays, so that no peak is lost.
    pub(crate) fn take(&mut self, point: Point) {
        let every = self.every.as_nanos().max(1);
        let part_of = |at: Duration| at.as_nanos() / every;
        match self.points.last_mut() {
            Some(last) if part_of(last.at) == part_of(point.at) => *last = fuller(*last, point),
            _ => self.points.push(point),
        }
        if self.points.len() >= POINTS_MAX {
            self.every *= 2;
            for point in std::mem::take(&mut self.points) {
                self.take(point);
            }
        }
    }
}

/// Of two neighbours the one with more in use.
fn fuller(one: Point, other: Point) -> Point {
    if other.in_use() > one.in_use() { other } else { one }
}

/// The most memory that this process had at once, where the system tells.
pub(crate) fn process_bytes_peak() -> Option<ByteCount> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(ByteCount(kib * 1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_long_a_run_is_its_points_are_few_and_no_peak_is_lost() {
        let mut timeline = Timeline::default();
        for ms in 0..300_000u64 {
            let kv_used = ByteCount(if ms == 123_456 { 99 } else { ms % 7 });
            timeline.take(Point { at: Duration::from_millis(ms * 10), kv_used, ..Point::default() });
        }
        let points = timeline.points();
        assert!((POINTS_MAX / 2..POINTS_MAX).contains(&points.len()), "{}", points.len());
        assert!(points.is_sorted_by_key(|point| point.at));
        assert_eq!(points.iter().map(|point| point.kv_used.0).max(), Some(99));
        assert!(points.last().unwrap().at >= Duration::from_secs(2_990));
    }

    #[test]
    fn this_process_has_some_memory() {
        assert!(process_bytes_peak().is_none_or(|peak| peak > ByteCount::mib(1)));
    }
}
