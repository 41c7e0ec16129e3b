//! JSON Schemas, compiled once.

use std::fmt::Write as _;

use jsonschema::Validator;
use serde_json::Value;

/// The most violations that one message names.
const VIOLATIONS_MAX: usize = 3;

#[derive(Debug)]
pub(crate) struct Schema {
    validator: Validator,
}

impl Schema {
    /// Compiles `schema`; says where it is wrong otherwise.
    pub(crate) fn compile(schema: &Value) -> Result<Self, String> {
        let validator = jsonschema::validator_for(schema).map_err(|error| {
            let place = error.instance_path().as_str().to_owned();
            let place = if place.is_empty() { String::new() } else { format!(" at {place}") };
            format!("is no valid JSON Schema{place}: {error}")
        })?;
        Ok(Self { validator })
    }

    /// Checks `value`; says where it is wrong otherwise.
    pub(crate) fn check(&self, value: &Value) -> Result<(), String> {
        if self.validator.is_valid(value) {
            return Ok(());
        }
        let mut message = String::new();
        for violation in self.validator.iter_errors(value).take(VIOLATIONS_MAX) {
            if !message.is_empty() {
                message.push_str("; ");
            }
            let place = violation.instance_path().as_str();
            // Writing to a String cannot fail.
            let _ = match place.strip_prefix('/') {
                Some(place) => write!(message, "{place}: {violation}"),
                None => write!(message, "{violation}"),
            };
        }
        Err(message)
    }
}
