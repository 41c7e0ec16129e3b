//! Anomalies of which the rules are not sure, and a scripted model that is asked about them.

use anyhow::Result;
use kintsugi_eventlog::{Append, EventLog, LogReader, NewRecord};
use kintsugi_events::{Anomaly, AnomalyKind, Diagnosis, Envelope, Event, Payload, Severity, Subject};
use kintsugi_types::{
    AgentId, AnomalyId, CompletionRequest, Grammar, Role, Score, SystemIds, Timestamp, ToolName,
};

/// What the scripted model chooses; the rules would say `latency_degradation` and `monitor`.
pub const CHOICE: &str = r#"{"fault_type":"tool_failure","recommended_action":"notify_human"}"#;

/// Why it does.
pub const CAUSE: &str = r#"{"root_cause":"the service behind it is down"}"#;

/// Whether a request is a question for a diagnosis, not an agent's.
pub fn is_diagnosing(request: &CompletionRequest) -> bool {
    let Grammar::JsonSchema(schema) = &request.grammar else { return false };
    schema.contains("fault_type") || schema.contains("root_cause")
}

/// The scripted answer to a question for a diagnosis.
pub fn answer(request: &CompletionRequest) -> String {
    let is_second = request.messages.iter().any(|message| message.role == Role::Assistant);
    if is_second { CAUSE.to_owned() } else { CHOICE.to_owned() }
}

/// A call of `tool` by agent number `agent` that took long: the rules are 0.6 sure of what that is.
pub fn slow_call(agent: u32, tool: &str) -> Result<Anomaly> {
    Ok(Anomaly {
        anomaly: AnomalyId::new(&mut SystemIds),
        agent: Subject::Agent(AgentId::new(format!("clerk-{agent}"))?),
        goal: None,
        kind: AnomalyKind::HighLatency,
        metric: "latency_ms.tool".to_owned(),
        value: 900.0,
        baseline: 30.0,
        ratio: 30.0,
        window: 1,
        severity: Severity::Low,
        sequence: 4,
        step: 1,
        health: Score::new(0.8),
        context_ratio: None,
        tool: Some(kintsugi_events::ToolOutcome {
            name: ToolName::new(tool)?,
            ok: true,
            error_tier: None,
            error: None,
            attempt: 1,
        }),
    })
}

/// A loop of agent number `agent`: the rules are sure.
pub fn looping(agent: u32) -> Result<Anomaly> {
    Ok(Anomaly { kind: AnomalyKind::Loop, tool: None, ..slow_call(agent, "none")? })
}

/// Appends anomalies as a monitor would, found at `time`.
pub fn append(log: &dyn EventLog, anomalies: &[Anomaly], time: Timestamp) -> Result<()> {
    let records = anomalies.iter().map(|anomaly| {
        let envelope = Envelope::new(&mut SystemIds, "/tests".into(), anomaly.agent.clone(), time);
        NewRecord::from_event(&Event { envelope, payload: Payload::Anomaly(Box::new(anomaly.clone())) }, 0)
    });
    log.append_wait(&Append { records: records.collect::<Result<_, _>>()?, positions: Vec::new() })?;
    Ok(())
}

/// All diagnoses of a log in order, those that stand there twice included.
pub fn diagnoses(log: &dyn LogReader) -> Result<Vec<Diagnosis>> {
    let mut found = Vec::new();
    let mut failed = None;
    log.replay(log.start_lsn(), &mut |record| {
        match record.to_event().map(|event| event.payload) {
            Ok(Payload::Diagnosis(diagnosis)) => found.push(*diagnosis),
            Ok(_) => {}
            Err(failure) => failed = Some(failure),
        }
        std::ops::ControlFlow::Continue(())
    })?;
    failed.map_or(Ok(found), |failure| Err(failure.into()))
}
