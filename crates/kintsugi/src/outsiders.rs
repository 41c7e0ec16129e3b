//! What others than nodes write to the topics of a cluster: goals without attributes, and whatever else.

use kintsugi_eventlog::{Record, RecordError};
use kintsugi_events::{Envelope, Event, Goal, Payload, Subject, Topic};
use kintsugi_runtime::publish::goal_key;
use kintsugi_types::{GoalId, SystemIds, Timestamp};
use serde_json::{Value, json};

/// What the sources of a node's own events begin with.
const OWN_SOURCES: &str = "/kintsugi/";

/// The event that a record carries; nothing where somebody else wrote what is none. A goal in bare JSON is one.
///
/// Fails where a node's own event cannot be read: that is told, for something is wrong.
pub(crate) fn event_of(record: &Record) -> Result<Option<Event>, RecordError> {
    match record.to_event() {
        Ok(event) => Ok(Some(event)),
        Err(RecordError::Bare) => Ok(bare_goal(record)),
        Err(_) if !is_own(record) => Ok(None),
        Err(failure) => Err(failure),
    }
}

fn is_own(record: &Record) -> bool {
    record.envelope.as_ref().is_some_and(|envelope| envelope.source.starts_with(OWN_SOURCES))
}

/// The goal in bare JSON that a record holds, as the event that a node takes it for.
fn bare_goal(record: &Record) -> Option<Event> {
    if record.topic != Topic::Goals {
        return None;
    }
    let mut goal: Goal = serde_json::from_slice(&record.value).ok()?;
    let id = match &goal.id {
        Some(id) => id.clone(),
        None => GoalId::new(format!("goal-{}-{}", record.partition, record.offset)).ok()?,
    };
    goal.id = Some(id.clone());
    let subject = Subject::Agent(goal_key(&goal.tenant, goal.agent.as_ref(), &id).ok()?);
    let time = Timestamp::from_timestamp_millis(record.appended_at_ms)?;
    let mut envelope = Envelope::new(&mut SystemIds, "/outside".into(), subject, time);
    envelope.goal = Some(id);
    envelope.tenant = goal.tenant.clone();
    Some(Event { envelope, payload: Payload::Goal(Box::new(goal)) })
}

/// A record that is no event, for whoever looks at the topic: its data, as JSON where it is that and else as text.
pub(crate) fn bare_document(record: &Record) -> Value {
    let data = serde_json::from_slice(&record.value)
        .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&record.value)));
    let time = Timestamp::from_timestamp_millis(record.appended_at_ms);
    json!({"time": time, "key": record.key, "data": data})
}
