//! Why goals did not complete, the commonest first.

use std::collections::BTreeMap;

use kintsugi_events::GoalStatus;
use serde::{Deserialize, Serialize};

use crate::view::RunView;

/// How many reasons are told.
const REASONS_MAX: usize = 3;

/// Hexadecimal digits of an id.
const ID_DIGITS: usize = 32;

/// A reason, and how many goals it stopped.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Reason {
    /// `partial`, `failed` or `refused`.
    pub(crate) status: String,
    /// In words, without the ids that differ from goal to goal.
    #[serde(rename = "reason")]
    pub(crate) words: String,
    pub(crate) count: usize,
}

/// The commonest reasons for which goals ended otherwise than completed, at most three.
pub(crate) fn commonest(view: &RunView) -> Vec<Reason> {
    let mut counts: BTreeMap<(&'static str, String), usize> = BTreeMap::new();
    for goal in view.goals.values() {
        let (status, reason) = match (goal.results.first(), &goal.refused) {
            (Some(result), _) if result.status == GoalStatus::Completed => continue,
            (Some(result), _) => (result.status.name(), result.reason.as_deref()),
            (None, Some(reason)) => ("refused", Some(reason.as_str())),
            (None, None) => continue,
        };
        let reason = without_ids(reason.unwrap_or("no reason given"));
        *counts.entry((status, reason)).or_default() += 1;
    }
    let mut reasons: Vec<Reason> = counts
        .into_iter()
        .map(|((status, words), count)| Reason { status: status.to_owned(), words, count })
        .collect();
    reasons.sort_by_key(|reason| std::cmp::Reverse(reason.count));
    reasons.truncate(REASONS_MAX);
    reasons
}

/// The reason with `…` for each id such as `eff_01931f2a7c0070008000000000000001`.
fn without_ids(reason: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut told = String::new();
    let mut rest = reason;
    while !rest.is_empty() {
        let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let is_id = word.split_once('_').is_some_and(|(_, digits)| {
            digits.len() == ID_DIGITS && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
        });
        told.push_str(if is_id { "…" } else { word });
        let between = after.find(is_part).unwrap_or(after.len());
        let (gap, next) = after.split_at(between);
        told.push_str(gap);
        rest = next;
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_do_not_make_one_reason_many() {
        let told = without_ids("refund (effect eff_01931f2a7c0070008000000000000001: gone); näh, a_b");
        assert_eq!(told, "refund (effect …: gone); näh, a_b");
        assert_eq!(without_ids(""), "");
    }
}
