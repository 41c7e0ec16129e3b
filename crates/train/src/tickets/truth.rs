//! What is right for a ticket, from the shop's own books and not from what the oracle did.

use chrono::{Datelike, NaiveDate};
use serde_json::{Map, Value, json};

use crate::shop::State;

use super::bank::Intent;
use super::case::{Case, Ticket};
use super::oracle::reason;

/// The `expect` of a goal: the writes that must have happened and what the answer must say.
pub fn truth(ticket: &Ticket) -> Value {
    let mut tools = Vec::new();
    let mut contains: Vec<Value> = ticket.number.iter().map(|number| json!(number.to_string())).collect();
    let mut excludes: Vec<Value> = Vec::new();
    let intent = ticket.entry.intent;
    match (intent, ticket.case) {
        (_, Case::NoNumber) => {
            contains.push(json!(["order number", "number of your order", "number of the order"]));
        }
        (_, Case::Unknown | Case::Foreign) => {
            contains.push(json!(["find", "found", "no order", "not exist", "not under this account"]));
        }
        (Intent::PasswordReset, Case::Account) => {
            tools.push(json!({"tool": "send_password_reset", "args": {"customer": ticket.writer.id}}));
            contains.push(json!(["link", "reset"]));
        }
        (Intent::PasswordReset, _) => {
            contains.push(json!(["no account", "find an account", "find any account"]));
        }
        (Intent::ProductQuestion | Intent::Complaint, _) => {
            tools.push(json!({"tool": "escalate", "args": {"reason": reason(intent)}}));
            contains.push(json!(["colleague", "ticket"]));
        }
        (Intent::Other, _) => contains.push(json!(["thank", "sorry", "help", "shop"])),
        (Intent::ReturnQuestion, _) => {
            contains.extend([json!("30 days"), json!(["return", "label", "free"])]);
        }
        (Intent::OrderStatus, Case::Own(state)) => contains.extend(status(ticket, state)),
        (Intent::CancelOrder | Intent::ChangeAddress, Case::Own(state)) if state != State::Processing => {
            contains.push(match state {
                State::Cancelled => json!(["cancelled", "canceled"]),
                State::Refunded => json!(["refunded"]),
                _ => json!(["too late", "already", "no longer", "cannot"]),
            });
        }
        (Intent::RefundRequest, Case::Own(State::DeliveredLately)) => {
            let (order, amount) = (ticket.order.number, ticket.order.total());
            tools.push(json!({"tool": "refund", "args": {"order": order, "amount": amount}}));
            contains.push(json!(["refund", "back"]));
        }
        (Intent::RefundRequest, Case::Own(state)) => {
            contains.push(match state {
                State::DeliveredLongAgo => json!(["30 days", "too late", "too long ago"]),
                State::Refunded => json!(["already", "was refunded"]),
                State::Cancelled => json!(["cancelled", "canceled"]),
                _ => json!([
                    "processing",
                    "on its way",
                    "not delivered",
                    "once it is delivered",
                    "not been delivered"
                ]),
            });
            if state != State::Refunded {
                excludes = vec![json!("have refunded"), json!("is refunded:")];
            }
        }
        (Intent::RefundStatus, Case::Own(State::Refunded)) => contains.extend(day(ticket.order.refunded)),
        (Intent::RefundStatus, _) => contains.push(json!(["no refund", "not refunded", "not been refunded"])),
        (_, Case::Own(_)) if reason(intent).is_some() => {
            let (reason, order) = (reason(intent), ticket.order.number);
            tools.push(json!({"tool": "escalate", "args": {"reason": reason, "order": order}}));
            contains.push(json!(["colleague", "ticket"]));
        }
        _ => {}
    }
    let mut expect = Map::new();
    expect.insert("intent".to_owned(), json!(intent.name()));
    expect.insert("case".to_owned(), json!(ticket.case.name()));
    expect.insert("tools".to_owned(), Value::Array(tools));
    expect.insert("answer_contains".to_owned(), Value::Array(contains));
    if !excludes.is_empty() {
        expect.insert("answer_excludes".to_owned(), Value::Array(excludes));
    }
    Value::Object(expect)
}

fn status(ticket: &Ticket, state: State) -> Option<Value> {
    let order = &ticket.order;
    match state {
        State::Processing => Some(json!(["processing", "not sent", "not been sent", "not shipped"])),
        State::Shipped => day(order.shipment.as_ref().and_then(|shipment| shipment.eta)),
        State::DeliveredLately | State::DeliveredLongAgo => day(order.delivered),
        State::Refunded => day(order.refunded),
        State::Cancelled => day(order.cancelled),
    }
}

/// Any of the ways to write a day.
fn day(day: Option<NaiveDate>) -> Option<Value> {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let day = day?;
    let month = MONTHS.get(day.month0() as usize)?;
    Some(json!([day.to_string(), format!("{} {month}", day.day()), format!("{month} {}", day.day())]))
}
