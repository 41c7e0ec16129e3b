//! The monitor: one metric in, the anomalies that it shows out.

use kintsugi_events::{Anomaly, AnomalyKind, Metric, Severity, Subject, ToolOutcome};
use kintsugi_types::{AgentId, AnomalyId, IdSource, Score, Timestamp, ToolName};
use serde::{Deserialize, Serialize};

use crate::bounded::Bounded;
use crate::settings::MonitorSettings;
use crate::window::{AgentWindow, CallResult};

/// How many agents are remembered. At the bound those that were not seen for longest are forgotten: their streaks
/// and baselines begin anew, which delays an anomaly and invents none.
pub const AGENTS_MAX: usize = 16_384;

/// How many shared tools are remembered, with the same consequence.
pub const TOOLS_MAX: usize = 1_024;

/// What the monitor remembers of a tool over all agents behind it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolWindow {
    /// Failures in a row. A refusal ends the streak as a success does: the tool is alive.
    pub failures: u32,
    /// Whether this streak was told already.
    pub told: bool,
}

/// All that the monitor remembers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MonitorState {
    /// By agent.
    pub agents: Bounded<AgentId, AgentWindow>,
    /// By tool.
    pub tools: Bounded<ToolName, ToolWindow>,
}

/// Watches the metrics of all agents of a lane.
#[derive(Debug, Clone, Default)]
pub struct Monitor {
    /// What counts as a deviation; may be replaced at any time.
    pub settings: MonitorSettings,
    state: MonitorState,
}

impl Monitor {
    /// A monitor that has seen nothing.
    pub fn new(settings: MonitorSettings) -> Self {
        Self { settings, state: MonitorState::default() }
    }

    /// A monitor that goes on from a snapshot.
    pub fn restore(settings: MonitorSettings, state: MonitorState) -> Self {
        Self { settings, state }
    }

    /// What to put into a snapshot, together with the position of the last metric seen.
    pub fn state(&self) -> &MonitorState {
        &self.state
    }

    /// Takes in one metric and tells what deviates in it, the shared tool first, then the agent, worst cause first.
    ///
    /// The state depends on the metrics alone: replaying them and dropping the answers rebuilds it.
    pub fn observe(&mut self, metric: &Metric, now: Timestamp, ids: &mut dyn IdSource) -> Vec<Anomaly> {
        let mut report = Report { metric, ids, anomalies: Vec::new() };
        if let Some(tool) = &metric.tool {
            self.watch_tool(tool, now, &mut report);
        }
        let settings = &self.settings;
        let window = self.state.agents.touch(&metric.agent, now, AGENTS_MAX, AgentWindow::default);
        window.enter(metric, settings.similarity_max);
        let low_confidence = window.judge_confidence(metric, settings.confidence_floor);

        let is_call_failed = report.failed_call(window, settings);
        if !is_call_failed {
            report.context_pressure(settings);
        }
        report.malformed(window);
        report.circles(window, settings);
        if let Some(usual) = low_confidence {
            report.low_confidence(usual);
        }
        report.low_health(settings);
        report.anomalies
    }

    fn watch_tool(&mut self, tool: &ToolOutcome, now: Timestamp, report: &mut Report<'_>) {
        let streak_max = self.settings.tool_streak.max(1);
        let window = self.state.tools.touch(&tool.name, now, TOOLS_MAX, ToolWindow::default);
        if !matches!(CallResult::of(tool), CallResult::Failed { .. }) {
            *window = ToolWindow::default();
            return;
        }
        window.failures = window.failures.saturating_add(1);
        if window.failures >= streak_max && !window.told {
            window.told = true;
            report.failing_tool(tool, window.failures, streak_max);
        }
    }
}

/// The anomalies of one metric in the making.
struct Report<'a> {
    metric: &'a Metric,
    ids: &'a mut dyn IdSource,
    anomalies: Vec<Anomaly>,
}

/// A value and what it is compared with.
struct Deviation {
    name: &'static str,
    value: f64,
    baseline: f64,
    window: u32,
}

impl Report<'_> {
    /// A fault of the tool itself: no agent's, no goal's. `attempt` of its outcome holds the streak.
    fn failing_tool(&mut self, tool: &ToolOutcome, streak: u32, streak_max: u32) {
        let deviation = Deviation {
            name: "tool.failures_in_row",
            value: f64::from(streak),
            baseline: f64::from(streak_max),
            window: streak,
        };
        let anomaly = Anomaly {
            agent: Subject::Tool(tool.name.clone()),
            goal: None,
            sequence: 0,
            step: 0,
            health: Score::ZERO,
            tool: Some(ToolOutcome { attempt: streak, ..tool.clone() }),
            ..self.anomaly(AnomalyKind::LowToolSuccess, Severity::High, &deviation)
        };
        self.anomalies.push(anomaly);
    }

    /// Whether the call failed, which is told; a refusal is told only when it comes again.
    fn failed_call(&mut self, window: &AgentWindow, settings: &MonitorSettings) -> bool {
        let Some(tool) = &self.metric.tool else { return false };
        let (severity, streak) = match CallResult::of(tool) {
            CallResult::Answered => return false,
            CallResult::Refused if window.refusals < settings.refusal_streak => return false,
            CallResult::Refused => (Severity::Medium, window.refusals),
            CallResult::Failed { fatal: true } => (Severity::High, window.failures),
            CallResult::Failed { fatal: false } => {
                let severity = match window.failures {
                    0 | 1 => Severity::Low,
                    2 | 3 => Severity::Medium,
                    _ => Severity::High,
                };
                (severity, window.failures)
            }
        };
        let deviation = Deviation { name: "tool.ok", value: 0.0, baseline: 1.0, window: streak };
        let anomaly = Anomaly {
            tool: Some(tool.clone()),
            ..self.anomaly(AnomalyKind::ToolFailure, severity, &deviation)
        };
        self.anomalies.push(anomaly);
        true
    }

    fn context_pressure(&mut self, settings: &MonitorSettings) {
        let (value, baseline) = (self.metric.context_ratio, settings.context_ratio_max);
        if value > baseline {
            // From here on the next turn hardly fits.
            let severity =
                if value > f64::midpoint(baseline, 1.0) { Severity::High } else { Severity::Medium };
            let deviation = Deviation { name: "context_ratio", value, baseline, window: 1 };
            self.tell(AnomalyKind::ContextPressure, severity, &deviation);
        }
    }

    fn malformed(&mut self, window: &AgentWindow) {
        if self.metric.malformed {
            let severity = if window.malformed < 3 { Severity::Medium } else { Severity::High };
            let deviation =
                Deviation { name: "malformed", value: 1.0, baseline: 0.0, window: window.malformed };
            self.tell(AnomalyKind::MalformedOutput, severity, &deviation);
        }
    }

    /// The same call, or the same thought, again and again.
    fn circles(&mut self, window: &AgentWindow, settings: &MonitorSettings) {
        if self.metric.malformed {
            return;
        }
        let loops = [
            ("repeated_call", window.repeated_calls, settings.same_call_streak),
            ("similarity", window.similar_thoughts, settings.similar_thought_streak),
        ];
        for (name, repetitions, streak_max) in loops {
            // The first call, or thought, of a streak is no repetition.
            let alike = repetitions.saturating_add(1);
            if repetitions > 0 && alike >= streak_max {
                let severity = if alike > streak_max { Severity::High } else { Severity::Medium };
                let deviation = Deviation {
                    name,
                    value: f64::from(alike),
                    baseline: f64::from(streak_max),
                    window: alike,
                };
                self.tell(AnomalyKind::Loop, severity, &deviation);
                // One circle is one fault, whichever way it shows.
                return;
            }
        }
    }

    fn low_confidence(&mut self, usual: f64) {
        let value = self.metric.confidence.get();
        // Half of what is low at all: the model had next to no idea.
        let severity = if value < 0.25 { Severity::High } else { Severity::Low };
        let deviation = Deviation { name: "confidence", value, baseline: usual, window: 1 };
        self.tell(AnomalyKind::LowConfidence, severity, &deviation);
    }

    /// Low health is told only where nothing else says why: an effect is not reported beside its cause.
    fn low_health(&mut self, settings: &MonitorSettings) {
        let health = self.metric.health;
        let is_explained = self
            .anomalies
            .iter()
            .any(|anomaly| anomaly.agent.agent().is_some() && anomaly.severity > Severity::Low);
        if health >= settings.health.recovering || is_explained {
            return;
        }
        let severity = if health < settings.health.failed { Severity::Critical } else { Severity::High };
        let baseline = settings.health.recovering.get();
        let deviation = Deviation { name: "health", value: health.get(), baseline, window: 1 };
        self.tell(AnomalyKind::LowHealth, severity, &deviation);
    }

    fn tell(&mut self, kind: AnomalyKind, severity: Severity, deviation: &Deviation) {
        let anomaly = self.anomaly(kind, severity, deviation);
        self.anomalies.push(anomaly);
    }

    fn anomaly(&mut self, kind: AnomalyKind, severity: Severity, deviation: &Deviation) -> Anomaly {
        let Deviation { name, value, baseline, window } = *deviation;
        Anomaly {
            anomaly: AnomalyId::new(self.ids),
            agent: Subject::Agent(self.metric.agent.clone()),
            goal: Some(self.metric.goal.clone()),
            kind,
            metric: name.to_owned(),
            value,
            baseline,
            ratio: if baseline == 0.0 { 0.0 } else { value / baseline },
            window,
            severity,
            sequence: self.metric.sequence,
            step: self.metric.step,
            health: self.metric.health,
            tool: None,
        }
    }
}
