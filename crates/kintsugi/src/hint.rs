//! What somebody who mistyped a name may have meant.

/// The farthest that a typed name lies from the one that is suggested, in single mistakes.
const MISTAKES_MAX: usize = 3;

/// The known name that is nearest to the one that was typed, if it is near.
pub(crate) fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(typed, name), name))
        .filter(|(mistakes, name)| *mistakes <= MISTAKES_MAX && *mistakes < name.chars().count())
        .min()
        .map(|(_, name)| name)
}

/// ``; did you mean `x`?``, or nothing where no known name is near.
pub(crate) fn did_you_mean<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(typed, known).map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

/// The same on a line of its own, for a message of `serde` such as ``unknown field `slotz`, expected one of …``.
pub(crate) fn of_message(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let Some(unknown) = quoted.next().filter(|_| message.contains("unknown field")) else {
        return String::new();
    };
    nearest(unknown, quoted).map_or_else(String::new, |name| format!("\ndid you mean `{name}`?"))
}
