//! From the body of a request to a goal: what is wrong with it, and what is on its way into the log.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use kintsugi_events::Goal;
use kintsugi_types::GoalId;
use serde_json::{Map, Value};

use super::api::Api;
use super::problem::Problem;
use crate::goal_check::{self, Refusal};

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
    let refused = |refusal: Refusal| Problem::invalid(refusal.field, refusal.problem);
    let goal = goal_check::read(&members).map_err(refused)?;
    if goal.tenant != api.tenant {
        return Err(Problem::invalid(
            "tenant",
            format_args!("this node works for the tenant `{}`: leave `tenant` out", api.tenant),
        ));
    }
    api.roster.check(&goal).map_err(refused)?;
    Ok(goal)
}
