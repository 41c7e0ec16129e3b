//! The right decision after each observation.
//!
//! It knows the intent, which a model has to read out of the words, and otherwise only what an agent sees: the
//! number in the ticket and what the tools answered.

use anyhow::{Result, anyhow};
use kintsugi_agent::prompt::{Action, Decision};
use kintsugi_events::ActionCall;
use kintsugi_types::ToolName;
use serde_json::{Map, Value, json};

use crate::shop::Dice;

use super::bank::Intent;
use super::wording::{Scene, answer, thought};

/// How long after delivery money is given back, in days.
const REFUND_DAYS: i64 = 30;

/// What the agent knows so far.
#[derive(Debug, Clone)]
pub(super) struct Knowledge {
    pub(super) intent: Intent,
    /// Facts for the wording: the number, and the members of all observations, newest last.
    pub(super) facts: Map<String, Value>,
    /// The tools called so far.
    pub(super) called: Vec<String>,
}

impl Knowledge {
    pub(super) fn new(intent: Intent, number: Option<u32>) -> Self {
        let mut facts = Map::new();
        if let Some(number) = number {
            facts.insert("order".to_owned(), json!(number));
        }
        facts.insert("topic".to_owned(), json!(topic(intent)));
        if let Some(reason) = reason(intent) {
            facts.insert("reason".to_owned(), json!(reason));
        }
        Self { intent, facts, called: Vec::new() }
    }

    /// Takes in what the tool of the last call answered.
    pub(super) fn observe(&mut self, tool: &str, observation: &str) -> Result<()> {
        let answer: Value = serde_json::from_str(observation)?;
        let members = answer.as_object().ok_or_else(|| anyhow!("{tool} answered {observation}"))?;
        self.facts.extend(members.iter().map(|(name, value)| (name.clone(), value.clone())));
        self.called.push(tool.to_owned());
        Ok(())
    }

    fn has_called(&self, tool: &str) -> bool {
        self.called.iter().any(|called| called == tool)
    }

    fn not_found(&self) -> bool {
        self.facts.get("found") == Some(&Value::Bool(false))
    }

    fn state(&self) -> &str {
        self.facts.get("state").and_then(Value::as_str).unwrap_or_default()
    }
}

/// What to do, before it is put into words.
enum Move {
    Call(&'static str, Value, Scene),
    Finish(Scene),
}

/// The next decision.
pub(super) fn decide(known: &Knowledge, dice: &mut Dice) -> Result<Decision> {
    let (action, scene) = match next_move(known) {
        Move::Call(tool, args, scene) => {
            (Action::Call(ActionCall { tool: ToolName::new(tool)?, args }), scene)
        }
        Move::Finish(scene) => (Action::Finish { answer: answer(scene, &known.facts, dice) }, scene),
    };
    Ok(Decision { thought: thought(scene, &known.facts, dice), action })
}

fn next_move(known: &Knowledge) -> Move {
    match known.intent {
        Intent::PasswordReset => password_reset(known),
        Intent::ProductQuestion | Intent::Complaint => {
            if known.has_called("escalate") {
                Move::Finish(Scene::PassedOn(known.intent))
            } else {
                Move::Call("escalate", json!({ "reason": known.facts.get("reason") }), Scene::PassOn)
            }
        }
        Intent::Other => Move::Finish(Scene::NotOurs),
        Intent::ReturnQuestion => Move::Finish(Scene::ReturnPolicy),
        _ => about_order(known),
    }
}

fn password_reset(known: &Knowledge) -> Move {
    if known.has_called("send_password_reset") {
        Move::Finish(Scene::ResetSent)
    } else if !known.has_called("lookup_customer") {
        Move::Call("lookup_customer", json!({}), Scene::LookUpAccount)
    } else if known.not_found() {
        Move::Finish(Scene::NoAccount)
    } else {
        Move::Call(
            "send_password_reset",
            json!({ "customer": known.facts.get("customer") }),
            Scene::SendReset,
        )
    }
}

fn about_order(known: &Knowledge) -> Move {
    let Some(order) = known.facts.get("order") else { return Move::Finish(Scene::AskNumber) };
    if !known.has_called("lookup_order") {
        return Move::Call("lookup_order", json!({ "order": order }), Scene::LookUpOrder);
    }
    if known.not_found() {
        return Move::Finish(Scene::NotFound);
    }
    match known.intent {
        Intent::OrderStatus => order_status(known, order),
        Intent::CancelOrder | Intent::ChangeAddress if known.state() != "processing" => {
            Move::Finish(Scene::TooLate(known.intent, state_scene(known)))
        }
        Intent::RefundRequest => refund_request(known, order),
        Intent::RefundStatus if known.state() == "refunded" => Move::Finish(Scene::RefundDone),
        Intent::RefundStatus => Move::Finish(Scene::NoRefund),
        _ if known.has_called("escalate") => Move::Finish(Scene::Escalated(known.intent)),
        _ => {
            let args = json!({ "reason": known.facts.get("reason"), "order": order });
            Move::Call("escalate", args, Scene::Escalate)
        }
    }
}

fn order_status(known: &Knowledge, order: &Value) -> Move {
    if known.has_called("track_parcel") {
        return Move::Finish(Scene::OnTheWay);
    }
    if known.state() == "shipped" {
        return Move::Call("track_parcel", json!({ "order": order }), Scene::Track);
    }
    Move::Finish(Scene::Status(state_scene(known)))
}

fn refund_request(known: &Knowledge, order: &Value) -> Move {
    if known.has_called("refund") {
        return Move::Finish(Scene::RefundPaid);
    }
    let days = known.facts.get("days").and_then(Value::as_i64).unwrap_or(i64::MAX);
    match known.state() {
        "delivered" if days <= REFUND_DAYS => {
            let args = json!({ "order": order, "amount": known.facts.get("total") });
            Move::Call("refund", args, Scene::Refund)
        }
        "delivered" => Move::Finish(Scene::RefundLate),
        _ => Move::Finish(Scene::RefundRefused(state_scene(known))),
    }
}

/// The state as a scene knows it.
fn state_scene(known: &Knowledge) -> &'static str {
    ["processing", "shipped", "delivered", "refunded", "cancelled"]
        .into_iter()
        .find(|state| *state == known.state())
        .unwrap_or_default()
}

/// What the ticket is about, in a word or two.
fn topic(intent: Intent) -> &'static str {
    match intent {
        Intent::OrderStatus => "delivery",
        Intent::NotReceived => "lost parcel",
        Intent::DamagedItem => "damage",
        Intent::WrongItem => "wrong item",
        Intent::CancelOrder => "cancellation",
        Intent::ChangeAddress => "address",
        Intent::PasswordReset => "password",
        Intent::InvoiceRequest => "invoice",
        Intent::ProductQuestion => "product question",
        Intent::Complaint => "complaint",
        Intent::Other => "nothing of ours",
        Intent::RefundRequest => "refund",
        Intent::RefundStatus => "refund status",
        Intent::ReturnQuestion => "returns",
    }
}

/// The reason under which a colleague takes it over, for intents that agents pass on.
pub(super) fn reason(intent: Intent) -> Option<&'static str> {
    match intent {
        Intent::NotReceived => Some("lost_parcel"),
        Intent::DamagedItem => Some("damaged"),
        Intent::WrongItem => Some("wrong_item"),
        Intent::CancelOrder => Some("cancel"),
        Intent::ChangeAddress => Some("address"),
        Intent::InvoiceRequest => Some("invoice"),
        Intent::ProductQuestion => Some("product_question"),
        Intent::Complaint => Some("complaint"),
        _ => None,
    }
}
