//! What can be wrong with a goal by itself: the same for a file, a pipe and HTTP.

use kintsugi_events::Goal;
use kintsugi_events::expect;
use serde_json::{Map, Value};

use crate::hint::did_you_mean;

/// The longest goal that is taken, in bytes: the partition takes no longer one.
pub(crate) const GOAL_BYTES_MAX: usize = 256 * 1024;

/// What a goal may spend.
const BUDGET: [&str; 4] = ["usd", "tokens", "steps", "seconds"];

/// Why a goal is not taken.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// The field that is wrong; empty where it is none by itself.
    pub(crate) field: String,
    /// What is wrong with it, and what to write instead.
    pub(crate) problem: String,
}

impl Refusal {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

/// Reads a goal from the members of its object. Fields that nobody knows are kept and ignored; members of `budget`
/// that nobody knows are mistakes, for a limit that is not kept is worse than none.
pub(crate) fn read(members: &Map<String, Value>) -> Result<Goal, Refusal> {
    let goal: Goal =
        serde_json::from_value(Value::Object(members.clone())).map_err(|error| at_fault(members, &error))?;
    if goal.text.trim().is_empty() {
        return Err(Refusal::new("text", "`text` is empty: say what is to be achieved"));
    }
    check_budget(members.get("budget"))?;
    let urgency = members.get("urgency").and_then(Value::as_f64);
    if let Some(urgency) = urgency.filter(|urgency| !(0.0..=1.0).contains(urgency)) {
        return Err(Refusal::new("urgency", format!("`urgency` is {urgency}, it must lie in [0, 1]")));
    }
    if let Some(expectation) = &goal.expect {
        expect::check(expectation).map_err(|error| Refusal::new("expect", error.to_string()))?;
    }
    Ok(goal)
}

fn check_budget(budget: Option<&Value>) -> Result<(), Refusal> {
    let Some(Value::Object(budget)) = budget else { return Ok(()) };
    for (name, value) in budget {
        let field = format!("budget.{name}");
        if !BUDGET.contains(&name.as_str()) {
            let hint = did_you_mean(name, BUDGET);
            let problem = format!("`{field}` is no budget; there are {}{hint}", BUDGET.join(", "));
            return Err(Refusal::new(field, problem));
        }
        if value.as_f64().is_some_and(|value| value < 0.0) {
            let problem = format!("`{field}` is {value}, it must not be below 0");
            return Err(Refusal::new(field, problem));
        }
    }
    Ok(())
}

/// Which member cannot be read: each is tried alone.
fn at_fault(members: &Map<String, Value>, error: &serde_json::Error) -> Refusal {
    if !members.contains_key("text") {
        return Refusal::new("text", "`text` is missing: say what is to be achieved");
    }
    for (name, value) in members {
        let mut alone = Map::new();
        if name != "text" {
            alone.insert("text".to_owned(), Value::String("text".to_owned()));
        }
        alone.insert(name.clone(), value.clone());
        if let Err(error) = serde_json::from_value::<Goal>(Value::Object(alone)) {
            return Refusal::new(name.clone(), format!("`{name}` cannot be read: {error}"));
        }
    }
    Refusal::new("", format!("the goal cannot be read: {error}"))
}
