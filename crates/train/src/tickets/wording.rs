//! The words of thoughts and answers: few per scene, so that a small model can make them its own.

use serde_json::{Map, Value};

use crate::shop::Dice;

use super::bank::Intent;

/// A situation that has words of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scene {
    /// The order has to be looked up.
    LookUpOrder,
    /// A shipped order's parcel has to be tracked.
    Track,
    /// A colleague has to take an order over.
    Escalate,
    /// A colleague has to take over what is about no order.
    PassOn,
    /// The account has to be looked up.
    LookUpAccount,
    /// The reset link has to be sent.
    SendReset,
    /// The money has to be paid back.
    Refund,
    /// The number is missing.
    AskNumber,
    /// There is no such order under this account.
    NotFound,
    /// The parcel is on its way.
    OnTheWay,
    /// The order is in this state, and that is the answer.
    Status(&'static str),
    /// It cannot be cancelled or redirected, since it is in this state.
    TooLate(Intent, &'static str),
    /// A colleague has it.
    Escalated(Intent),
    /// A colleague has it, and it is about no order.
    PassedOn(Intent),
    /// The reset link is sent.
    ResetSent,
    /// There is no account.
    NoAccount,
    /// The policy answers it.
    ReturnPolicy,
    /// It is nothing for the shop.
    NotOurs,
    /// The money is paid back.
    RefundPaid,
    /// Delivered too long ago.
    RefundLate,
    /// No refund in this state.
    RefundRefused(&'static str),
    /// The refund was paid earlier.
    RefundDone,
    /// There was no refund.
    NoRefund,
}

/// The thought of a scene.
pub(super) fn thought(scene: Scene, facts: &Map<String, Value>, dice: &mut Dice) -> String {
    render(dice.pick(thoughts(scene)), facts)
}

/// The answer of a scene that ends a goal.
pub(super) fn answer(scene: Scene, facts: &Map<String, Value>, dice: &mut Dice) -> String {
    render(dice.pick(answers(scene)), facts)
}

/// Puts the facts in for their names in braces.
fn render(template: &str, facts: &Map<String, Value>) -> String {
    let mut text = template.to_owned();
    for (name, value) in facts {
        let place = format!("{{{name}}}");
        if text.contains(&place) {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            text = text.replace(&place, &value);
        }
    }
    text
}

fn thoughts(scene: Scene) -> &'static [&'static str] {
    match scene {
        Scene::LookUpOrder => {
            &["About {topic}: look up order {order}.", "It is about {topic}: check order {order}."]
        }
        Scene::Track => &["Order {order} is shipped: track its parcel."],
        Scene::Escalate => &["Order {order} is {state}: escalate as {reason}."],
        Scene::PassOn => &["About {topic}, no order needed: escalate it."],
        Scene::LookUpAccount => &["About {topic}: look up the account."],
        Scene::SendReset => &["Account {customer} exists: send the reset link."],
        Scene::Refund => &["Delivered {days} days ago: refund {total} for {order}."],
        Scene::AskNumber => &["About {topic}, but no order number: ask."],
        Scene::NotFound => &["Order {order} is not found: say so."],
        Scene::OnTheWay => &["The parcel is {status}, due {eta}."],
        Scene::Status(_) => &["Order {order} is {state}: tell them."],
        Scene::TooLate(..) => &["Order {order} is {state}: too late."],
        Scene::Escalated(_) | Scene::PassedOn(_) => &["Ticket {ticket} is open: tell them."],
        Scene::ResetSent => &["The reset link is sent: tell them."],
        Scene::NoAccount => &["There is no account: say so."],
        Scene::ReturnPolicy => &["About {topic}: tell the return policy."],
        Scene::NotOurs => &["This is {topic}: answer politely."],
        Scene::RefundPaid => &["Order {order} is paid back: tell them."],
        Scene::RefundLate => &["Delivered {days} days ago: too late."],
        Scene::RefundRefused(_) => &["Order {order} is {state}: no refund."],
        Scene::RefundDone => &["Order {order} was refunded {refunded}: tell them."],
        Scene::NoRefund => &["Order {order} is {state}: no refund found."],
    }
}

fn answers(scene: Scene) -> &'static [&'static str] {
    match scene {
        Scene::AskNumber => &[
            "Please send us your order number, then we will look into it.",
            "Could you tell us the order number? Then we can help you.",
        ],
        Scene::NotFound => &[
            "We cannot find order {order} under this account. Please check the number.",
            "Order {order} is not found under this account. Please check the number.",
        ],
        Scene::OnTheWay => &[
            "Order {order} is {status} with {carrier} and should arrive on {eta}.",
            "Your {item}, order {order}, is {status} with {carrier}, expected on {eta}.",
        ],
        Scene::Status(state) => status(state),
        Scene::TooLate(Intent::CancelOrder, state) => too_late_to_cancel(state),
        Scene::TooLate(_, state) => too_late_to_redirect(state),
        Scene::Escalated(intent) | Scene::PassedOn(intent) => escalated(intent),
        Scene::ResetSent => &[
            "We have sent a link to reset your password to this mail address.",
            "A link to reset your password is on its way to this mail address.",
        ],
        Scene::NoAccount => &[
            "There is no account with this mail address. Please write from the address you registered.",
            "We found no account with this mail address. Did you register with another one?",
        ],
        Scene::ReturnPolicy => &[
            "You can return items within 30 days of delivery. A free label is in the parcel.",
            "Returns are free within 30 days of delivery: use the label in the parcel.",
        ],
        Scene::NotOurs => &[
            "Thank you for your message. We can only help with orders from our shop.",
            "Thank you for writing. This is nothing our shop can help with.",
        ],
        Scene::RefundPaid => &[
            "We have refunded {total} for order {order}.",
            "Order {order} is refunded: {total} is on its way back to you.",
        ],
        Scene::RefundLate => &[
            "Order {order} was delivered on {delivered}, more than 30 days ago, so we cannot refund it.",
            "We cannot refund order {order}: it was delivered on {delivered}, over 30 days ago.",
        ],
        Scene::RefundRefused(state) => refund_refused(state),
        Scene::RefundDone => &[
            "Order {order} was refunded on {refunded}. Your bank may need a few days.",
            "We refunded order {order} on {refunded}. It can take your bank some days.",
        ],
        Scene::NoRefund => &[
            "There is no refund on record for order {order}.",
            "We have no refund on record for order {order}.",
        ],
        Scene::LookUpOrder
        | Scene::Track
        | Scene::Escalate
        | Scene::PassOn
        | Scene::LookUpAccount
        | Scene::SendReset
        | Scene::Refund => &[],
    }
}

fn status(state: &str) -> &'static [&'static str] {
    match state {
        "processing" => &[
            "Order {order} of {ordered} is still processing and will be sent soon.",
            "Your {item}, order {order}, is still processing and not sent yet.",
        ],
        "delivered" => &[
            "Order {order} was delivered on {delivered}.",
            "Your {item}, order {order}, was delivered on {delivered}.",
        ],
        "refunded" => &["Order {order} was refunded on {refunded}, so nothing is on its way."],
        _ => &["Order {order} was cancelled on {cancelled}, so nothing is on its way."],
    }
}

fn too_late_to_cancel(state: &str) -> &'static [&'static str] {
    match state {
        "shipped" => &[
            "Order {order} was shipped on {shipped}, so it is too late to cancel it.",
            "It is too late to cancel order {order}: it was shipped on {shipped}.",
        ],
        "delivered" => &["Order {order} was delivered on {delivered}, so it is too late to cancel it."],
        "refunded" => &["Order {order} was already refunded on {refunded}, so there is nothing to cancel."],
        _ => &["Order {order} was already cancelled on {cancelled}."],
    }
}

fn too_late_to_redirect(state: &str) -> &'static [&'static str] {
    match state {
        "shipped" => &[
            "Order {order} was shipped on {shipped}, so it is too late to change the address.",
            "It is too late to change the address: order {order} was shipped on {shipped}.",
        ],
        "delivered" => {
            &["Order {order} was delivered on {delivered}, so it is too late to change the address."]
        }
        "refunded" => &["Order {order} was refunded on {refunded}, so it is too late to change the address."],
        _ => &["Order {order} was cancelled on {cancelled}, so there is no address to change."],
    }
}

fn escalated(intent: Intent) -> &'static [&'static str] {
    match intent {
        Intent::NotReceived => &[
            "We are sorry. A colleague will search for the parcel of order {order}, ticket {ticket}.",
            "Sorry about that. Ticket {ticket} is open: a colleague traces the parcel of order {order}.",
        ],
        Intent::DamagedItem => &[
            "We are sorry that order {order} arrived damaged. A colleague takes care of it, ticket {ticket}.",
            "Sorry for the damage. Ticket {ticket} is open: a colleague will replace order {order}.",
        ],
        Intent::WrongItem => &[
            "We are sorry that order {order} had the wrong item. A colleague takes care, ticket {ticket}.",
            "Sorry for the wrong item. Ticket {ticket} is open: a colleague will exchange order {order}.",
        ],
        Intent::CancelOrder => &[
            "Order {order} is not sent yet. A colleague will cancel it, ticket {ticket}.",
            "A colleague will cancel order {order} before it is sent, ticket {ticket}.",
        ],
        Intent::ChangeAddress => &[
            "Order {order} is not sent yet. A colleague will change the address, ticket {ticket}.",
            "A colleague will change the address of order {order}, ticket {ticket}.",
        ],
        Intent::InvoiceRequest => &[
            "A colleague will mail you the invoice of order {order}, ticket {ticket}.",
            "Ticket {ticket} is open: you will get the invoice of order {order} by mail.",
        ],
        Intent::ProductQuestion => &[
            "Thank you for your question. A colleague will answer it, ticket {ticket}.",
            "A colleague who knows the product will answer you, ticket {ticket}.",
        ],
        _ => &[
            "We are sorry. A colleague will write to you personally, ticket {ticket}.",
            "We apologise. Ticket {ticket} is open and a colleague will contact you.",
        ],
    }
}

fn refund_refused(state: &str) -> &'static [&'static str] {
    match state {
        "processing" => &["Order {order} is still processing. We can refund it once it is delivered."],
        "shipped" => &["Order {order} is still on its way. We can refund it once it is delivered."],
        "refunded" => &[
            "Order {order} was already refunded on {refunded}.",
            "We already refunded order {order} on {refunded}.",
        ],
        _ => &["Order {order} was cancelled on {cancelled}, so there is nothing to refund."],
    }
}
