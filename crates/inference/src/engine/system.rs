//! Where the system prompt of a prompt ends.

use std::collections::VecDeque;

use kintsugi_types::{Message, Role};

use crate::chat::ChatTemplate;
use crate::tokenizer::Tokenizer;

/// How many system prompts are remembered; the one that was met first makes room. There is one for each kind of agent.
const REMEMBERED_MAX: usize = 64;

/// The tokens of system prompts that were met, so that each is rendered once.
#[derive(Debug, Default)]
pub(super) struct SystemPrompts {
    met: VecDeque<(Vec<Message>, Vec<u32>)>,
}

impl SystemPrompts {
    /// How many of `prompt`'s first tokens are those of the leading system messages of `messages`.
    pub(super) fn tokens_in(
        &mut self,
        prompt: &[u32],
        messages: &[Message],
        template: &ChatTemplate,
        tokenizer: &Tokenizer,
    ) -> usize {
        let count = messages.iter().take_while(|message| message.role == Role::System).count();
        let system = messages.get(..count).unwrap_or_default();
        if system.is_empty() {
            return 0;
        }
        if let Some((_, tokens)) = self.met.iter().find(|(met, _)| met == system) {
            return common_prefix(tokens, prompt);
        }
        // A template that refuses them by themselves leaves nothing to share with everybody.
        let tokens = template.render(system, false, tokenizer).unwrap_or_default();
        let common = common_prefix(&tokens, prompt);
        if self.met.len() >= REMEMBERED_MAX {
            self.met.pop_front();
        }
        self.met.push_back((system.to_vec(), tokens));
        common
    }
}

/// A template may lay messages out in another way when others follow, so what is common is counted.
fn common_prefix(system: &[u32], prompt: &[u32]) -> usize {
    system.iter().zip(prompt).take_while(|(one, other)| one == other).count()
}
