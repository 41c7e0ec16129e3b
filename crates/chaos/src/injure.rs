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

/// How many digits a text has that [`with_another_digit`] may change.
pub fn digits(text: &str) -> usize {
    text.bytes().filter(u8::is_ascii_digit).count()
}

/// A text whose digit number `place`, from 0, is another: 0 for 9, 1 for 8 and so on. As it is where there is none.
pub fn with_another_digit(text: &str, place: usize) -> String {
    let mut before = 0;
    let mut alter = |letter: char| {
        let digit = letter.to_digit(10)?;
        before += 1;
        if before == place + 1 { char::from_digit(9 - digit, 10) } else { None }
    };
    text.chars().map(|letter| alter(letter).unwrap_or(letter)).collect()
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

    #[test]
    fn one_digit_and_nothing_else_becomes_another() {
        let text = r#"{"ordér":10482,"total":59.95}"#;
        assert_eq!(digits(text), 9);
        assert_eq!(with_another_digit(text, 0), r#"{"ordér":80482,"total":59.95}"#);
        assert_eq!(with_another_digit(text, 8), r#"{"ordér":10482,"total":59.94}"#);
        assert_eq!(with_another_digit(text, 9), text);
        for place in 0..9 {
            let altered = with_another_digit(text, place);
            assert_eq!(text.chars().zip(altered.chars()).filter(|(was, is)| was != is).count(), 1);
        }
    }
}
