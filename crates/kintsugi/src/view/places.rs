//! Where goals lie in their topic, so that a dead letter finds the goal that it is about.

use std::collections::{BTreeMap, VecDeque};

use kintsugi_eventlog::Record;
use kintsugi_events::{DeadLetter, Topic};
use kintsugi_types::GoalId;

/// How many places of one goal are known. It is sent on once, and handed over twice; who publishes it more often than
/// this has only the first.
pub(super) const PLACES_MAX: usize = 8;

/// How many letters are kept that came before what they are about. On a cluster partitions are read side by side, so
/// that may be; one that waits is as a rule about what was no goal at all. The oldest go.
const LETTERS_MAX: usize = 256;

/// A partition and an offset in the topic of goals.
pub(super) type Place = (u32, u64);

/// Where an event was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    /// In its topic.
    pub(super) place: Place,
    /// Its key and value.
    pub(super) bytes: u64,
}

impl Origin {
    /// Where `record` lies.
    pub(crate) fn of(record: &Record) -> Self {
        let bytes = (record.key.len() + record.value.len()) as u64;
        Self { place: (record.partition, record.offset), bytes }
    }
}

/// The places of goals, and the letters about places that nobody knows yet.
#[derive(Debug, Default)]
pub(super) struct Places {
    goals: BTreeMap<Place, GoalId>,
    letters: VecDeque<(Place, String)>,
}

impl Places {
    /// Notes that `goal` lies at `place`. Returns why it could not be taken, where that is known already.
    pub(super) fn note(&mut self, place: Place, goal: GoalId) -> Option<String> {
        self.goals.insert(place, goal);
        let letter = self.letters.iter().position(|(at, _)| *at == place)?;
        self.letters.remove(letter).map(|(_, reason)| reason)
    }

    /// The goal that a letter is about, where it is known.
    pub(super) fn goal_of(&self, letter: &DeadLetter) -> Option<&GoalId> {
        self.goals.get(&place_of(letter)?)
    }

    /// The goal that a letter is about, and why it could not be taken. Where the goal is not known yet, the letter is
    /// kept for it.
    pub(super) fn refuse(&mut self, letter: DeadLetter) -> Option<(GoalId, String)> {
        let place = place_of(&letter)?;
        if let Some(goal) = self.goals.get(&place) {
            return Some((goal.clone(), letter.reason));
        }
        if self.letters.len() == LETTERS_MAX {
            self.letters.pop_front();
        }
        self.letters.push_back((place, letter.reason));
        None
    }

    /// Nobody asks for these any more.
    pub(super) fn forget(&mut self, places: &[Place]) {
        for place in places {
            self.goals.remove(place);
        }
    }
}

/// What a letter is about, where that lies in the topic of goals.
fn place_of(letter: &DeadLetter) -> Option<Place> {
    let is_of_goals = letter.source_topic == Topic::Goals.name();
    letter.source_offset.filter(|_| is_of_goals).map(|offset| (letter.source_partition, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(place: Place) -> DeadLetter {
        DeadLetter::new("why", (Topic::Goals, place.0, Some(place.1)), b"{}")
    }

    #[test]
    fn a_letter_finds_its_goal_by_partition_and_offset_whichever_comes_first() {
        let mut places = Places::default();
        let goal = |name: &str| GoalId::new(name).unwrap();
        assert_eq!(places.note((0, 5), goal("a")), None);
        assert_eq!(places.refuse(letter((1, 5))), None, "another partition");
        assert_eq!(places.refuse(letter((0, 5))), Some((goal("a"), "why".to_owned())));
        assert_eq!(places.note((1, 5), goal("b")), Some("why".to_owned()));
        assert_eq!(places.note((1, 5), goal("b")), None, "told once");
        places.forget(&[(0, 5)]);
        assert_eq!(places.refuse(letter((0, 5))), None);
    }

    #[test]
    fn letters_about_what_never_comes_are_bounded() {
        let mut places = Places::default();
        for offset in 0..=LETTERS_MAX as u64 {
            assert_eq!(places.refuse(letter((0, offset))), None);
        }
        assert_eq!(places.letters.len(), LETTERS_MAX);
        assert_eq!(places.note((0, 0), GoalId::new("first").unwrap()), None, "the oldest went");
    }
}
