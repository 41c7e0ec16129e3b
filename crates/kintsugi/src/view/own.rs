//! The view of a run on a log that others use too: its own goals, and what became of them.

use std::collections::{BTreeMap, BTreeSet};

use kintsugi_events::{Event, Goal, Payload};
use kintsugi_types::GoalId;

use super::{GoalView, RunView};

/// Whose goals a view is of.
#[derive(Debug)]
pub(super) struct Own {
    /// Goals that were not seen on their topic yet.
    unseen: BTreeSet<GoalId>,
}

impl RunView {
    /// A view of these goals on a log that is read from some place on, whatever else it holds. They are open from the
    /// start, published or not; each has an id.
    pub(crate) fn of_run(goals: &[Goal]) -> Self {
        let known = |goal: &Goal| Some((goal.id.clone()?, GoalView::new(goal.clone(), Vec::new())));
        let goals: BTreeMap<_, _> = goals.iter().filter_map(known).collect();
        let unseen = goals.keys().cloned().collect();
        // Journals go on that were begun before, as where the oldest of a log is deleted.
        Self {
            open_goals: goals.len(),
            goals,
            own: Some(Own { unseen }),
            is_trimmed: true,
            ..Self::default()
        }
    }

    /// Whether a goal of the run lies on the topic, as far as that was read.
    pub(crate) fn is_published(&self, goal: &GoalId) -> bool {
        self.own.as_ref().is_some_and(|own| !own.unseen.contains(goal))
    }

    /// Whether `event` is about none of the goals that the view is of. Those of a goal all bear its id, but for what
    /// the time brings and what nobody could read.
    pub(super) fn is_of_others(&mut self, event: &Event) -> bool {
        let Some(own) = &mut self.own else { return false };
        let goal = match &event.payload {
            Payload::Goal(goal) => goal.id.as_ref().or(event.envelope.goal.as_ref()),
            Payload::Result(result) => Some(&result.goal),
            Payload::Recovery(recovery) if self.recoveries.contains_key(&recovery.recovery) => return false,
            Payload::DeadLetter(letter) => return self.places.goal_of(letter).is_none(),
            _ => event.envelope.goal.as_ref(),
        };
        let Some(goal) = goal.filter(|goal| self.goals.contains_key(*goal)) else { return true };
        if matches!(event.payload, Payload::Goal(_)) {
            own.unseen.remove(goal);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use kintsugi_events::{AgentEvent, DeadLetter, Envelope, GoalResult, Subject, Topic};
    use kintsugi_types::{AgentId, Clock as _, SystemClock, SystemIds};

    use super::*;
    use crate::view::Origin;

    fn goal(id: &str) -> Goal {
        serde_json::from_value(serde_json::json!({"id": id, "text": "Where is it?"})).unwrap()
    }

    fn event(id: Option<&str>, payload: Payload) -> Event {
        let agent = Subject::Agent(AgentId::new("support-0").unwrap());
        let mut envelope = Envelope::new(&mut SystemIds, "/kintsugi/test".into(), agent, SystemClock.now());
        envelope.goal = id.map(|id| GoalId::new(id).unwrap());
        Event { envelope, payload }
    }

    fn result(id: &str) -> Event {
        let agent = AgentId::new("support-0").unwrap();
        let result = GoalResult::never_begun(&goal(id), agent, "tired", SystemClock.now()).unwrap();
        event(Some(id), Payload::Result(Box::new(result)))
    }

    fn at(partition: u32, offset: u64) -> Origin {
        Origin { place: (partition, offset), bytes: 10 }
    }

    #[test]
    fn a_run_sees_its_own_goals_alone_whichever_order_they_are_told_in() {
        let mut view = RunView::of_run(&[goal("mine"), goal("also-mine")]);
        assert_eq!((view.goals.len(), view.open_goals()), (2, 2));
        view.take(event(None, Payload::Goal(Box::new(goal("theirs")))), at(0, 0));
        view.take(result("theirs"), at(0, 0));
        assert_eq!((view.goals.len(), view.open_goals(), view.events), (2, 2, 0));
        view.take(result("mine"), at(0, 1));
        assert!(!view.is_published(&GoalId::new("mine").unwrap()));
        view.take(event(Some("mine"), Payload::Goal(Box::new(goal("mine")))), at(0, 1));
        assert!(view.is_published(&GoalId::new("mine").unwrap()));
        assert_eq!((view.open_goals(), view.events, view.bytes), (1, 2, 20));
        assert!(view.contradictions.is_empty(), "{:?}", view.contradictions);
        view.take(result("mine"), at(0, 2));
        assert_eq!(view.contradictions, ["goal mine ended more than once"]);
    }

    #[test]
    fn a_letter_about_a_foreign_goal_at_the_same_offset_of_another_partition_refuses_none() {
        let mut view = RunView::of_run(&[goal("mine")]);
        let letter = |partition| {
            let letter = DeadLetter::new("no such kind", (Topic::Goals, partition, Some(7)), b"{}");
            event(None, Payload::DeadLetter(Box::new(letter)))
        };
        view.take(letter(1), at(1, 0));
        view.take(event(None, Payload::Goal(Box::new(goal("mine")))), at(0, 7));
        assert_eq!((view.open_goals(), view.events), (1, 1));
        view.take(letter(0), at(0, 0));
        assert_eq!((view.open_goals(), view.refused_goals().count(), view.events), (0, 1, 2));
    }

    #[test]
    fn what_agents_do_for_others_tells_how_they_are() {
        let mut view = RunView::of_run(&[goal("mine")]);
        let journal = AgentEvent::Quarantined { reason: "poison".to_owned() };
        let mut quarantined = event(Some("theirs"), Payload::Agent(Box::new(journal)));
        quarantined.envelope.sequence = Some(40);
        view.take(quarantined, at(0, 0));
        assert_eq!(view.agents[&AgentId::new("support-0").unwrap()].shown(), "failed");
        assert_eq!((view.events, view.contradictions.len()), (0, 0));
    }
}
