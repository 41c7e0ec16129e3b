//! Text out of a stream of tokens whose borders may lie inside characters.

/// Collects bytes and hands out text as soon as it is whole.
#[derive(Debug, Default, Clone)]
pub struct Utf8Decoder {
    pending: Vec<u8>,
}

impl Utf8Decoder {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the bytes of the next token and returns the text that is complete with them. Bytes that can never
    /// become UTF-8 come out as replacement characters; at most three bytes are held back.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.pending) {
                Ok(whole) => {
                    text.push_str(whole);
                    self.pending.clear();
                    return text;
                }
                Err(error) => {
                    let valid: Vec<u8> = self.pending.drain(..error.valid_up_to()).collect();
                    text.push_str(&String::from_utf8_lossy(&valid));
                    let Some(broken) = error.error_len() else { return text };
                    self.pending.drain(..broken);
                    text.push(char::REPLACEMENT_CHARACTER);
                }
            }
        }
    }

    /// What is left at the end of the stream: a replacement character for a character that never became whole.
    pub fn finish(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_cut_by_token_borders_comes_out_once_it_is_whole() {
        let mut decoder = Utf8Decoder::new();
        let bytes = "a€😀".as_bytes();
        let pieces: Vec<String> = bytes.iter().map(|byte| decoder.push(&[*byte])).collect();
        assert_eq!(pieces, ["a", "", "", "€", "", "", "", "😀"]);
        assert_eq!(decoder.finish(), "");
    }

    #[test]
    fn broken_bytes_become_replacement_characters_and_hold_nothing_up() {
        let mut decoder = Utf8Decoder::new();
        assert_eq!(decoder.push(b"\xFFok\xE2\x82"), "\u{FFFD}ok");
        assert_eq!(decoder.push(b"x"), "\u{FFFD}x");
        assert_eq!(decoder.push(b"\xF0\x9F"), "");
        assert_eq!(decoder.finish(), "\u{FFFD}");
    }
}
