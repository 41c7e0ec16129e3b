//! A map that forgets whom it has not seen for longest.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// A map of at most a given number of entries.
///
/// At the bound the eighth of the entries that was not seen for longest is forgotten at once, so that finding them
/// costs little over many insertions. Whoever was forgotten begins anew.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(bound(deserialize = "K: Ord + Deserialize<'de>, V: Deserialize<'de>"))]
pub struct Bounded<K: Ord, V> {
    entries: BTreeMap<K, Seen<V>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Seen<V> {
    at: Timestamp,
    value: V,
}

impl<K: Ord, V> Default for Bounded<K, V> {
    fn default() -> Self {
        Self { entries: BTreeMap::new() }
    }
}

impl<K: Ord + Clone, V> Bounded<K, V> {
    /// The value of `key`, seen now; made by `make` where there is none.
    pub fn touch(&mut self, key: &K, now: Timestamp, entries_max: usize, make: impl FnOnce() -> V) -> &mut V {
        if self.entries.len() >= entries_max && !self.entries.contains_key(key) {
            self.forget_oldest(entries_max);
        }
        let seen = self.entries.entry(key.clone()).or_insert_with(|| Seen { at: now, value: make() });
        seen.at = seen.at.max(now);
        &mut seen.value
    }

    /// The value of `key`, without having seen it.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|seen| &seen.value)
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn forget_oldest(&mut self, entries_max: usize) {
        let kept = entries_max - entries_max.div_ceil(8);
        let surplus = self.entries.len().saturating_sub(kept);
        let mut times: Vec<Timestamp> = self.entries.values().map(|seen| seen.at).collect();
        times.sort_unstable();
        let Some(newest_forgotten) = surplus.checked_sub(1).and_then(|last| times.get(last)).copied() else {
            return;
        };
        // Entries of one instant go in the order of their keys, and no more of them than needed.
        let mut left = surplus;
        self.entries.retain(|_, seen| {
            let forget = left > 0 && seen.at <= newest_forgotten;
            left -= usize::from(forget);
            !forget
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unseen_are_forgotten_at_the_bound() {
        let at = |second| Timestamp::from_timestamp_secs(second).unwrap();
        let mut map = Bounded::default();
        for key in 0..16_i64 {
            *map.touch(&key, at(key), 16, || 0) = key;
        }
        map.touch(&0, at(100), 16, || -1);
        map.touch(&99, at(101), 16, || 99);
        assert_eq!(map.len(), 15);
        assert_eq!((map.get(&0), map.get(&1), map.get(&2), map.get(&3)), (Some(&0), None, None, Some(&3)));
        let copy: Bounded<i64, i64> = serde_json::from_str(&serde_json::to_string(&map).unwrap()).unwrap();
        assert_eq!(copy, map);
    }
}
