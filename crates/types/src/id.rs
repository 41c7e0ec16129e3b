//! Ids that the system makes: newtypes over UUIDv7 (RFC 9562), printed with a prefix that says what they name.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// Where new ids come from, so that a replay or a simulation can hand out the ones it wants.
pub trait IdSource {
    /// A fresh UUIDv7. Two calls never return the same value.
    fn next_uuid(&mut self) -> Uuid;
}

/// Ids from the system's clock and random source.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemIds;

impl IdSource for SystemIds {
    #[expect(clippy::disallowed_methods, reason = "the one home of fresh ids")]
    fn next_uuid(&mut self) -> Uuid {
        Uuid::now_v7()
    }
}

/// Ids that depend on a seed alone, for tests and simulation: valid UUIDv7 in ascending order.
#[derive(Debug, Clone)]
pub struct SeededIds {
    state: u64,
    count: u64,
}

impl SeededIds {
    /// Starts the sequence that belongs to `seed`.
    pub fn new(seed: u64) -> Self {
        Self { state: seed, count: 0 }
    }
}

impl IdSource for SeededIds {
    fn next_uuid(&mut self) -> Uuid {
        self.count += 1;
        self.state = mix64(self.state);
        let low = self.state.to_be_bytes();
        let mut random = [0u8; 10];
        for (place, byte) in random.iter_mut().zip(low.iter().chain(self.count.to_be_bytes().iter().skip(6)))
        {
            *place = *byte;
        }
        uuid::Builder::from_unix_timestamp_millis(self.count, &random).into_uuid()
    }
}

/// Ids that follow from one earlier id: whoever derives again gets the same ones.
///
/// A stage that writes events because of an event takes their ids from here, so that what it writes again after a
/// crash is recognised as the same.
#[derive(Debug, Clone)]
pub struct DerivedIds {
    cause: Uuid,
    salt: u64,
    count: u64,
}

impl DerivedIds {
    /// Ids that follow from `cause`, different for each `purpose`.
    pub fn new(cause: Uuid, purpose: &str) -> Self {
        // FNV-1a (Fowler, Noll, Vo): a purpose is a short constant.
        let salt = purpose.bytes().fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
        });
        Self { cause, salt, count: 0 }
    }
}

impl IdSource for DerivedIds {
    fn next_uuid(&mut self) -> Uuid {
        self.count += 1;
        let (high, low) = self.cause.as_u64_pair();
        let first = mix64(low ^ mix64(self.salt.wrapping_add(self.count)));
        let second = mix64(first ^ high);
        let mut random = [0u8; 10];
        let drawn = first.to_be_bytes().into_iter().chain(second.to_be_bytes());
        for (place, byte) in random.iter_mut().zip(drawn) {
            *place = byte;
        }
        // The cause's time is kept, so that ids still sort by when things happened.
        uuid::Builder::from_unix_timestamp_millis(high >> 16, &random).into_uuid()
    }
}

/// One round of `SplitMix64` (Steele, Lea, Flood 2014).
const fn mix64(value: u64) -> u64 {
    let mut mixed = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// Why a text is not an id of the expected type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an id of the form {prefix}_<uuid>")]
pub struct ParseIdError {
    text: String,
    prefix: &'static str,
}

macro_rules! prefixed_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Uuid);

        impl $name {
            /// The prefix that a printed id of this type begins with.
            pub const PREFIX: &'static str = $prefix;

            /// A fresh id.
            pub fn new(ids: &mut dyn IdSource) -> Self {
                Self(ids.next_uuid())
            }

            /// The id that wraps `uuid`.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The bare UUID.
            pub const fn as_uuid(&self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}_{}", $prefix, self.0.as_simple())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                text.strip_prefix(concat!($prefix, "_"))
                    .and_then(|bare| Uuid::try_parse(bare).ok())
                    .map(Self)
                    .ok_or_else(|| ParseIdError { text: text.to_owned(), prefix: $prefix })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string",
                    "pattern": concat!("^", $prefix, "_[0-9a-f]{32}$"),
                })
            }
        }
    };
}

prefixed_id!(
    /// Names one event, whatever its topic.
    EventId, "evt"
);
prefixed_id!(
    /// Names one effect: an inference or a tool call. Stays the same over retries and crashes.
    EffectId, "eff"
);
prefixed_id!(
    /// Names one anomaly.
    AnomalyId, "ano"
);
prefixed_id!(
    /// Names one diagnosis.
    DiagnosisId, "dia"
);
prefixed_id!(
    /// Names one recovery over all its phases.
    RecoveryId, "rec"
);
prefixed_id!(
    /// Names one lease on the model.
    LeaseId, "lea"
);
prefixed_id!(
    /// Names one `run` of an example.
    RunId, "run"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_id_parses_back_and_refuses_another_prefix() {
        let effect = EffectId::new(&mut SeededIds::new(7));
        assert_eq!(effect.to_string().parse::<EffectId>(), Ok(effect));
        assert!(effect.to_string().parse::<EventId>().is_err());
    }

    #[test]
    fn derived_ids_follow_from_cause_and_purpose_alone() {
        let cause = SeededIds::new(1).next_uuid();
        let draw = |purpose| {
            let mut ids = DerivedIds::new(cause, purpose);
            [ids.next_uuid(), ids.next_uuid()]
        };
        assert_eq!(draw("monitor"), draw("monitor"));
        let [first, second] = draw("monitor");
        assert_ne!(first, second);
        assert_ne!(draw("monitor"), draw("diagnose"));
        assert_eq!(first.get_version_num(), 7);
    }

    #[test]
    fn seeded_ids_repeat_for_a_seed_and_never_within_it() {
        let draw = |seed| {
            let mut ids = SeededIds::new(seed);
            (0..1000).map(|_| ids.next_uuid()).collect::<Vec<_>>()
        };
        assert_eq!(draw(3), draw(3));
        let mut sorted = draw(3);
        sorted.dedup();
        assert_eq!(sorted.len(), 1000);
        assert_ne!(draw(3), draw(4));
        assert_eq!(draw(3).first().map(Uuid::get_version_num), Some(7));
    }
}
