//! Whether a goal's result is what its producer said would be right.
//!
//! A goal's `expect` is seen by nobody who works the goal. Its form:
//!
//! ```json
//! {"intent": "refund_request", "case": "delivered_lately",
//!  "status": "completed",
//!  "tools": [{"tool": "refund", "args": {"order": 10482, "amount": 59.95}}],
//!  "answer_contains": ["10482", ["refund", "back"]],
//!  "answer_excludes": ["cannot"]}
//! ```
//!
//! - `status`: how the goal must have ended; `completed` where it is missing.
//! - `tools`: exactly the *writes* that must have succeeded, in any order. Each names the arguments that must be
//!   equal; others are free. Where it is missing, any writes will do.
//! - `answer_contains`: each text must stand in the answer; of a list of texts, one. Upper and lower case are equal.
//! - `answer_excludes`: none of these texts may stand in the answer.
//! - `intent` and `case` are labels for reports.

use kintsugi_types::ToolName;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::goal::{GoalResult, GoalStatus, ResultAction};

/// Numbers closer than this are equal: amounts of money after arithmetic in floating point.
const NUMBER_TOLERANCE: f64 = 1e-6;

/// Why an `expect` cannot be evaluated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`expect` is not of its form: {reason}")]
pub struct ExpectError {
    /// What is wrong.
    pub reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    #[serde(default, rename = "intent")]
    _intent: Option<String>,
    #[serde(default, rename = "case")]
    _case: Option<String>,
    #[serde(default)]
    status: Option<GoalStatus>,
    #[serde(default)]
    tools: Option<Vec<ExpectedCall>>,
    #[serde(default)]
    answer_contains: Vec<AnyOf>,
    #[serde(default)]
    answer_excludes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedCall {
    tool: ToolName,
    #[serde(default)]
    args: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum AnyOf {
    One(String),
    Several(Vec<String>),
}

/// Whether `expect` is of its form, so that a mistake is found before any goal is worked.
pub fn check(expect: &Value) -> Result<(), ExpectError> {
    read(expect).map(|_| ())
}

fn read(expect: &Value) -> Result<Expect, ExpectError> {
    Expect::deserialize(expect).map_err(|error| ExpectError { reason: error.to_string() })
}

/// Whether `result` is what `expect` demands. `is_write` tells which tools change something; only their calls are
/// compared, since how often an agent looked something up is its own business. Fails where `expect` is not of its
/// form.
pub fn evaluate(
    expect: &Value,
    result: &GoalResult,
    is_write: &dyn Fn(&ToolName) -> bool,
) -> Result<bool, ExpectError> {
    Ok(differences(expect, result, is_write)?.is_empty())
}

/// What in `result` is not what `expect` demands, each in words for a person; nothing where all is right.
pub fn differences(
    expect: &Value,
    result: &GoalResult,
    is_write: &dyn Fn(&ToolName) -> bool,
) -> Result<Vec<String>, ExpectError> {
    let expect = read(expect)?;
    let mut found = Vec::new();
    let status = expect.status.unwrap_or(GoalStatus::Completed);
    if result.status != status {
        found.push(format!("it should be {} and is {}", status.name(), result.status.name()));
    }
    let writes: Vec<&ResultAction> =
        result.actions.iter().filter(|action| action.ok && is_write(&action.tool)).collect();
    if let Some(expected) = expect.tools.filter(|expected| !pair_up(expected, &writes)) {
        let expected = expected.iter().map(|call| worded(&call.tool, &Value::Object(call.args.clone())));
        let came = writes.iter().map(|action| worded(&action.tool, &action.args));
        found.push(format!("it should have done {} and did {}", all_of(expected), all_of(came)));
    }
    let answer = result.answer.as_deref().unwrap_or_default().to_lowercase();
    let stands = |text: &String| answer.contains(&text.to_lowercase());
    for wanted in &expect.answer_contains {
        match wanted {
            AnyOf::One(text) if !stands(text) => found.push(format!("the answer lacks {text:?}")),
            AnyOf::Several(texts) if !texts.iter().any(stands) => {
                let texts: Vec<String> = texts.iter().map(|text| format!("{text:?}")).collect();
                found.push(format!("the answer has none of {}", texts.join(", ")));
            }
            _ => {}
        }
    }
    for text in expect.answer_excludes.iter().filter(|text| stands(text)) {
        found.push(format!("the answer has {text:?}, which it must not"));
    }
    Ok(found)
}

fn worded(tool: &ToolName, args: &Value) -> String {
    format!("{tool} {args}")
}

fn all_of(calls: impl Iterator<Item = String>) -> String {
    let calls: Vec<String> = calls.collect();
    if calls.is_empty() { "no writes".to_owned() } else { calls.join(", ") }
}

/// Whether every expected call has an actual one of its own and none is left over. Trying the first expected call
/// with each actual one costs nothing at these lengths and finds a pairing wherever there is one.
fn pair_up(expected: &[ExpectedCall], actual: &[&ResultAction]) -> bool {
    let Some((first, rest)) = expected.split_first() else { return actual.is_empty() };
    if expected.len() != actual.len() {
        return false;
    }
    (0..actual.len()).any(|place| {
        let mut others = actual.to_vec();
        let candidate = others.swap_remove(place);
        candidate.tool == first.tool && covers_members(&first.args, &candidate.args) && pair_up(rest, &others)
    })
}

/// Whether `actual` has every member that `expected` names. A null stands for "missing or null".
fn covers_members(expected: &Map<String, Value>, actual: &Value) -> bool {
    expected
        .iter()
        .all(|(name, value)| actual.get(name).map_or(value.is_null(), |actual| covers(value, actual)))
}

fn covers(expected: &Value, actual: &Value) -> bool {
    match (expected, actual) {
        (Value::Object(expected), Value::Object(_)) => covers_members(expected, actual),
        (Value::Number(expected), Value::Number(actual)) => match (expected.as_f64(), actual.as_f64()) {
            (Some(expected), Some(actual)) => (expected - actual).abs() < NUMBER_TOLERANCE,
            _ => false,
        },
        (expected, actual) => expected == actual,
    }
}

#[cfg(test)]
mod tests {
    use kintsugi_types::{AgentId, EffectId, GoalId, SeededIds, TokenUsage};
    use serde_json::json;

    use super::*;

    fn result(answer: &str, calls: &[(&str, Value, bool)]) -> GoalResult {
        let mut ids = SeededIds::new(1);
        let action = |(tool, args, ok): &(&str, Value, bool)| ResultAction {
            effect: EffectId::new(&mut ids),
            tool: ToolName::new(tool).unwrap(),
            args: args.clone(),
            ok: *ok,
        };
        GoalResult {
            goal: GoalId::new("g").unwrap(),
            agent: AgentId::new("refunds-1").unwrap(),
            status: GoalStatus::Completed,
            answer: Some(answer.to_owned()),
            actions: calls.iter().map(action).collect(),
            reason: None,
            steps: 2,
            tokens: TokenUsage::default(),
            usd: 0.0,
            wall_ms: 1,
            seams: 0,
        }
    }

    fn check(expect: &Value, result: &GoalResult) -> Result<bool, ExpectError> {
        evaluate(expect, result, &|tool| tool.as_str() != "lookup_order")
    }

    fn refund(amount: f64) -> (&'static str, Value, bool) {
        ("refund", json!({"order": 10482, "amount": amount}), true)
    }

    fn lookup() -> (&'static str, Value, bool) {
        ("lookup_order", json!({"order": 10482}), true)
    }

    #[test]
    fn the_writes_must_be_exactly_the_expected_ones() {
        let expect = json!({"tools": [{"tool": "refund", "args": {"order": 10482, "amount": 59.95}}]});
        assert_eq!(check(&expect, &result("", &[lookup(), refund(59.95)])), Ok(true));
        assert_eq!(
            check(&expect, &result("", &[lookup(), lookup(), refund(59.95)])),
            Ok(true),
            "reads are free"
        );
        assert_eq!(check(&expect, &result("", &[lookup(), refund(5.0)])), Ok(false));
        assert_eq!(check(&expect, &result("", &[lookup()])), Ok(false));
        assert_eq!(check(&expect, &result("", &[refund(59.95), refund(59.95)])), Ok(false), "one too many");
        let failed = ("refund", json!({"order": 1}), false);
        assert_eq!(
            check(&expect, &result("", &[failed, refund(59.95)])),
            Ok(true),
            "refused ones changed nothing"
        );
    }

    #[test]
    fn an_empty_list_of_tools_forbids_writes_and_a_missing_one_allows_any() {
        assert_eq!(check(&json!({"tools": []}), &result("", &[refund(1.0)])), Ok(false));
        assert_eq!(check(&json!({}), &result("", &[refund(1.0)])), Ok(true));
    }

    #[test]
    fn calls_pair_up_in_any_order_whichever_is_tried_first() {
        let expect = json!({"tools": [
            {"tool": "refund", "args": {"order": 10482}},
            {"tool": "refund", "args": {"order": 10482, "amount": 1.0}},
        ]});
        assert_eq!(check(&expect, &result("", &[refund(1.0), refund(2.0)])), Ok(true));
        assert_eq!(check(&expect, &result("", &[refund(2.0), refund(1.0)])), Ok(true));
        assert_eq!(check(&expect, &result("", &[refund(2.0), refund(2.0)])), Ok(false));
    }

    #[test]
    fn what_differs_is_told_in_words() {
        let expect = json!({"tools": [{"tool": "refund", "args": {"order": 10482}}],
                            "answer_contains": ["10482", ["refund", "back"]], "answer_excludes": ["never"]});
        let came = GoalResult { status: GoalStatus::Partial, ..result("Never.", &[lookup()]) };
        let told = differences(&expect, &came, &|tool| tool.as_str() != "lookup_order").unwrap();
        assert_eq!(
            told,
            [
                "it should be completed and is partial",
                "it should have done refund {\"order\":10482} and did no writes",
                "the answer lacks \"10482\"",
                "the answer has none of \"refund\", \"back\"",
                "the answer has \"never\", which it must not",
            ]
        );
    }

    #[test]
    fn a_null_argument_must_be_missing_or_null() {
        let expect = json!({"tools": [{"tool": "escalate", "args": {"order": null}}]});
        let escalate = |args: Value| ("escalate", args, true);
        assert_eq!(check(&expect, &result("", &[escalate(json!({}))])), Ok(true));
        assert_eq!(check(&expect, &result("", &[escalate(json!({"order": 1}))])), Ok(false));
    }

    #[test]
    fn the_answer_is_compared_without_case() {
        let expect =
            json!({"answer_contains": ["10482", ["Refund", "money back"]], "answer_excludes": ["never"]});
        assert_eq!(check(&expect, &result("We REFUND order 10482.", &[])), Ok(true));
        assert_eq!(check(&expect, &result("Your Money Back for 10482.", &[])), Ok(true));
        assert_eq!(check(&expect, &result("We refund it.", &[])), Ok(false));
        assert_eq!(check(&expect, &result("We Never refund 10482.", &[])), Ok(false));
    }

    #[test]
    fn a_goal_must_have_ended_as_expected() {
        let mut partial = result("10482", &[]);
        partial.status = GoalStatus::Partial;
        assert_eq!(check(&json!({}), &partial), Ok(false));
        assert_eq!(check(&json!({"status": "partial"}), &partial), Ok(true));
    }

    #[test]
    fn a_misspelt_member_is_an_error_and_not_a_silent_pass() {
        let error = check(&json!({"answer_contain": ["x"]}), &result("", &[])).unwrap_err();
        assert!(error.reason.contains("answer_contain"), "{error}");
    }
}
