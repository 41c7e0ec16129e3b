//! What the healing events of a log add up to, for `/metrics`. Counted from the log, so a restart loses nothing.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, PoisonError};

use kintsugi_diagnose::{DIAGNOSED_BY, DIAGNOSED_BY_CACHE, DIAGNOSED_BY_MODEL};
use kintsugi_events::{Event, GoalStatus, Payload, RecoveryPhase, Severity};
use kintsugi_types::{RecoveryId, TokenUsage};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Bounds of the buckets for a recovery's duration: from a quick retry to a breaker's patience.
const DURATION_BUCKETS_S: [f64; 12] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0];

/// Recoveries that were started and not ended are remembered up to this many.
const STARTED_MAX: usize = 4_096;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnomalyLabels {
    anomaly_type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DiagnosisLabels {
    fault_type: &'static str,
    severity: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DiagnoserLabels {
    diagnosed_by: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RecoveryLabels {
    action_type: &'static str,
    policy: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ActionLabels {
    action_type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabels {
    status: &'static str,
}

/// How often an action was taken to its end, and how often it helped.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Success {
    helped: u64,
    ended: u64,
}

impl Success {
    /// The share that helped.
    pub(crate) fn rate(self) -> f64 {
        self.helped as f64 / self.ended.max(1) as f64
    }
}

/// Sums that are not healing's own.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Work {
    /// Tokens of thoughts.
    pub(crate) tokens: TokenUsage,
    /// Steps that were measured.
    pub(crate) steps: u64,
    /// Tool calls that ended.
    pub(crate) tool_calls: u64,
    /// Goals that were published.
    pub(crate) goals_published: u64,
    /// Input that could not be taken.
    pub(crate) dead_letters: u64,
}

#[derive(Debug, Default)]
struct Sums {
    started: HashSet<RecoveryId>,
    success: BTreeMap<&'static str, Success>,
    work: Work,
}

/// The counters.
#[derive(Debug)]
pub(crate) struct HealingMetrics {
    anomalies: Family<AnomalyLabels, Counter>,
    diagnoses: Family<DiagnosisLabels, Counter>,
    diagnosers: Family<DiagnoserLabels, Counter>,
    actions: Family<RecoveryLabels, Counter>,
    durations: Family<ActionLabels, Histogram>,
    goals: Family<StatusLabels, Counter>,
    sums: Mutex<Sums>,
}

impl HealingMetrics {
    /// All at zero.
    pub(crate) fn new() -> Self {
        Self {
            anomalies: Family::default(),
            diagnoses: Family::default(),
            diagnosers: Family::default(),
            actions: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(DURATION_BUCKETS_S)),
            goals: Family::default(),
            sums: Mutex::default(),
        }
    }

    /// Offers the counters for a scrape.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let anomalies = "Anomalies that were found";
        registry.register("agent_anomalies_detected", anomalies, self.anomalies.clone());
        let diagnoses = "Diagnoses that were made";
        registry.register("agent_diagnoses_completed", diagnoses, self.diagnoses.clone());
        let by_whom = "Diagnoses by who made them";
        registry.register("kintsugi_diagnoses", by_whom, self.diagnosers.clone());
        let actions = "Recoveries that were started";
        registry.register("agent_recovery_actions", actions, self.actions.clone());
        let durations = "From plan to end of recoveries that were started";
        registry.register_with_unit(
            "agent_recovery_duration",
            durations,
            Unit::Seconds,
            self.durations.clone(),
        );
        registry.register("kintsugi_goals_ended", "Goals that ended", self.goals.clone());
    }

    /// The success of each action so far.
    pub(crate) fn success(&self) -> BTreeMap<&'static str, Success> {
        self.sums().success.clone()
    }

    /// The work done so far.
    pub(crate) fn work(&self) -> Work {
        self.sums().work
    }

    fn sums(&self) -> std::sync::MutexGuard<'_, Sums> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an event.
    pub(crate) fn take(&self, event: &Event) {
        match &event.payload {
            // One that was handed over was published before.
            Payload::Goal(goal) if goal.handover.is_some() => {}
            Payload::Goal(_) => self.sums().work.goals_published += 1,
            Payload::DeadLetter(_) => self.sums().work.dead_letters += 1,
            Payload::Result(result) => {
                let status = match result.status {
                    GoalStatus::Completed => "completed",
                    GoalStatus::Partial => "partial",
                    GoalStatus::Failed => "failed",
                };
                self.goals.get_or_create(&StatusLabels { status }).inc();
            }
            Payload::Metric(metric) => {
                let mut sums = self.sums();
                sums.work.steps += u64::from(metric.spent.is_none());
                sums.work.tool_calls += u64::from(metric.tool.is_some());
                sums.work.tokens += metric.tokens;
            }
            Payload::Anomaly(anomaly) => {
                self.anomalies.get_or_create(&AnomalyLabels { anomaly_type: anomaly.kind.name() }).inc();
            }
            Payload::Diagnosis(diagnosis) => {
                let labels = DiagnosisLabels {
                    fault_type: diagnosis.fault_type.name(),
                    severity: severity_name(diagnosis.severity),
                };
                self.diagnoses.get_or_create(&labels).inc();
                let diagnosed_by = diagnoser_name(&diagnosis.diagnosed_by);
                self.diagnosers.get_or_create(&DiagnoserLabels { diagnosed_by }).inc();
            }
            Payload::Recovery(recovery) => self.take_recovery(recovery),
            Payload::Agent(_) | Payload::Approval(_) | Payload::Snapshot(_) | Payload::Fault(_) => {}
        }
    }

    fn take_recovery(&self, recovery: &kintsugi_events::Recovery) {
        let action_type = recovery.action.name();
        let mut sums = self.sums();
        match recovery.phase {
            RecoveryPhase::Planned => {}
            RecoveryPhase::Started => {
                if sums.started.len() < STARTED_MAX {
                    sums.started.insert(recovery.recovery);
                }
                let policy = recovery.policy.clone().unwrap_or_else(|| "none".to_owned());
                self.actions.get_or_create(&RecoveryLabels { action_type, policy }).inc();
            }
            RecoveryPhase::Completed | RecoveryPhase::Failed | RecoveryPhase::Abandoned => {
                // Only the first end of one that was started counts.
                if !sums.started.remove(&recovery.recovery) || recovery.phase == RecoveryPhase::Abandoned {
                    return;
                }
                let success = sums.success.entry(action_type).or_default();
                success.ended += 1;
                success.helped += u64::from(recovery.phase == RecoveryPhase::Completed);
                if let Some(duration_ms) = recovery.duration_ms {
                    self.durations
                        .get_or_create(&ActionLabels { action_type })
                        .observe(duration_ms as f64 / 1e3);
                }
            }
        }
    }
}

/// Who made a diagnosis. Whoever took the stage over is one of many, so that there are few names.
pub(crate) fn diagnoser_name(diagnosed_by: &str) -> &'static str {
    let known = [DIAGNOSED_BY, DIAGNOSED_BY_MODEL, DIAGNOSED_BY_CACHE];
    known.into_iter().find(|known| *known == diagnosed_by).unwrap_or("another")
}

/// The stable name of a severity.
pub(crate) const fn severity_name(severity: Severity) -> &'static str {
    match severity {
        Severity::Low => "low",
        Severity::Medium => "medium",
        Severity::High => "high",
        Severity::Critical => "critical",
    }
}
