//! Where the named parameters of a statement or template get their values from.

use serde_json::Value;

use crate::document::{Section, did_you_mean};
use crate::error::{LoadError, ToolError};
use crate::tool::ToolCall;

/// The parameter that is the effect's id in every tool.
const EFFECT: &str = "effect";

/// How a binding names a member of the goal's input.
const INPUT_PREFIX: &str = "goal.input.";

/// Where one parameter's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// The model's argument of this name; null where an optional one was left out.
    Argument(String),
    /// The member of this name of the goal's input. The model neither sees nor sets it.
    Input(String),
    /// The effect's id.
    Effect,
}

/// All parameters that a tool's statements may use.
#[derive(Debug, Clone)]
pub(crate) struct Bindings {
    sources: Vec<(String, Source)>,
}

impl Bindings {
    /// The effect's id alone.
    pub(crate) fn effect_only() -> Self {
        Self { sources: vec![(EFFECT.to_owned(), Source::Effect)] }
    }

    /// Those of the arguments that `parameters` (a JSON Schema) names and of the table `bind`.
    pub(crate) fn read(declaration: &Section, parameters: &Value) -> Result<Self, LoadError> {
        let Self { mut sources } = Self::effect_only();
        let arguments = parameters.get("properties").and_then(Value::as_object);
        for name in arguments.into_iter().flat_map(|arguments| arguments.keys()) {
            if name == EFFECT {
                let key = format!("parameters.properties.{name}");
                return Err(declaration.error(&key, "is a reserved name: it is the effect's id"));
            }
            sources.push((name.clone(), Source::Argument(name.clone())));
        }
        if let Some(bind) = declaration.optional_section("bind")? {
            for (name, path) in bind.texts()? {
                if sources.iter().any(|(taken, _)| taken == name) {
                    return Err(
                        bind.error(name, "is also an argument; what is bound cannot be given by the model")
                    );
                }
                let member =
                    path.strip_prefix(INPUT_PREFIX).filter(|member| !member.is_empty()).ok_or_else(|| {
                        bind.error(name, format!("must be `{INPUT_PREFIX}<member>`, not `{path}`"))
                    })?;
                sources.push((name.to_owned(), Source::Input(member.to_owned())));
            }
        }
        Ok(Self { sources })
    }

    /// The source of `name`; otherwise what to say about it.
    pub(crate) fn source(&self, name: &str) -> Result<&Source, (String, Option<String>)> {
        let found = self.sources.iter().find(|(known, _)| known == name).map(|(_, source)| source);
        found.ok_or_else(|| {
            let hint = did_you_mean(name, self.sources.iter().map(|(known, _)| known.as_str()));
            (format!("uses the parameter `{name}`, which is neither an argument nor bound"), hint)
        })
    }
}

impl Source {
    /// The value for `call`.
    pub(crate) fn value(&self, call: &ToolCall) -> Result<Value, ToolError> {
        match self {
            Self::Argument(name) => Ok(call.args.get(name).cloned().unwrap_or(Value::Null)),
            Self::Input(member) => call.goal_input.get(member).cloned().ok_or_else(|| {
                ToolError::recoverable(
                    "missing_input",
                    format!("this goal has no input `{member}`, which is needed"),
                )
            }),
            Self::Effect => Ok(Value::String(call.effect.to_string())),
        }
    }
}

/// A value as it stands within a text.
pub(crate) fn plain_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// A text with `{parameter}` places, checked when it is made.
#[derive(Debug, Clone)]
pub(crate) struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone)]
enum Part {
    Text(String),
    Place(Source),
}

impl Template {
    /// Reads `text`, whose places must all be known to `bindings`. A brace stands for itself when doubled.
    pub(crate) fn parse(
        text: &str,
        bindings: &Bindings,
        error: impl Fn(String, Option<String>) -> LoadError,
    ) -> Result<Self, LoadError> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, brace_on) = rest.split_at(at);
            plain.push_str(before);
            if let Some(after) = brace_on.strip_prefix("{{") {
                plain.push('{');
                rest = after;
            } else if let Some(after) = brace_on.strip_prefix("}}") {
                plain.push('}');
                rest = after;
            } else if let Some((name, after)) =
                brace_on.strip_prefix('{').and_then(|rest| rest.split_once('}'))
            {
                let source = bindings.source(name).map_err(|(problem, hint)| error(problem, hint))?;
                parts.push(Part::Text(std::mem::take(&mut plain)));
                parts.push(Part::Place(source.clone()));
                rest = after;
            } else {
                return Err(error(
                    "has a brace without its partner (write it twice to mean itself)".into(),
                    None,
                ));
            }
        }
        plain.push_str(rest);
        parts.push(Part::Text(plain));
        Ok(Self { parts })
    }

    /// The one source that the text consists of, where there is nothing around it.
    pub(crate) fn sole_place(&self) -> Option<&Source> {
        let mut places =
            self.parts.iter().filter(|part| !matches!(part, Part::Text(text) if text.is_empty()));
        match (places.next(), places.next()) {
            (Some(Part::Place(source)), None) => Some(source),
            _ => None,
        }
    }

    /// The sources of all places.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &Source> {
        self.parts.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Place(source) => Some(source),
        })
    }

    /// The text before the first place.
    pub(crate) fn head(&self) -> &str {
        match self.parts.first() {
            Some(Part::Text(text)) => text,
            _ => "",
        }
    }

    /// The text for `call`, each value passed through `encode`.
    pub(crate) fn render(
        &self,
        call: &ToolCall,
        encode: impl Fn(&str) -> String,
    ) -> Result<String, ToolError> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Place(source) => text.push_str(&encode(&plain_text(&source.value(call)?))),
            }
        }
        Ok(text)
    }
}
