//! What a fault does to an answer.

use kintsugi_events::FaultKind;
use serde_json::Value;

/// Bytes of noise that a bloated answer brings.
const NOISE_BYTES: usize = 16 * 1024;

/// The tool that a model makes up.
const INVENTED_TOOL: &str = "escalate_to_oracle";

/// What a tool says that fails by `kind`: a code and a text. `None` where it answers after all.
pub const fn tool_failure(kind: FaultKind) -> Option<(&'static str, &'static str)> {
    match kind {
        FaultKind::ToolTimeout => Some(("timeout", "the connection timed out before the request was sent")),
        FaultKind::ToolRateLimited => Some(("http_429", "429 Too Many Requests")),
        FaultKind::ToolError => Some(("http_500", "500 Internal Server Error")),
        FaultKind::ToolUnauthorized => Some(("http_401", "401 Unauthorized: the token has expired")),
        _ => None,
    }
}

/// A tool's answer with so much noise after it that it fills a context.
pub fn bloated(answer: &str) -> String {
    let mut text = String::with_capacity(answer.len() + NOISE_BYTES + 1);
    text.push_str(answer);
    while text.len() < answer.len() + NOISE_BYTES {
        text.push_str(" debug: cache miss, retrying upstream; trace 0x5f3759df;");
    }
    text
}

/// A model's output that breaks off after about two thirds.
pub fn broken_off(output: &str) -> String {
    let end = output.len() * 2 / 3;
    let end = (0..=end).rev().find(|end| output.is_char_boundary(*end)).unwrap_or(0);
    output.get(..end).unwrap_or_default().to_owned()
}

/// A model's output that calls a tool that does not exist; as it is where it is no JSON object.
pub fn with_invented_tool(output: &str) -> String {
    match serde_json::from_str::<Value>(output) {
        Ok(Value::Object(mut document)) => {
            document.insert("action".to_owned(), INVENTED_TOOL.into());
            Value::Object(document).to_string()
        }
        _ => output.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_injured_as_their_names_say() {
        let output = r#"{"thought":"é","action":"look","args":{}}"#;
        assert!(serde_json::from_str::<Value>(&broken_off(output)).is_err());
        let invented: Value = serde_json::from_str(&with_invented_tool(output)).unwrap();
        assert_eq!(invented.get("action"), Some(&Value::from(INVENTED_TOOL)));
        assert!(bloated("x").len() > NOISE_BYTES);
    }
}
