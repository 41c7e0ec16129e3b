//! What the smaller model did in a run.

use std::collections::BTreeSet;

use kintsugi_gpu_scheduler::SchedulerStats;
use kintsugi_types::{ByteCount, ModelName, TokenUsage};
use serde::Serialize;

use crate::view::RunView;

#[derive(Debug, Serialize)]
pub(super) struct SmallerSummary {
    name: ModelName,
    /// Steps whose newest answer it gave.
    steps: usize,
    /// Goals with such a step.
    goals: usize,
    /// Tokens of these steps.
    tokens: TokenUsage,
    /// Its part of the run's memory.
    memory: SmallerMemory,
}

#[derive(Debug, Serialize)]
struct SmallerMemory {
    budget_bytes: u64,
    weights_bytes: u64,
    kv_bytes_peak: u64,
    total_bytes_peak: u64,
}

impl SmallerSummary {
    /// What the log says that it answered, and what it held. Nothing where there is none.
    pub(super) fn of(view: &RunView, smaller: Option<&(ModelName, SchedulerStats)>) -> Option<Self> {
        let (name, stats) = smaller?;
        let answered = view
            .metrics
            .iter()
            .filter(|metric| metric.spent.is_none() && metric.model.as_ref() == Some(name));
        let (mut steps, mut goals, mut tokens) = (0, BTreeSet::new(), TokenUsage::default());
        for metric in answered {
            steps += 1;
            goals.insert(&metric.goal);
            tokens += metric.tokens;
        }
        Some(Self {
            name: name.clone(),
            steps,
            goals: goals.len(),
            tokens,
            memory: SmallerMemory {
                budget_bytes: stats.memory_budget.bytes(),
                weights_bytes: stats.memory.weights.bytes(),
                kv_bytes_peak: stats.kv_used_peak.bytes(),
                total_bytes_peak: stats.memory_peak.bytes(),
            },
        })
    }

    /// The same for people.
    pub(super) fn worded(&self) -> String {
        format!(
            "smaller     {} answered {} steps of {} goals, in {} of the memory",
            self.name,
            self.steps,
            self.goals,
            ByteCount(self.memory.total_bytes_peak)
        )
    }
}
