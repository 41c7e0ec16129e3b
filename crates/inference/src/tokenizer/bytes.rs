//! GPT-2's printable spelling of bytes: printable Latin-1 stands for itself, the other 68 bytes for U+0100 onwards
//! (<https://github.com/openai/gpt-2/blob/master/src/encoder.py>).

/// Whether `byte` is spelled as the character with its own number.
const fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// The character that spells `byte`.
pub(super) fn char_of_byte(byte: u8) -> char {
    if is_printable(byte) {
        return char::from(byte);
    }
    let others_before = (0..byte).filter(|other| !is_printable(*other)).count();
    u32::try_from(others_before)
        .ok()
        .and_then(|rank| char::from_u32(0x100 + rank))
        .unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// The byte that `spelling` stands for.
pub(super) fn byte_of_char(spelling: char) -> Option<u8> {
    match u32::from(spelling) {
        code @ 0..=0xFF => u8::try_from(code).ok().filter(|byte| is_printable(*byte)),
        code @ 0x100..=0x143 => {
            let rank = usize::try_from(code - 0x100).ok()?;
            (0..=255u8).filter(|byte| !is_printable(*byte)).nth(rank)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_spelling_of_its_own() {
        for byte in 0..=255u8 {
            assert_eq!(byte_of_char(char_of_byte(byte)), Some(byte));
        }
        assert_eq!(char_of_byte(b' '), 'Ġ');
        assert_eq!(char_of_byte(b'\n'), 'Ċ');
        assert_eq!(byte_of_char('\u{144}'), None);
    }
}
