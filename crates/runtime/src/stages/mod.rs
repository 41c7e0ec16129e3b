//! The three healing stages: monitor, diagnose, recover.

mod diagnose;
mod monitor;
mod recover;

use std::sync::Arc;

use actix::prelude::*;
use kintsugi_events::Mode;
use kintsugi_monitor::MonitorSettings;

use self::diagnose::DiagnoseStage;
use self::monitor::MonitorStage;
use self::recover::RecoverStage;
use crate::agent_actor::DeathGuard;
use crate::asking::Asker;
use crate::config::StageName;
use crate::lane::Order;
use crate::lane_core::LaneCore;
use crate::policies::SharedPolicies;
use crate::stage::{InputsGrown, Stage, StageActor};

/// A healing stage with what it goes by.
#[derive(Debug, Clone)]
pub enum StageKind {
    /// From metrics to anomalies.
    Monitor(MonitorSettings),
    /// From anomalies to diagnoses: by the rules alone, or with a way to the model.
    Diagnose(Option<Asker>),
    /// From diagnoses to recoveries.
    Recover {
        /// What is done about what.
        policies: SharedPolicies,
        /// How much the system may do by itself.
        mode: Mode,
        /// From this seed all draws follow.
        seed: u64,
    },
}

/// A stage that runs on a lane.
pub(crate) struct RunningStage {
    pub(crate) orders: Recipient<Order>,
    pub(crate) news: Recipient<InputsGrown>,
}

impl StageKind {
    /// Which of the stages it is.
    pub const fn name(&self) -> StageName {
        match self {
            Self::Monitor(_) => StageName::Monitor,
            Self::Diagnose(_) => StageName::Diagnose,
            Self::Recover { .. } => StageName::Recover,
        }
    }

    /// Starts it on `lane`, on the thread of the actor system. `guard` tells whoever supervises it.
    pub(crate) fn start(&self, lane: Arc<LaneCore>, guard: DeathGuard) -> RunningStage {
        match self {
            Self::Monitor(settings) => start(lane, MonitorStage::new(*settings), guard),
            Self::Diagnose(asker) => start(lane, DiagnoseStage::new(asker.clone()), guard),
            Self::Recover { policies, mode, seed } => {
                start(lane, RecoverStage::new(policies.clone(), *mode, *seed), guard)
            }
        }
    }
}

fn start<S: Stage>(lane: Arc<LaneCore>, stage: S, guard: DeathGuard) -> RunningStage {
    let stage = StageActor::new(lane, stage, guard).start();
    RunningStage { orders: stage.clone().recipient(), news: stage.recipient() }
}
