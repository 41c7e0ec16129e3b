//! The settings of the smaller model, and how the memory is divided.

use kintsugi_types::ByteCount;
use serde::{Deserialize, Serialize};

use super::ModelSettings;

/// A second, smaller model, which answers agents on lighter work. It has a part of the model's memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SmallerSettings {
    /// A GGUF file, or the name of a shipped or pulled model. Without one there is no smaller model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// Its part of `model.memory_budget` and of `model.host_memory`; the main model has the rest.
    pub(crate) memory_share: f64,
}

impl SmallerSettings {
    /// Whether nothing was said about one.
    pub(super) fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for SmallerSettings {
    fn default() -> Self {
        Self { name: None, memory_share: 0.25 }
    }
}

impl ModelSettings {
    /// The models, in words.
    pub(crate) fn named(&self) -> String {
        let smaller = self.smaller.name.as_ref().map_or_else(String::new, |name| format!(" and {name}"));
        format!("{}{smaller}", self.name)
    }

    /// The part of `bytes` that the main model has, and the smaller one's. Together they are no more than `bytes`.
    pub(crate) fn shared_out(&self, bytes: ByteCount) -> (ByteCount, ByteCount) {
        if self.smaller.name.is_none() {
            return (bytes, ByteCount(0));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a part of a number of bytes, rounded down"
        )]
        let of_smaller = ((bytes.bytes() as f64 * self.smaller.memory_share) as u64).min(bytes.bytes());
        (ByteCount(bytes.bytes() - of_smaller), ByteCount(of_smaller))
    }
}
