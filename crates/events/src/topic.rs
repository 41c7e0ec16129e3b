//! The topics. Their names are an outside contract.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

macro_rules! topics {
    ($($(#[doc = $doc:literal])* $name:ident = $code:literal, $text:literal;)*) => {
        /// A topic. The number is its code in the embedded log and never changes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[repr(u8)]
        #[serde(try_from = "String", into = "&'static str")]
        pub enum Topic {
            $($(#[doc = $doc])* $name = $code,)*
        }

        impl Topic {
            /// Every topic there is.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name without prefix.
            pub const fn short_name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The name on a cluster.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => concat!("kintsugi.", $text),)* }
            }

            /// What it carries, in one line.
            pub const fn about(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),*).trim_ascii(),)* }
            }

            /// The topic with this code.
            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }
        }
    };
}

topics! {
    /// Goals in.
    Goals = 0, "goals";
    /// Goals that ended.
    Results = 1, "results";
    /// The journal of every agent: the only source of its state.
    Agents = 2, "agents";
    /// One event a step with all self-metrics and the health score.
    Metrics = 3, "metrics";
    /// What deviated.
    Anomalies = 4, "anomalies";
    /// What is wrong, and why.
    Diagnoses = 5, "diagnoses";
    /// What is done about it, and whether it helped.
    Recoveries = 6, "recoveries";
    /// What a person was asked, and what they said.
    Approvals = 7, "approvals";
    /// Folded states; only the newest per key counts.
    Snapshots = 8, "snapshots";
    /// Input that could not be taken.
    DeadLetters = 9, "dead-letters";
    /// What was broken on purpose. No stage reads it.
    Faults = 10, "faults";
}

impl Topic {
    /// The code in the embedded log.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Whether only the newest record of a key has to be kept.
    pub const fn is_compacted(self) -> bool {
        matches!(self, Self::Snapshots)
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a text names no topic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no topic {text:?}; topics are {}", Topic::ALL.iter().map(|topic| topic.short_name()).collect::<Vec<_>>().join(", "))]
pub struct UnknownTopicError {
    text: String,
}

impl FromStr for Topic {
    type Err = UnknownTopicError;

    /// Takes the name with or without prefix.
    fn from_str(text: &str) -> Result<Self, UnknownTopicError> {
        let bare = text.strip_prefix("kintsugi.").unwrap_or(text);
        Self::ALL
            .iter()
            .copied()
            .find(|topic| topic.short_name() == bare)
            .ok_or_else(|| UnknownTopicError { text: text.to_owned() })
    }
}

impl TryFrom<String> for Topic {
    type Error = UnknownTopicError;

    fn try_from(text: String) -> Result<Self, UnknownTopicError> {
        text.parse()
    }
}

impl From<Topic> for &'static str {
    fn from(topic: Topic) -> Self {
        topic.name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_is_found_by_its_code_and_by_both_names() {
        for topic in Topic::ALL {
            assert_eq!(Topic::from_code(topic.code()), Some(*topic));
            assert_eq!(topic.name().parse(), Ok(*topic));
            assert_eq!(topic.short_name().parse(), Ok(*topic));
        }
        assert!("kintsugi.nope".parse::<Topic>().is_err());
    }
}
