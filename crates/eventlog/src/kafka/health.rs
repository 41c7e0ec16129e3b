//! Whether a cluster answers, as those notice who ask it all the time.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::queue::locked;

/// A broker that is asked ten times a second and answers nothing for so long is away. On a machine with too much to do
/// it may take seconds.
const SILENT_MAX: Duration = Duration::from_secs(10);

/// Whether the cluster can be reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Health {
    /// It answers.
    #[default]
    Up,
    /// The cluster does not answer. What is appended waits, as far as there is room.
    Away {
        /// Since when.
        since: Instant,
        /// The last reason that is known.
        reason: String,
    },
}

/// What those who ask again and again have come to.
#[derive(Debug)]
pub(super) struct Answers(Mutex<State>);

#[derive(Debug)]
struct State {
    /// When the last answer came, or the first question was asked.
    last: Instant,
    /// Why none came since.
    failure: Option<String>,
}

impl Answers {
    /// Begins to ask, at `now`.
    pub(super) const fn new(now: Instant) -> Self {
        Self(Mutex::new(State { last: now, failure: None }))
    }

    /// An answer came, or nobody has asked for a while.
    pub(super) fn begin_anew(&self, now: Instant) {
        *locked(&self.0) = State { last: now, failure: None };
    }

    /// None came.
    pub(super) fn failed(&self, reason: String) {
        locked(&self.0).failure = Some(reason);
    }

    /// What that means at `now`.
    pub(super) fn health(&self, now: Instant) -> Health {
        let State { last, failure } = &*locked(&self.0);
        match failure {
            Some(reason) if now.saturating_duration_since(*last) > SILENT_MAX => {
                Health::Away { since: *last, reason: reason.clone() }
            }
            _ => Health::Up,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answers_nothing_for_long_is_away_until_the_next_answer() {
        let begun = Instant::now();
        let later = |seconds| begun + Duration::from_secs(seconds);
        let answers = Answers::new(begun);
        assert_eq!(answers.health(later(60)), Health::Up, "nobody has asked");
        answers.failed("timed out".to_owned());
        assert_eq!(answers.health(later(10)), Health::Up, "it may be slow");
        let away = Health::Away { since: begun, reason: "timed out".to_owned() };
        assert_eq!(answers.health(later(11)), away);
        answers.begin_anew(later(12));
        assert_eq!(answers.health(later(60)), Health::Up);
    }
}
