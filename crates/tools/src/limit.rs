//! Answers kept within their limit.

use std::fmt::{self, Write};

use crate::tool::ToolOutput;

/// A text that takes no more than a limit and remembers that it was full. Writing past the limit fails, so that a
/// serializer that writes into it stops there.
pub(crate) struct BoundedText {
    text: String,
    bytes_max: usize,
    overflowed: bool,
}

impl BoundedText {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { text: String::new(), bytes_max, overflowed: false }
    }

    pub(crate) fn into_output(self) -> ToolOutput {
        let Self { mut text, bytes_max, overflowed } = self;
        if overflowed {
            // Writing to a String cannot fail.
            let _ = write!(text, "… [truncated at {bytes_max} bytes]");
        }
        ToolOutput { text, truncated: overflowed }
    }
}

impl fmt::Write for BoundedText {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let room = self.bytes_max - self.text.len();
        if part.len() <= room && !self.overflowed {
            self.text.push_str(part);
            return Ok(());
        }
        if !self.overflowed {
            self.overflowed = true;
            self.text.push_str(part.get(..part.floor_char_boundary(room)).unwrap_or_default());
        }
        Err(fmt::Error)
    }
}

/// `text` within `bytes_max`.
pub(crate) fn bounded(text: &str, bytes_max: usize) -> ToolOutput {
    let mut bounded = BoundedText::new(bytes_max);
    // An overflow is remembered by the text itself.
    let _ = bounded.write_str(text);
    bounded.into_output()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_the_limit_passes_and_one_byte_more_is_cut_and_said_so() {
        assert_eq!(bounded("abcd", 4), ToolOutput { text: "abcd".into(), truncated: false });
        assert_eq!(
            bounded("abcde", 4),
            ToolOutput { text: "abcd… [truncated at 4 bytes]".into(), truncated: true }
        );
    }

    #[test]
    fn a_character_is_never_split() {
        assert_eq!(bounded("aé", 2).text, "a… [truncated at 2 bytes]");
    }

    #[test]
    fn nothing_is_taken_after_an_overflow() {
        let mut text = BoundedText::new(3);
        assert!(text.write_str("abcd").is_err());
        assert!(text.write_str("").is_err());
        assert_eq!(text.into_output().text, "abc… [truncated at 3 bytes]");
    }
}
