//! The three healing stages: monitor, diagnose, recover.

mod diagnose;
mod monitor;
mod recover;

pub(crate) use diagnose::DiagnoseStage;
pub(crate) use monitor::MonitorStage;
pub(crate) use recover::RecoverStage;
