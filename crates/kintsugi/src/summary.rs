//! The summary of a run. Its form is an outside contract.

mod smaller;

use std::collections::BTreeMap;
use std::path::PathBuf;

use kintsugi_diagnose::DIAGNOSED_BY;
use kintsugi_events::expect::evaluate;
use kintsugi_events::{GoalStatus, RecoveryAction, RecoveryPhase};
use kintsugi_gpu_scheduler::{SchedulerStats, Times};
use kintsugi_tools::Registry;
use kintsugi_types::{ByteCount, ModelName, TokenUsage, ToolName};
use serde::{Deserialize, Serialize};

use self::smaller::SmallerSummary;
use crate::cli::Format;
use crate::failure::Failure;
use crate::healing_metrics::diagnoser_name;
use crate::reasons::{Reason, commonest};
use crate::residency::process_bytes_peak;
use crate::run_folder::RunFolder;
use crate::terminal::{line_if_read, plain};
use crate::view::{RunView, SeamView};

/// The kind of a log that lies in the run's folder.
pub(crate) const EMBEDDED: &str = "embedded";

/// How much of a reason is shown to people.
const REASON_CHARS: usize = 160;

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct GoalCounts {
    pub(crate) submitted: usize,
    pub(crate) completed: usize,
    pub(crate) partial: usize,
    pub(crate) failed: usize,
    /// Goals that nobody could take; they are in `submitted` and have no result.
    pub(crate) refused: usize,
    pub(crate) correct: usize,
    /// Goals with an expectation; `correct` counts among these.
    pub(crate) judged: usize,
    /// Why goals did not complete.
    reasons: Vec<Reason>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct AgentCounts {
    pub(crate) total: u32,
    pub(crate) idle: u32,
    pub(crate) running: u32,
    pub(crate) degraded: u32,
    pub(crate) recovering: u32,
    pub(crate) failed: u32,
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct Tried {
    tried: u64,
    succeeded: u64,
}

/// Nothing where nothing was measured.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct Healing {
    faults_injected: BTreeMap<&'static str, u64>,
    anomalies: BTreeMap<&'static str, u64>,
    diagnoses: BTreeMap<&'static str, u64>,
    /// The same diagnoses, by who made them.
    diagnosed_by: BTreeMap<&'static str, u64>,
    recoveries: BTreeMap<&'static str, Tried>,
    seams: u64,
    seconds_to_heal: Percentiles,
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct HealthSummary {
    mean: f64,
    min: f64,
}

#[derive(Debug, Serialize)]
pub(crate) struct LogSummary {
    pub(crate) kind: &'static str,
    pub(crate) events: u64,
    pub(crate) bytes: u64,
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct MemorySummary {
    budget_bytes: u64,
    weights_bytes: u64,
    kv_bytes_peak: u64,
    total_bytes_peak: u64,
    resident_agents_peak: usize,
    /// Conversations that moved to host memory, came back from there, and were dropped for want of room.
    swaps: u64,
    swaps_back: u64,
    forgotten: u64,
    host_bytes_peak: u64,
    /// The most memory that the whole process had, where the system tells.
    process_bytes_peak: Option<u64>,
    /// From a swapped agent's next request, under its lease, until that computes: the step under way, waiting for room,
    /// and the swap.
    wake_ms: TimesMs,
    /// Of that the swap: others out, its own back.
    swap_in_ms: TimesMs,
    /// How long agents waited for the model.
    lease_wait_ms: TimesMs,
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct TimesMs {
    count: u64,
    p50: f64,
    p99: f64,
    max: f64,
}

impl From<Times> for TimesMs {
    fn from(times: Times) -> Self {
        let rounded = |ms: f64| (ms * 1000.0).round() / 1000.0;
        let Times { count, p50_ms, p99_ms, max_ms } = times;
        Self { count, p50: rounded(p50_ms), p99: rounded(p99_ms), max: rounded(max_ms) }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    run: String,
    /// The run's folder, which `--data-dir` of other commands takes.
    data_dir: PathBuf,
    example: String,
    seed: u64,
    resumed: bool,
    wall_s: f64,
    pub(crate) goals: GoalCounts,
    pub(crate) agents: AgentCounts,
    steps: usize,
    tool_calls: usize,
    tokens: TokenUsage,
    healing: Healing,
    health: HealthSummary,
    log: LogSummary,
    memory: MemorySummary,
    /// What the smaller model did, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    smaller_model: Option<SmallerSummary>,
}

/// What a summary needs beside the log.
pub(crate) struct Ran<'a> {
    pub(crate) folder: &'a RunFolder,
    pub(crate) wall_s: f64,
    pub(crate) agents_total: u32,
    pub(crate) log_kind: &'static str,
    pub(crate) log_bytes: u64,
    pub(crate) stats: &'a SchedulerStats,
    pub(crate) smaller: Option<&'a (ModelName, SchedulerStats)>,
    pub(crate) tools: &'a Registry,
}

impl Summary {
    /// Tells of a run from its log.
    pub(crate) fn new(view: &RunView, ran: &Ran<'_>) -> Self {
        let manifest = &ran.folder.manifest;
        let mut tokens = TokenUsage::default();
        for metric in &view.metrics {
            tokens += metric.tokens;
        }
        let healths: Vec<f64> = view.metrics.iter().map(|metric| metric.health.get()).collect();
        let mean = if healths.is_empty() { 1.0 } else { healths.iter().sum::<f64>() / healths.len() as f64 };
        Self {
            run: manifest.run.to_string(),
            data_dir: ran.folder.path.clone(),
            example: manifest.example.clone(),
            seed: manifest.seed,
            resumed: ran.folder.is_resumed,
            wall_s: (ran.wall_s * 100.0).round() / 100.0,
            goals: count_goals(view, ran.tools),
            agents: count_agents(view, ran.agents_total),
            steps: view.metrics.iter().filter(|metric| metric.spent.is_none()).count(),
            tool_calls: view.metrics.iter().filter(|metric| metric.tool.is_some()).count(),
            tokens,
            healing: tell_healing(view),
            health: HealthSummary { mean, min: healths.iter().copied().fold(1.0, f64::min) },
            log: LogSummary { kind: ran.log_kind, events: view.events, bytes: ran.log_bytes },
            memory: MemorySummary {
                budget_bytes: ran.stats.memory_budget.bytes(),
                weights_bytes: ran.stats.memory.weights.bytes(),
                kv_bytes_peak: ran.stats.kv_used_peak.bytes(),
                total_bytes_peak: ran.stats.memory_peak.bytes(),
                resident_agents_peak: ran.stats.residents_peak,
                swaps: ran.stats.swaps.out,
                swaps_back: ran.stats.swaps.back,
                forgotten: ran.stats.swaps.forgotten,
                host_bytes_peak: ran.stats.kv_host_peak.bytes(),
                process_bytes_peak: process_bytes_peak().map(ByteCount::bytes),
                wake_ms: ran.stats.wakes.into(),
                swap_in_ms: ran.stats.swaps_in.into(),
                lease_wait_ms: ran.stats.lease_waits.into(),
            },
            smaller_model: SmallerSummary::of(view, ran.smaller),
        }
    }

    /// Faults that were healed.
    pub(crate) const fn seams(&self) -> u64 {
        self.healing.seams
    }

    /// Writes it to stdout. Whoever reads may have read enough; the run is done all the same.
    pub(crate) fn write(&self, format: Format) -> Result<(), Failure> {
        let text = match format {
            Format::Json => serde_json::to_string_pretty(self).map_err(Failure::job)?,
            Format::Text => self.worded(),
        };
        let folder = self.data_dir.display();
        let log = match self.log.kind {
            EMBEDDED => format!("--data-dir {folder}"),
            _ => "--log kafka://HOST:PORT".to_owned(),
        };
        line_if_read(&text).map(drop).map_err(|failure| Failure {
            message: format!(
                "{}: the run is done and kept in {folder}, `kintsugi goals list {log}` shows what came of it",
                failure.message
            ),
            ..failure
        })
    }

    /// The summary for people.
    fn worded(&self) -> String {
        let Self { goals, healing, memory, .. } = self;
        let refused = if goals.refused > 0 { format!(", {} refused", goals.refused) } else { String::new() };
        let mut lines = vec![format!(
            "{} goals in {:.1} s: {} completed, {} partial, {} failed{refused}",
            goals.submitted, self.wall_s, goals.completed, goals.partial, goals.failed
        )];
        let label = ["reasons"].into_iter().chain(std::iter::repeat(""));
        lines.extend(goals.reasons.iter().zip(label).map(|(Reason { status, words, count }, label)| {
            let words: String = plain(words).chars().take(REASON_CHARS).collect();
            format!("{label:<11} {count} {status}: {words}")
        }));
        lines.extend([
            format!(
                "correct     {} of {} ({:.1} %)",
                goals.correct,
                goals.judged,
                100.0 * goals.correct as f64 / goals.judged.max(1) as f64
            ),
            format!(
                "work        {} steps, {} tool calls, {} prompt tokens, {} generated",
                self.steps, self.tool_calls, self.tokens.prompt, self.tokens.completion
            ),
            format!("health      mean {:.2}, lowest {:.2}", self.health.mean, self.health.min),
        ]);
        if goals.judged < goals.submitted {
            let unjudged = goals.submitted - goals.judged;
            lines
                .push(format!("not judged  {unjudged}: without expectation, or repeats of goals that write"));
        }
        let injected: u64 = healing.faults_injected.values().sum();
        if injected > 0 {
            lines.push(format!("faults      {injected} injected"));
        }
        if healing.diagnosed_by.keys().any(|by| *by != DIAGNOSED_BY) {
            let shares: Vec<String> =
                healing.diagnosed_by.iter().map(|(by, count)| format!("{count} by {by}")).collect();
            lines.push(format!("diagnosed   {}", shares.join(", ")));
        }
        lines.push(format!("seams       {}", healing.seams));
        for (action, count) in &healing.recoveries {
            if *action == RecoveryAction::NotifyHuman.name() {
                lines.push(format!("            {} need a person: goals list tells why", count.succeeded));
                continue;
            }
            lines.push(format!("            {action}: {} of {} helped", count.succeeded, count.tried));
        }
        lines.push(format!("log         {} events, {}", self.log.events, ByteCount(self.log.bytes)));
        lines.push(format!(
            "memory      {} of {} at the peak, {} agents held in it at once",
            ByteCount(memory.total_bytes_peak),
            ByteCount(memory.budget_bytes),
            memory.resident_agents_peak
        ));
        if memory.swaps > 0 {
            lines.push(format!(
                "swapped     {} times to host memory ({} at the peak), back within {:.1} ms (p99), at most {:.1} ms",
                memory.swaps,
                ByteCount(memory.host_bytes_peak),
                memory.wake_ms.p99,
                memory.wake_ms.max
            ));
        }
        lines.push(format!(
            "waits       for the model {:.2} s (p99), at most {:.2} s",
            memory.lease_wait_ms.p99 / 1000.0,
            memory.lease_wait_ms.max / 1000.0
        ));
        if let Some(smaller) = &self.smaller_model {
            lines.push(smaller.worded());
        }
        if let Some(bytes) = memory.process_bytes_peak {
            lines.push(format!("process     {} at the peak", ByteCount(bytes)));
        }
        lines.push(format!("kept in     {}", self.data_dir.display()));
        lines.join("\n")
    }
}

fn count_goals(view: &RunView, tools: &Registry) -> GoalCounts {
    let is_write = |tool: &ToolName| tools.spec(tool).is_some_and(|spec| spec.safety.is_write());
    let mut counts = GoalCounts {
        submitted: view.goals.len(),
        refused: view.refused_goals().count(),
        reasons: commonest(view),
        ..GoalCounts::default()
    };
    for goal in view.goals.values() {
        let Some(result) = goal.results.first() else { continue };
        match result.status {
            GoalStatus::Completed => counts.completed += 1,
            GoalStatus::Partial => counts.partial += 1,
            GoalStatus::Failed => counts.failed += 1,
        }
        if let Some(expect) = &goal.goal.expect {
            counts.judged += 1;
            // An expectation that cannot be read counts as not met; `run` has checked them before.
            counts.correct += usize::from(evaluate(expect, result, &is_write).unwrap_or(false));
        }
    }
    counts
}

fn count_agents(view: &RunView, total: u32) -> AgentCounts {
    let mut counts = AgentCounts { total, ..AgentCounts::default() };
    for agent in view.agents.values() {
        match agent.shown() {
            "failed" => counts.failed += 1,
            "recovering" => counts.recovering += 1,
            "degraded" => counts.degraded += 1,
            "running" => counts.running += 1,
            _ => {}
        }
    }
    let busy = counts.failed + counts.recovering + counts.degraded + counts.running;
    counts.idle = total.saturating_sub(busy);
    counts
}

fn tell_healing(view: &RunView) -> Healing {
    let mut healing = Healing { faults_injected: view.faults.clone(), ..Healing::default() };
    for (_, anomaly) in view.anomalies.values() {
        *healing.anomalies.entry(anomaly.kind.name()).or_default() += 1;
    }
    for (_, diagnosis) in view.diagnoses.values() {
        *healing.diagnoses.entry(diagnosis.fault_type.name()).or_default() += 1;
        *healing.diagnosed_by.entry(diagnoser_name(&diagnosis.diagnosed_by)).or_default() += 1;
    }
    let mut seconds = Vec::new();
    for seam in view.recoveries.values() {
        let Some(last) = seam.last() else { continue };
        let is_started = seam.phases.iter().any(|(_, recovery)| recovery.phase == RecoveryPhase::Started);
        if !is_started {
            continue;
        }
        let counts = healing.recoveries.entry(last.action.name()).or_default();
        counts.tried += 1;
        if last.phase == RecoveryPhase::Completed {
            counts.succeeded += 1;
            // Who told a person has mended nothing.
            if last.action == RecoveryAction::NotifyHuman {
                continue;
            }
            healing.seams += 1;
            seconds.extend(seconds_to_heal(view, seam));
        }
    }
    healing.seconds_to_heal = percentiles(seconds);
    healing
}

/// From the anomaly to the measured success.
fn seconds_to_heal(view: &RunView, seam: &SeamView) -> Option<f64> {
    let (healed_at, recovery) = seam.phases.last()?;
    let (_, diagnosis) = view.diagnoses.get(&recovery.diagnosis)?;
    let found_at =
        diagnosis.anomalies.iter().filter_map(|id| view.anomalies.get(id)).map(|(time, _)| *time).min()?;
    Some(healed_at.signed_duration_since(found_at).as_seconds_f64())
}

/// The nearest-rank percentiles; nothing of none.
pub(crate) fn percentiles(mut values: Vec<f64>) -> Percentiles {
    values.sort_by(f64::total_cmp);
    Percentiles { p50: percentile(&values, 0.50), p99: percentile(&values, 0.99) }
}

/// The nearest-rank percentile of sorted values; nothing of none.
fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a length is a place in it"
    )]
    let place = ((sorted.len() as f64 * share).ceil() as usize).saturating_sub(1);
    sorted.get(place).copied()
}
