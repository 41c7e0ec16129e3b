//! By which anomalies a fault shows itself, and for how long.

use kintsugi_events::{AnomalyKind, FaultKind};

/// So many steps after its own a fault may still show.
const STEPS_AFTER: u32 = 2;

/// Whether an anomaly of `kind` is what `fault` looks like. Low health is what anything may look like to an agent.
pub(super) fn is_sign(fault: FaultKind, kind: AnomalyKind) -> bool {
    let signs: &[AnomalyKind] = match fault {
        FaultKind::ToolTimeout
        | FaultKind::ToolRateLimited
        | FaultKind::ToolError
        | FaultKind::ToolUnauthorized => &[AnomalyKind::ToolFailure, AnomalyKind::LowToolSuccess],
        FaultKind::SlowTool | FaultKind::SlowModel => &[AnomalyKind::HighLatency],
        FaultKind::ContextBloat => &[AnomalyKind::ContextPressure, AnomalyKind::HighTokens],
        FaultKind::MalformedOutput | FaultKind::HallucinatedTool => &[AnomalyKind::MalformedOutput],
        FaultKind::StuckThought => &[AnomalyKind::Loop, AnomalyKind::LowCoherence],
        FaultKind::EnginePanic => return kind == AnomalyKind::EngineFault,
        FaultKind::CorruptedMemory => &[AnomalyKind::StateDrift],
    };
    kind == AnomalyKind::LowHealth || signs.contains(&kind)
}

/// For how many steps after its own a fault may still show.
pub(super) const fn steps_after(fault: FaultKind) -> u32 {
    match fault {
        // It repeats itself for three steps, and a circle is told from the third on.
        FaultKind::StuckThought => 4,
        // What fills the context stays in it for the rest of the goal.
        FaultKind::ContextBloat => u32::MAX,
        _ => STEPS_AFTER,
    }
}
