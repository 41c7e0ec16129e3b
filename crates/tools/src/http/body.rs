//! A JSON body with places for parameters.

use serde_json::{Map, Value};

use crate::binding::{Bindings, Template};
use crate::error::{LoadError, ToolError};
use crate::tool::ToolCall;

/// A JSON document whose strings are templates.
#[derive(Debug, Clone)]
pub(super) enum BodyTemplate {
    Fixed(Value),
    Text(Template),
    Array(Vec<Self>),
    Object(Vec<(String, Self)>),
}

impl BodyTemplate {
    /// Reads `value`; `error` makes an error for the path of a member.
    pub(super) fn parse(
        value: &Value,
        path: &str,
        bindings: &Bindings,
        error: &dyn Fn(&str, String, Option<String>) -> LoadError,
    ) -> Result<Self, LoadError> {
        match value {
            Value::String(text) => {
                Template::parse(text, bindings, |problem, hint| error(path, problem, hint)).map(Self::Text)
            }
            Value::Array(items) => {
                let items = items.iter().enumerate();
                let items = items
                    .map(|(index, item)| Self::parse(item, &format!("{path}[{index}]"), bindings, error));
                items.collect::<Result<_, _>>().map(Self::Array)
            }
            Value::Object(members) => {
                let member = |(name, value): (&String, &Value)| {
                    Ok((name.clone(), Self::parse(value, &format!("{path}.{name}"), bindings, error)?))
                };
                members.iter().map(member).collect::<Result<_, _>>().map(Self::Object)
            }
            other => Ok(Self::Fixed(other.clone())),
        }
    }

    /// The body for `call`. A string that is nothing but one place becomes the value itself, whatever its type, and
    /// a member without value is left out.
    pub(super) fn render(&self, call: &ToolCall) -> Result<String, ToolError> {
        Ok(self.value(call)?.to_string())
    }

    fn value(&self, call: &ToolCall) -> Result<Value, ToolError> {
        match self {
            Self::Fixed(value) => Ok(value.clone()),
            Self::Text(template) => match template.sole_place() {
                Some(source) => source.value(call),
                None => template.render(call, str::to_owned).map(Value::String),
            },
            Self::Array(items) => items.iter().map(|item| item.value(call)).collect(),
            Self::Object(members) => {
                let mut object = Map::new();
                for (name, member) in members {
                    let value = member.value(call)?;
                    if !value.is_null() || matches!(member, Self::Fixed(_)) {
                        object.insert(name.clone(), value);
                    }
                }
                Ok(Value::Object(object))
            }
        }
    }
}
