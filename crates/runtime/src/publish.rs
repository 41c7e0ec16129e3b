//! From a goal to its event on the topic, the same for everyone who publishes.

use kintsugi_eventlog::LogError;
use kintsugi_events::{Envelope, Event, Goal, Payload, Subject};
use kintsugi_types::{AgentId, Clock, GoalId, NameError, SystemIds, TenantId};

/// Why a goal was not acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The log did not take it.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The node has no lane to append to.
    #[error("the node owns no partition yet: try again")]
    NoLane,
    /// It has no key to be filed under.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// The event that publishes `goal`. Where it has no id it gets one, made from the event's.
pub fn goal_event(goal: &Goal, clock: &dyn Clock) -> Result<Event, NameError> {
    let source = "/kintsugi/goals".into();
    let mut envelope = Envelope::new(&mut SystemIds, source, Subject::Engine, clock.now());
    let id = match &goal.id {
        Some(id) => id.clone(),
        None => GoalId::new(format!("goal-{}", envelope.id.as_uuid().as_simple()))?,
    };
    envelope.subject = Subject::Agent(goal_key(&goal.tenant, goal.agent.as_ref(), &id)?);
    envelope.tenant = goal.tenant.clone();
    envelope.goal = Some(id);
    let goal = Goal { id: envelope.goal.clone(), ..goal.clone() };
    Ok(Event { envelope, payload: Payload::Goal(Box::new(goal)) })
}

/// What a goal is filed under: its agent, else tenant and goal, whose partition is its home.
pub fn goal_key(tenant: &TenantId, agent: Option<&AgentId>, goal: &GoalId) -> Result<AgentId, NameError> {
    match agent {
        Some(agent) => Ok(agent.clone()),
        // A key that is too long together is the tenant's: it only says what is kept in order.
        None => AgentId::new(format!("{tenant}/{goal}")).or_else(|_| AgentId::new(tenant.as_str())),
    }
}

/// First eight bytes of the BLAKE3 of a goal without its id, its expectation and what travels with it: what two
/// copies have in common.
pub fn content_of(goal: &Goal) -> u64 {
    let content = serde_json::to_vec(&Goal { id: None, expect: None, handover: None, ..goal.clone() })
        .unwrap_or_default();
    let hash = blake3::hash(&content);
    hash.as_bytes().first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}
