//! The monitor: one metric in, the anomalies that it shows out.

use kintsugi_events::{Anomaly, AnomalyKind, Budget, Metric, Severity, Subject, ToolOutcome};
use kintsugi_types::{AgentId, AgentKind, AnomalyId, Bounded, IdSource, Score, Timestamp, ToolName};
use serde::{Deserialize, Serialize};

use crate::series::{Gauge, LevelDeviation, RECENT, Series};
use crate::settings::{MonitorSettings, Ratios};
use crate::window::{AgentWindow, CallResult, Gauges, is_kind_slow};

/// How many agents are remembered. At the bound those that were not seen for longest are forgotten: their streaks
/// and baselines begin anew, which delays an anomaly and invents none.
pub const AGENTS_MAX: usize = 16_384;

/// How many shared tools are remembered, with the same consequence.
pub const TOOLS_MAX: usize = 1_024;

/// How many kinds of agent are remembered, with the same consequence.
pub const KINDS_MAX: usize = 256;

/// What the monitor remembers of a tool over all agents behind it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolWindow {
    /// Failures in a row. A refusal ends the streak as a success does: the tool is alive.
    pub failures: u32,
    /// Whether this streak was told already.
    pub told: bool,
    /// How long its calls take, in milliseconds.
    pub latency: Series,
}

impl Default for ToolWindow {
    fn default() -> Self {
        Self { failures: 0, told: false, latency: Series::new(Gauge::Latency) }
    }
}

/// All that the monitor remembers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MonitorState {
    /// By agent.
    pub agents: Bounded<AgentId, AgentWindow>,
    /// By tool.
    pub tools: Bounded<ToolName, ToolWindow>,
    /// What is usual among agents of a kind.
    pub kinds: Bounded<AgentKind, Gauges>,
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
        let slow_call = metric.tool.as_ref().and_then(|tool| self.watch_tool(tool, now, &mut report));
        let settings = &self.settings;
        let window = self.state.agents.touch(&metric.agent, now, AGENTS_MAX, AgentWindow::default);
        let mut kind =
            metric.kind.as_ref().map(|kind| self.state.kinds.touch(kind, now, KINDS_MAX, Gauges::default));
        let usual_latency = window
            .gauges
            .latency
            .known_usual()
            .or_else(|| kind.as_deref().and_then(|kind| kind.latency.known_usual()));
        let samples = window.enter(metric, settings.similarity_max);
        let levels = window.gauges.enter(&samples, kind.as_deref_mut(), &settings.ratios);
        // Slow steps in a row are a level, and told as one.
        let before = window.gauges.latency.before_last();
        let usual_latency = usual_latency
            .filter(|_| !is_kind_slow(kind.as_deref()))
            .filter(|usual| before.is_none_or(|before| before <= usual * settings.ratios.step_max));
        let low_confidence = window.judge_confidence(metric, settings.confidence_floor);

        if let Some(spent) = metric.spent {
            report.spent(spent);
            return report.anomalies;
        }
        let is_call_failed = report.failed_call(window, settings);
        if !is_call_failed {
            report.context_pressure(settings);
        }
        report.malformed(window);
        report.circles(window, settings);
        if let Some(usual) = low_confidence {
            report.low_confidence(usual);
        }
        report.slowness(slow_call, usual_latency, settings);
        let is_told = |(gauge, found): &(Gauge, LevelDeviation)| {
            *gauge != Gauge::Latency || found.level >= settings.slow_ms_min
        };
        for (gauge, deviation) in levels.into_iter().filter(is_told) {
            report.level(gauge, &deviation);
        }
        report.low_health(settings);
        report.anomalies
    }

    /// Returns what a call of the tool usually takes, where this one was answered.
    fn watch_tool(&mut self, tool: &ToolOutcome, now: Timestamp, report: &mut Report<'_>) -> Option<f64> {
        let streak_max = self.settings.tool_streak.max(1);
        let window = self.state.tools.touch(&tool.name, now, TOOLS_MAX, ToolWindow::default);
        if !matches!(CallResult::of(tool), CallResult::Failed { .. }) {
            (window.failures, window.told) = (0, false);
            let usual = window.latency.known_usual();
            window.latency.enter(Gauge::Latency, report.metric.latency_ms.tool, None, &Ratios::default());
            return usual;
        }
        window.failures = window.failures.saturating_add(1);
        if window.failures >= streak_max && !window.told {
            window.told = true;
            report.failing_tool(tool, window.failures, streak_max);
        }
        None
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
            context_ratio: None,
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
            // Nobody mended it in the meantime.
            CallResult::Failed { fatal: true } if window.failures > 1 => {
                (Severity::Critical, window.failures)
            }
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
        let contradictions = self.metric.contradictions;
        if self.metric.malformed && contradictions > 0 {
            let deviation = Deviation {
                name: "contradictions",
                value: f64::from(contradictions),
                baseline: 0.0,
                window: window.malformed,
            };
            self.tell(AnomalyKind::StateDrift, Severity::Medium, &deviation);
        } else if self.metric.malformed {
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
            // The streak counts all of them, the first one too.
            ("failing_action", window.failing_action.saturating_sub(1), settings.failing_action_streak),
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

    /// The goal ends here: nothing of it is to be mended.
    fn spent(&mut self, spent: Budget) {
        let deviation =
            Deviation { name: spent_name(spent), value: 1.0, baseline: 1.0, window: self.metric.step };
        self.tell(AnomalyKind::BudgetSpent, Severity::Medium, &deviation);
    }

    /// One slow call or step, far beyond what is usual. The call is told where both are.
    fn slowness(&mut self, usual_call: Option<f64>, usual_step: Option<f64>, settings: &MonitorSettings) {
        let latency = &self.metric.latency_ms;
        let ratios = &settings.ratios;
        let places = [
            ("latency_ms.tool", latency.tool, usual_call, ratios.call_max),
            ("latency_ms.total", latency.total, usual_step, ratios.step_max),
        ];
        for (name, value, usual, ratio_max) in places {
            let Some(usual) = usual else { continue };
            if value >= settings.slow_ms_min && value > usual * ratio_max {
                let deviation = Deviation { name, value, baseline: usual, window: 1 };
                self.tell(AnomalyKind::HighLatency, Severity::Low, &deviation);
                return;
            }
        }
    }

    /// A level over many steps. What the same step shows by itself is not told twice.
    fn level(&mut self, gauge: Gauge, found: &LevelDeviation) {
        let is_told = self.anomalies.iter().any(|anomaly| {
            anomaly.kind == gauge.anomaly()
                || (gauge == Gauge::ToolSuccess && anomaly.kind == AnomalyKind::ToolFailure)
        });
        if is_told {
            return;
        }
        let severity = match gauge {
            // Each failure was told when it happened, and slowness alone breaks nothing.
            Gauge::ToolSuccess => Severity::Low,
            Gauge::Latency if found.excess < 2.0 => Severity::Low,
            Gauge::Latency if found.excess < 6.0 => Severity::Medium,
            _ if found.excess < 2.0 => Severity::Medium,
            _ => Severity::High,
        };
        let deviation =
            Deviation { name: gauge.level_name(), value: found.level, baseline: found.usual, window: RECENT };
        self.tell(gauge.anomaly(), severity, &deviation);
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
            context_ratio: Some(self.metric.context_ratio),
            tool: None,
        }
    }
}

const fn spent_name(spent: Budget) -> &'static str {
    match spent {
        Budget::Steps => "budget.steps",
        Budget::Tokens => "budget.tokens",
        Budget::Seconds => "budget.seconds",
        Budget::Usd => "budget.usd",
        Budget::Deadline => "budget.deadline",
    }
}
