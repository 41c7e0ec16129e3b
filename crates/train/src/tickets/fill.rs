//! From an entry's words to the ticket as sent: slots filled, the way of writing varied, no wording invented.

use chrono::Datelike;

use crate::shop::Dice;

use super::case::Ticket;

/// How often each variation happens.
const LOWER_CASE: f64 = 0.10;
const NO_FINAL_MARK: f64 = 0.15;
const TYPO: f64 = 0.10;
const OTHER_NUMBER_FORM: f64 = 0.30;

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

/// The words of `ticket` as sent.
pub(super) fn fill(ticket: &Ticket, dice: &mut Dice) -> String {
    let mut text = ticket.entry.text.clone();
    if dice.chance(LOWER_CASE) {
        text = text.to_lowercase();
    }
    if dice.chance(NO_FINAL_MARK) {
        text.truncate(text.trim_end_matches(['.', '!', '?']).len());
    }
    if dice.chance(TYPO) {
        text = with_typo(&text, dice);
    }
    if dice.chance(OTHER_NUMBER_FORM) {
        text = with_number_form(&text, dice);
    }
    fill_slots(&text, ticket, dice)
}

/// Swaps two neighbouring letters within one word of five or more.
fn with_typo(text: &str, dice: &mut Dice) -> String {
    let mut words: Vec<String> = text.split(' ').map(str::to_owned).collect();
    let long: Vec<usize> = words
        .iter()
        .enumerate()
        .filter(|(_, word)| word.len() >= 5 && word.bytes().all(|byte| byte.is_ascii_lowercase()))
        .map(|(place, _)| place)
        .collect();
    if let Some(word) = words.get_mut(dice.pick(&long)).filter(|_| !long.is_empty()) {
        let mut letters: Vec<char> = word.chars().collect();
        let at = 1 + dice.below(letters.len() - 2);
        letters.swap(at, at + 1);
        *word = letters.into_iter().collect();
    }
    words.join(" ")
}

/// Writes `order {order}` as `order #{order}` or `order no. {order}`; other places keep the form that they have.
fn with_number_form(text: &str, dice: &mut Dice) -> String {
    let form = dice.pick(&["order #{order}", "order no. {order}"]);
    text.replacen("order {order}", form, 1)
}

fn fill_slots(text: &str, ticket: &Ticket, dice: &mut Dice) -> String {
    let writer = &ticket.writer;
    let order = &ticket.order;
    let month = MONTHS.get(order.placed.month0() as usize).copied().unwrap_or_default();
    let values = [
        ("{order}", ticket.number.map(|number| number.to_string()).unwrap_or_default()),
        ("{name}", writer.first.to_owned()),
        ("{fullname}", format!("{} {}", writer.first, writer.last)),
        ("{item}", order.item.to_owned()),
        ("{email}", writer.email.clone()),
        ("{city}", writer.city.to_owned()),
        ("{date}", format!("{} {month}", order.placed.day())),
        ("{amount}", format!("{:.2}", order.total())),
        ("{phone}", writer.phone.clone()),
        ("{number}", irrelevant_number(ticket.number, dice)),
    ];
    values.iter().fold(text.to_owned(), |text, (slot, value)| text.replace(slot, value))
}

/// Two to eight digits that are not the order's number.
fn irrelevant_number(order: Option<u32>, dice: &mut Dice) -> String {
    let digits = u32::try_from(dice.between(2, 8)).unwrap_or(2);
    let number = dice.between(10_i64.pow(digits - 1), 10_i64.pow(digits) - 1);
    if order.is_some_and(|order| i64::from(order) == number) {
        return (number + 1).to_string();
    }
    number.to_string()
}
