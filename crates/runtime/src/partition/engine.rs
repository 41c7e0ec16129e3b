//! Faults of the engines as seams: their schedulers rebuild them, the events tell of it.

use actix::prelude::*;
use kintsugi_events::{
    Anomaly, AnomalyKind, Payload, Recovery, RecoveryAction, RecoveryPhase, Severity, Subject,
};
use kintsugi_gpu_scheduler::EngineReport;
use kintsugi_types::{AnomalyId, Score, SystemIds, Timestamp};

use super::Partition;

/// What an engine reports.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct EngineNews {
    /// What events about it are about: `engine`, or `model:NAME` where it is the smaller model's.
    pub(crate) of: Subject,
    pub(crate) report: EngineReport,
}

/// Whether an engine is there, and the recoveries that wait for it to come back.
#[derive(Debug, Default)]
pub(super) struct EngineWatch {
    is_away: bool,
    waiting: Vec<(Recovery, Timestamp)>,
}

/// The engines of the node, by what events about them are about.
#[derive(Debug, Default)]
pub(super) struct EngineWatches {
    main: EngineWatch,
    smaller: EngineWatch,
}

impl EngineWatches {
    const fn of(&mut self, subject: &Subject) -> &mut EngineWatch {
        if matches!(subject, Subject::Model(_)) { &mut self.smaller } else { &mut self.main }
    }
}

impl Handler<EngineNews> for Partition {
    type Result = ();

    fn handle(&mut self, news: EngineNews, _: &mut Context<Self>) {
        let EngineNews { of, report } = news;
        let watch = self.engines.of(&of);
        let payloads = match report {
            EngineReport::Fault { reason, requests } => {
                watch.is_away = true;
                vec![Payload::Anomaly(Box::new(engine_anomaly(of.clone(), &reason, requests)))]
            }
            EngineReport::Rebuilt { ms, attempt } => {
                watch.is_away = false;
                let outcome = format!("the engine was rebuilt in {ms} ms at attempt {attempt}");
                let waiting = std::mem::take(&mut watch.waiting);
                waiting
                    .into_iter()
                    .map(|(plan, planned_at)| {
                        self.told(&plan, planned_at, RecoveryPhase::Completed, &outcome)
                    })
                    .collect()
            }
            EngineReport::Down { reason } => {
                let waiting = std::mem::take(&mut watch.waiting);
                waiting
                    .into_iter()
                    .map(|(plan, planned_at)| self.told(&plan, planned_at, RecoveryPhase::Failed, &reason))
                    .collect()
            }
        };
        let events =
            payloads.into_iter().map(|payload| self.own_event(of.clone(), payload)).collect::<Vec<_>>();
        if !events.is_empty() {
            self.append_own(events, Vec::new());
        }
    }
}

impl Partition {
    /// Takes up a recovery of an engine: its scheduler is at it already, so only its outcome is awaited.
    pub(super) fn mend_engine(&mut self, plan: &Recovery, planned_at: Timestamp) -> Vec<Payload> {
        if plan.action != RecoveryAction::RebuildEngine {
            return vec![self.told(
                plan,
                planned_at,
                RecoveryPhase::Abandoned,
                "only a rebuild helps an engine",
            )];
        }
        let started =
            self.told(plan, planned_at, RecoveryPhase::Started, "the scheduler rebuilds the engine");
        let watch = self.engines.of(&plan.agent);
        if watch.is_away {
            watch.waiting.push((plan.clone(), planned_at));
            return vec![started];
        }
        let completed =
            self.told(plan, planned_at, RecoveryPhase::Completed, "the engine was rebuilt before");
        vec![started, completed]
    }

    /// A later phase of a recovery of a shared part.
    pub(super) fn told(
        &self,
        plan: &Recovery,
        planned_at: Timestamp,
        phase: RecoveryPhase,
        outcome: &str,
    ) -> Payload {
        let elapsed = self.lane.node.clock.now().signed_duration_since(planned_at).num_milliseconds();
        Payload::Recovery(Box::new(Recovery {
            phase,
            duration_ms: Some(u64::try_from(elapsed).unwrap_or(0)),
            outcome: Some(outcome.to_owned()),
            ..plan.clone()
        }))
    }
}

fn engine_anomaly(of: Subject, reason: &str, requests: usize) -> Anomaly {
    Anomaly {
        anomaly: AnomalyId::new(&mut SystemIds),
        agent: of,
        goal: None,
        kind: AnomalyKind::EngineFault,
        metric: format!("engine: {reason}"),
        value: requests as f64,
        baseline: 0.0,
        ratio: 0.0,
        window: 1,
        severity: Severity::High,
        sequence: 0,
        step: 0,
        health: Score::ZERO,
        context_ratio: None,
        tool: None,
    }
}
