//! From an anomaly to its recovery, durably delivered.
//!
//! Every call of the tool fails at its first try, so every step of a run but the last is a seam. All times
//! are the log's own, the `time` of events: from that of the anomaly, which is found once the failure is
//! durable, to that of
//!
//! - `taken up`: the agent's `recovery.applied`. Three commits lie between: anomaly, diagnosis and plan;
//! - `acted on`: the agent's next `observation.recorded`. The call is made again only when
//!   `recovery.applied` is durable, so this is an upper bound of the recovery being durably delivered: it
//!   holds that fourth commit, and a second try of the tool, which answers at once.
//!
//! The policy is the shipped one for a transient failure with its pause set to 0: the pause is waited, not
//! worked. A tool that fails for all agents would get a breaker, which holds calls back; here it is left
//! alone. The reference, in the same run, is a bare write of 512 bytes and one `fdatasync`.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

#[path = "support/settle.rs"]
mod settle;
#[path = "support/spread.rs"]
mod spread;
#[path = "support/sync.rs"]
mod sync;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kintsugi_agent::prompt::{Action, decision_text};
use kintsugi_eventlog::embedded::Options;
use kintsugi_eventlog::{EmbeddedLog, LogReader};
use kintsugi_events::{ActionCall, AgentEvent, Event, Goal, Payload, Subject};
use kintsugi_recover::PolicySet;
use kintsugi_runtime::{Node, SharedPolicies};
use kintsugi_tests::scripted_node::{Wiring, parts_with};
use kintsugi_tools::{Registry, Tool, ToolCall, ToolError, ToolOutput};
use kintsugi_types::{
    AgentId, AnomalyId, CompletionRequest, DiagnosisId, Role, Timestamp, ToolName, ToolSafety, ToolSpec,
};
use serde_json::json;

use crate::settle::settle;
use crate::spread::Spread;
use crate::sync::sync_time;

/// Steps of one run, the last of which finishes.
const STEPS: usize = 10;

/// Fewer seams than this say nothing of the slowest in a hundred.
const SEAMS_MIN: usize = 200;

const POLICIES: &str = "
policies:
  - name: retry-transient-tool-error
    priority: 100
    when: { fault_type: tool_failure, error_tier: transient, subject: agent }
    action: retry_with_backoff
    parameters: { attempts: 3, first_delay_ms: 0 }
  - name: leave-the-tool-alone
    priority: 90
    when: { subject: tool }
    action: monitor
";

fn main() -> Result<()> {
    println!(
        "{:>7} {:>10} {:>6} {:<9} {:>8} {:>8} {:>8} {:>13} {:>14}",
        "agents",
        "anomalies",
        "seams",
        "until",
        "p50 ms",
        "p99 ms",
        "max ms",
        "fdatasync ms",
        "in fdatasyncs"
    );
    for (agents, runs) in [(1, 60), (16, 320), (128, 640)] {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let sync = sync_time(folder.path())?;
        let Seams { anomalies, taken_up, acted_on, .. } = work(folder.path(), agents, runs)?;
        let (found, seams) = (anomalies.len(), acted_on.len());
        ensure!(seams >= SEAMS_MIN, "there are only {seams} seams");
        for (until, times) in [("taken up", taken_up), ("acted on", acted_on)] {
            let Spread { p50, p99, max } = Spread::of(times)?;
            let syncs = p50.as_secs_f64() / sync.as_secs_f64();
            let [p50, p99, max, sync] = [p50, p99, max, sync].map(|time| time.as_secs_f64() * 1e3);
            println!(
                "{agents:>7} {found:>10} {seams:>6} {until:<9} {p50:>8.2} {p99:>8.2} {max:>8.2} \
                 {sync:>13.2} {syncs:>14.1}"
            );
        }
    }
    println!("\nwanted: p99 at most 50 ms");
    Ok(())
}

/// A tool that is busy whenever it is first asked.
#[derive(Debug)]
struct BusyAtFirst {
    spec: ToolSpec,
}

impl Tool for BusyAtFirst {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn call(&self, call: &ToolCall) -> Result<ToolOutput, ToolError> {
        if call.attempt == 1 {
            return Err(ToolError::transient("busy", "busy for a moment"));
        }
        Ok(ToolOutput { text: r#"{"done":true}"#.to_owned(), truncated: false })
    }
}

fn registry(name: &ToolName) -> Result<Registry> {
    let spec = ToolSpec {
        name: name.clone(),
        description: "do it".to_owned(),
        parameters: json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}),
        safety: ToolSafety::Keyed,
    };
    let mut registry = Registry::default();
    registry.insert(Arc::new(BusyAtFirst { spec })).map_err(anyhow::Error::msg)?;
    Ok(registry)
}

fn answer(tool: &ToolName, request: &CompletionRequest) -> String {
    let said = request.messages.iter().filter(|message| message.role == Role::Assistant).count();
    let action = if said + 1 < STEPS {
        Action::Call(ActionCall { tool: tool.clone(), args: json!({ "n": said }) })
    } else {
        Action::Finish { answer: "done".to_owned() }
    };
    decision_text(&format!("step {said} of the work"), &action)
}

/// Works `runs` runs with `agents` agents at once, and reads their seams from the log.
fn work(folder: &Path, agents: u32, runs: usize) -> Result<Seams> {
    let log = Arc::new(EmbeddedLog::open(folder.join("log"), Options::default())?);
    let act = ToolName::new("act")?;
    let tools = registry(&act)?;
    let script = move |request: &CompletionRequest| answer(&act, request);
    let mut parts = parts_with(folder, log.clone(), tools, agents, script, Wiring::default())?;
    parts.config.policies = SharedPolicies::new(Arc::new(PolicySet::parse(POLICIES, "heal.yaml")?));
    let node = Node::start(parts)?;
    let goal = |run: usize| json!({"id": format!("run-{run}"), "text": format!("work {run}")});
    let goals: Vec<Goal> =
        (0..runs).map(|run| serde_json::from_value(goal(run))).collect::<Result<_, _>>()?;
    node.publish(&goals)?;
    settle(&node, runs as u64)?;
    node.stop();
    Seams::of(log.as_ref())
}

/// The seams of a log, by the times of its events.
#[derive(Debug, Default)]
struct Seams {
    /// When each anomaly of an agent was found.
    anomalies: HashMap<AnomalyId, Timestamp>,
    /// When the anomaly behind each diagnosis was found.
    diagnoses: HashMap<DiagnosisId, Timestamp>,
    /// Agents that took a recovery up and did not act yet, and when its anomaly was found.
    mending: HashMap<AgentId, Timestamp>,
    /// From each anomaly to `recovery.applied`.
    taken_up: Vec<Duration>,
    /// From each anomaly to the observation after that.
    acted_on: Vec<Duration>,
}

impl Seams {
    /// Reads the whole log. What led to an event stands before it.
    fn of(log: &dyn LogReader) -> Result<Self> {
        let mut seams = Self::default();
        let mut failed = None;
        log.replay(log.start_lsn(), &mut |record| {
            let taken = record.to_event().map_err(anyhow::Error::from).and_then(|event| seams.take(event));
            match taken {
                Ok(()) => ControlFlow::Continue(()),
                Err(failure) => {
                    failed = Some(failure.context(format!("{} offset {}", record.topic, record.offset)));
                    ControlFlow::Break(())
                }
            }
        })?;
        failed.map_or(Ok(seams), Err)
    }

    fn take(&mut self, event: Event) -> Result<()> {
        let now = event.envelope.time;
        let Subject::Agent(agent) = event.envelope.subject else { return Ok(()) };
        match event.payload {
            Payload::Anomaly(anomaly) => {
                self.anomalies.insert(anomaly.anomaly, now);
            }
            Payload::Diagnosis(diagnosis) => {
                let found = diagnosis.anomalies.iter().find_map(|anomaly| self.anomalies.get(anomaly));
                let found = *found.context("a diagnosis of nothing")?;
                self.diagnoses.insert(diagnosis.diagnosis, found);
            }
            Payload::Agent(event) => match *event {
                AgentEvent::RecoveryStarted { plan, .. } => {
                    let found = *self.diagnoses.get(&plan.diagnosis).context("a recovery from nothing")?;
                    self.taken_up.push(elapsed(found, now)?);
                    self.mending.insert(agent, found);
                }
                AgentEvent::ObservationRecorded(_) => {
                    if let Some(found) = self.mending.remove(&agent) {
                        self.acted_on.push(elapsed(found, now)?);
                    }
                }
                _ => {}
            },
            _ => {}
        }
        Ok(())
    }
}

fn elapsed(from: Timestamp, to: Timestamp) -> Result<Duration> {
    to.signed_duration_since(from).to_std().context("the clock was set back meanwhile")
}
