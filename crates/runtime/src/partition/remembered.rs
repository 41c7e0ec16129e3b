//! Whether the model is shown what the agent's journal folds to.

use kintsugi_types::Message;

/// A conversation as the journal has it: one hash a message.
pub(super) struct Remembered(Vec<blake3::Hash>);

impl Remembered {
    /// Remembers these messages.
    pub(super) fn of(messages: &[Message]) -> Self {
        Self(messages.iter().map(hash).collect())
    }

    /// How many of `messages` are others, are missing, or are too many.
    pub(super) fn differing(&self, messages: &[Message]) -> usize {
        let others = self.0.iter().zip(messages).filter(|(was, is)| **was != hash(is)).count();
        others + self.0.len().abs_diff(messages.len())
    }
}

fn hash(message: &Message) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[message.role as u8]);
    hasher.update(message.content.as_bytes());
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use kintsugi_types::Role;

    use super::*;

    #[test]
    fn each_turn_that_is_another_or_missing_is_counted() {
        let told = |text: &str| Message::new(Role::Tool, text.to_owned());
        let remembered = Remembered::of(&[told("order 10482"), told("59.95"), told("delivered")]);
        assert_eq!(remembered.differing(&[told("order 10482"), told("59.95"), told("delivered")]), 0);
        assert_eq!(remembered.differing(&[told("order 10482"), told("59.94"), told("delivered")]), 1);
        assert_eq!(remembered.differing(&[told("order 80482"), told("59.94")]), 3);
        let said = Message::new(Role::Assistant, "order 10482".to_owned());
        assert_eq!(remembered.differing(&[said, told("59.95"), told("delivered")]), 1);
    }
}
