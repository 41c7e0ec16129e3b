//! Goals without a result, as far as the log was read: the record of each is needed.
//!
//! An id stands for one goal of a tenant, and of an agent where one was named. A result tells the id and who worked it,
//! so a goal is followed to whoever has it.

use std::collections::HashMap;

use kintsugi_eventlog::{Lsn, Record};
use kintsugi_types::{AgentId, GoalId, TenantId};
use serde::Deserialize;

/// The type of the event that puts a goal into an agent's queue, and of that by which the agent gives it away.
const ACCEPTED: &str = "dev.kintsugi.goal.accepted.v1";
const REASSIGNED: &str = "dev.kintsugi.goal.reassigned.v1";

/// Whose goal it is, beside its id.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
struct Owner {
    #[serde(default)]
    tenant: TenantId,
    /// The one agent that shall work it.
    #[serde(default)]
    agent: Option<AgentId>,
}

/// What is read of an event that accepts a goal.
#[derive(Debug, Deserialize)]
struct Accepted {
    goal: Owner,
}

/// A goal without a result.
#[derive(Debug)]
struct Published {
    owner: Owner,
    /// Where it was published first.
    lsn: Lsn,
    /// Where on the topic it was published last.
    offset: u64,
    /// The agent that has it. Without one it is on its way to one, or nobody takes it.
    taker: Option<String>,
}

/// The goals without a result. Of one id there are few.
#[derive(Debug, Default)]
pub(super) struct OpenGoals(HashMap<GoalId, Vec<Published>>);

impl OpenGoals {
    /// Takes in that `id` was published, once more where it was known.
    pub(super) fn publish(&mut self, id: &GoalId, record: &Record) {
        // What cannot be read is refused, as its position says.
        let owner: Owner = serde_json::from_slice(&record.value).unwrap_or_default();
        let goals = self.0.entry(id.clone()).or_default();
        match goals.iter_mut().find(|goal| goal.owner == owner) {
            Some(goal) => goal.offset = record.offset,
            None => goals.push(Published { owner, lsn: record.lsn, offset: record.offset, taker: None }),
        }
    }

    /// Takes in an event of the journal of an agent, which concerns `id`.
    pub(super) fn take_journal(&mut self, id: &GoalId, record: &Record) -> serde_json::Result<()> {
        let Some(goals) = self.0.get_mut(id) else { return Ok(()) };
        match record.event_type.as_str() {
            ACCEPTED => {
                let Accepted { goal: owner } = serde_json::from_slice(&record.value)?;
                for goal in goals.iter_mut().filter(|goal| goal.owner == owner) {
                    goal.taker = Some(record.key.clone());
                }
            }
            // It is on its way again: the record of that is the last one of it on the topic.
            REASSIGNED => {
                for goal in goals.iter_mut() {
                    goal.taker.take_if(|taker| *taker == record.key);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes in that what `agent` had under `id` has a result.
    pub(super) fn end(&mut self, id: &GoalId, agent: &str) {
        self.retain(id, |goal| goal.taker.as_deref() != Some(agent));
    }

    /// Forgets what was settled and no agent has: it was refused, ended on its way, or was there before. All that lay
    /// in the log when `settled` was the topic's position has to be taken in.
    pub(super) fn settle(&mut self, settled: u64) {
        self.0.retain(|_, goals| {
            goals.retain(|goal| goal.taker.is_some() || goal.offset >= settled);
            !goals.is_empty()
        });
    }

    /// Where the oldest was published.
    pub(super) fn oldest(&self) -> Option<Lsn> {
        self.0.values().flatten().map(|goal| goal.lsn).min()
    }

    fn retain(&mut self, id: &GoalId, is_open: impl Fn(&Published) -> bool) {
        if let Some(goals) = self.0.get_mut(id) {
            goals.retain(is_open);
            if goals.is_empty() {
                self.0.remove(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kintsugi_eventlog::NewRecord;
    use kintsugi_events::{AgentEvent, Envelope, Event, Goal, Payload, Subject};
    use kintsugi_types::{Clock as _, SystemClock, SystemIds};

    use super::*;
    use crate::publish::goal_event;

    /// The record of an event, at offset and LSN `place`.
    fn record(event: &Event, place: u64) -> Record {
        let new = NewRecord::from_event(event, 0).unwrap();
        Record {
            topic: new.topic,
            partition: 0,
            offset: place,
            lsn: Lsn(place),
            envelope: new.envelope,
            event_type: new.event_type.into_owned(),
            key: new.key,
            value: new.value.into(),
            appended_at_ms: 0,
        }
    }

    fn id() -> GoalId {
        GoalId::new("goal").unwrap()
    }

    fn goal(agent: Option<&str>) -> Goal {
        let named = serde_json::json!({"id": "goal", "agent": agent, "text": "hello", "input": {"id": 7}});
        serde_json::from_value(named).unwrap()
    }

    fn publish(goals: &mut OpenGoals, agent: Option<&str>, place: u64) {
        goals.publish(&id(), &record(&goal_event(&goal(agent), &SystemClock).unwrap(), place));
    }

    fn journal(goals: &mut OpenGoals, agent: &str, event: AgentEvent) {
        let subject = Subject::Agent(AgentId::new(agent).unwrap());
        let envelope = Envelope::new(&mut SystemIds, "/test".into(), subject, SystemClock.now());
        let event = Event { envelope, payload: Payload::Agent(Box::new(event)) };
        goals.take_journal(&id(), &record(&event, 0)).unwrap();
    }

    fn accept(goals: &mut OpenGoals, agent: &str, named: Option<&str>) {
        journal(goals, agent, AgentEvent::GoalAccepted { goal: Arc::new(goal(named)) });
    }

    #[test]
    fn one_id_of_two_agents_is_two_goals() {
        let mut goals = OpenGoals::default();
        publish(&mut goals, Some("a"), 1);
        publish(&mut goals, Some("b"), 2);
        publish(&mut goals, Some("a"), 3);
        accept(&mut goals, "a", Some("a"));
        assert_eq!(goals.oldest(), Some(Lsn(1)));
        goals.end(&id(), "a");
        assert_eq!(goals.oldest(), Some(Lsn(2)), "the other is on its way");
        goals.settle(2);
        accept(&mut goals, "b", Some("b"));
        goals.settle(9);
        goals.end(&id(), "a");
        assert_eq!(goals.oldest(), Some(Lsn(2)));
        goals.end(&id(), "b");
        assert_eq!(goals.oldest(), None);
    }

    #[test]
    fn a_goal_that_was_handed_over_is_open_until_whoever_has_it_ends_it() {
        let mut goals = OpenGoals::default();
        let given_away = || AgentEvent::GoalReassigned { goal: id(), epoch: 1, reason: "tired".to_owned() };
        publish(&mut goals, None, 1);
        accept(&mut goals, "a", None);
        publish(&mut goals, None, 5);
        journal(&mut goals, "a", given_away());
        goals.settle(5);
        assert_eq!(goals.oldest(), Some(Lsn(1)), "nobody has taken it again yet");
        accept(&mut goals, "b", None);
        goals.settle(6);
        goals.end(&id(), "a");
        assert_eq!(goals.oldest(), Some(Lsn(1)));
        publish(&mut goals, None, 7);
        journal(&mut goals, "b", given_away());
        goals.end(&id(), "c");
        assert_eq!(goals.oldest(), Some(Lsn(1)));
        goals.settle(8);
        assert_eq!(goals.oldest(), None, "it ended without that anybody had taken it");
    }

    #[test]
    fn what_nobody_takes_is_forgotten_when_it_is_settled() {
        let mut goals = OpenGoals::default();
        publish(&mut goals, None, 1);
        publish(&mut goals, None, 4);
        goals.settle(4);
        assert_eq!(goals.oldest(), Some(Lsn(1)), "a second copy waits");
        goals.settle(5);
        assert_eq!(goals.oldest(), None);
    }
}
