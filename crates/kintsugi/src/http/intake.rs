//! From the body of a request to a goal: what is wrong with it, and what is on its way into the log.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use kintsugi_events::Goal;
use kintsugi_events::expect;
use kintsugi_types::GoalId;
use serde_json::{Map, Value};

use super::api::Api;
use super::problem::Problem;

/// Goals that are on their way into the log and not yet in the view, with their content. Bounded by the settings'
/// `open_goals_max`.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    waiting: Mutex<HashMap<GoalId, Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    content: u64,
    /// Requests that publish it at this moment.
    requests: usize,
}

/// A goal on its way. Dropped when the goal is in the view, or was not taken.
#[derive(Debug)]
pub(super) struct OnItsWay<'a> {
    intake: &'a Intake,
    id: GoalId,
}

impl Intake {
    fn waiting(&self) -> std::sync::MutexGuard<'_, HashMap<GoalId, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goals on their way.
    pub(super) fn count(&self) -> usize {
        self.waiting().len()
    }

    /// Notes that a goal is on its way. `known` looks whether its id is taken by another content, and is asked while
    /// no other goal gets on its way, so that of two goals with one id only one does.
    pub(super) fn enter(
        &self,
        id: &GoalId,
        content: u64,
        known: impl FnOnce(usize) -> Result<(), Problem>,
    ) -> Result<OnItsWay<'_>, Problem> {
        let mut waiting = self.waiting();
        match waiting.get_mut(id) {
            Some(same) if same.content == content => same.requests += 1,
            Some(_) => return Err(taken(id)),
            None => {
                known(waiting.len())?;
                waiting.insert(id.clone(), Waiting { content, requests: 1 });
            }
        }
        Ok(OnItsWay { intake: self, id: id.clone() })
    }
}

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        let mut waiting = self.intake.waiting();
        if let Some(entry) = waiting.get_mut(&self.id) {
            entry.requests -= 1;
            if entry.requests == 0 {
                waiting.remove(&self.id);
            }
        }
    }
}

/// The id stands for another goal.
pub(super) fn taken(id: &GoalId) -> Problem {
    Problem::conflict(format_args!(
        "the id {id} is taken by a goal with other content: give this one an id of its own"
    ))
}

/// Reads a goal and checks all that can be checked before it is published. Names the field that is wrong.
pub(super) fn read(body: &[u8], api: &Api) -> Result<Goal, Problem> {
    let members: Map<String, Value> = serde_json::from_slice(body)
        .map_err(|error| Problem::invalid("", format_args!("the body is no JSON object: {error}")))?;
    let goal: Goal = match serde_json::from_value(Value::Object(members.clone())) {
        Ok(goal) => goal,
        Err(error) => return Err(at_fault(&members, &error)),
    };
    if goal.text.trim().is_empty() {
        return Err(Problem::invalid("text", "`text` is empty: say what is to be achieved"));
    }
    if goal.tenant != api.tenant {
        return Err(Problem::invalid(
            "tenant",
            format_args!("this node works for the tenant `{}`: leave `tenant` out", api.tenant),
        ));
    }
    if let Some(kind) = goal.kind.as_ref().filter(|kind| !api.kinds.contains(*kind)) {
        let kinds: Vec<&str> = api.kinds.iter().map(AsRef::as_ref).collect();
        let detail = format!("there is no kind of agent `{kind}`; there are {}", kinds.join(", "));
        return Err(Problem::invalid("kind", detail));
    }
    if let Some(agent) = goal.agent.as_ref()
        && !api.population.iter().any(|population| population.contains(agent))
    {
        return Err(Problem::invalid("agent", format_args!("there is no agent `{agent}`")));
    }
    if let Some(expectation) = &goal.expect {
        expect::check(expectation).map_err(|error| Problem::invalid("expect", error))?;
    }
    Ok(goal)
}

/// Which member cannot be read: each is tried alone.
fn at_fault(members: &Map<String, Value>, error: &serde_json::Error) -> Problem {
    if !members.contains_key("text") {
        return Problem::invalid("text", "`text` is missing: say what is to be achieved");
    }
    for (name, value) in members {
        let mut alone = Map::new();
        if name != "text" {
            alone.insert("text".to_owned(), Value::String("text".to_owned()));
        }
        alone.insert(name.clone(), value.clone());
        if let Err(error) = serde_json::from_value::<Goal>(Value::Object(alone)) {
            return Problem::invalid(name.clone(), format_args!("`{name}` cannot be read: {error}"));
        }
    }
    Problem::invalid("", format_args!("the goal cannot be read: {error}"))
}
