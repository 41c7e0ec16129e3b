//! Names that people choose: agents, goals, tenants, tools, models. Cheap to clone, checked when made.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest name that is taken, in bytes.
pub const NAME_BYTES_MAX: usize = 256;

/// Why a text cannot be a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("{what} is empty")]
    Empty {
        /// What kind of name was wanted.
        what: &'static str,
    },
    /// The text is longer than [`NAME_BYTES_MAX`].
    #[error("{what} has {bytes} bytes, at most {NAME_BYTES_MAX} are allowed")]
    TooLong {
        /// What kind of name was wanted.
        what: &'static str,
        /// How long it was.
        bytes: usize,
    },
    /// The text holds a control character.
    #[error("{what} {text:?} holds a control character")]
    Control {
        /// What kind of name was wanted.
        what: &'static str,
        /// The text.
        text: String,
    },
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and wraps `text`: 1 to [`NAME_BYTES_MAX`] bytes without control characters.
            pub fn new(text: impl AsRef<str>) -> Result<Self, NameError> {
                let text = text.as_ref();
                if text.is_empty() {
                    return Err(NameError::Empty { what: $what });
                }
                if text.len() > NAME_BYTES_MAX {
                    return Err(NameError::TooLong { what: $what, bytes: text.len() });
                }
                if text.chars().any(char::is_control) {
                    return Err(NameError::Control { what: $what, text: text.to_owned() });
                }
                Ok(Self(text.into()))
            }

            /// The name's text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::new(text).map_err(serde::de::Error::custom)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({"type": "string", "minLength": 1, "maxLength": NAME_BYTES_MAX})
            }
        }
    };
}

name!(
    /// An agent, for example `support-17`.
    AgentId, "agent id"
);
name!(
    /// The kind that agents share: their prompt, tools and limits.
    AgentKind, "agent kind"
);
name!(
    /// A goal, unique within its tenant (and its agent, where one is named).
    GoalId, "goal id"
);
name!(
    /// Whose goal it is.
    TenantId, "tenant"
);
name!(
    /// A tool.
    ToolName, "tool name"
);
name!(
    /// A model.
    ModelName, "model name"
);

impl Default for TenantId {
    fn default() -> Self {
        Self("default".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_refused_with_the_reason() {
        assert_eq!(AgentId::new(""), Err(NameError::Empty { what: "agent id" }));
        assert!(matches!(GoalId::new("a\nb"), Err(NameError::Control { .. })));
        assert!(matches!(ToolName::new("x".repeat(257)), Err(NameError::TooLong { bytes: 257, .. })));
        assert_eq!(ToolName::new("x".repeat(256)).map(|name| name.as_str().len()), Ok(256));
    }
}
