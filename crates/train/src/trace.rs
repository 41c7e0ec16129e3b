//! Traces as token sequences: the format that the shipped model is trained on and prompted in.
//!
//! Every message is its role's control token and its content; a decision ends with `<|end|>`:
//! `<|system|>…<|user|>…<|assistant|>…<|end|><|tool|>…<|assistant|>…<|end|>`.

use std::ops::Range;

use kintsugi_types::Message;

use crate::vocabulary::{ASSISTANT, END, Encoder, SYSTEM, TOOL, USER};

/// The chat template of that format, as the GGUF file carries it.
pub const CHAT_TEMPLATE: &str = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\
    {% if m.role == 'assistant' %}<|end|>{% endif %}{% endfor %}\
    {% if add_generation_prompt %}<|assistant|>{% endif %}";

/// How much the loss of a token counts, by who says it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weights {
    /// What the model is trained to say.
    pub decision: f32,
    /// The goal: predicting it teaches what words go together.
    pub goal: f32,
    /// Observations.
    pub observation: f32,
}

impl Weights {
    /// Only what an evaluation looks at.
    pub const DECISIONS: Self = Self { decision: 1.0, goal: 0.0, observation: 0.0 };
}

/// One episode after its system message.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Document {
    /// Ids from `<|user|>` to the last `<|end|>`.
    pub tokens: Vec<u32>,
    /// The weight of predicting each.
    pub weights: Vec<f32>,
    /// Where the decisions stand, without `<|assistant|>`, with `<|end|>`.
    pub decisions: Vec<Range<usize>>,
}

/// Ids of the system message that documents of a kind share.
pub fn prefix(encoder: &Encoder, system: &Message) -> anyhow::Result<Vec<u32>> {
    let mut tokens = vec![SYSTEM];
    tokens.extend(encoder.encode(&system.content)?);
    Ok(tokens)
}

/// Renders a goal (its message's content as ids) and what followed: decisions (as `decision_text` writes them), each with what the tool answered.
pub fn document<'a>(
    encoder: &Encoder,
    goal: &[u32],
    steps: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
    weights: Weights,
) -> anyhow::Result<Document> {
    let mut document = Document::default();
    let mut push = |control: u32, content: &[u32], weight: f32| -> Range<usize> {
        document.tokens.push(control);
        document.weights.push(0.0);
        let start = document.tokens.len();
        document.tokens.extend(content);
        document.weights.resize(document.tokens.len(), weight);
        start..document.tokens.len()
    };
    push(USER, goal, weights.goal);
    let mut decisions = Vec::new();
    for (decision, observation) in steps {
        let said = push(ASSISTANT, &encoder.encode(decision)?, weights.decision);
        decisions.push(said.start..said.end + 1);
        // `<|end|>` is part of what the model says; `push` gives a control token no weight.
        push(END, &[], 0.0);
        if let Some(observation) = observation {
            push(TOOL, &encoder.encode(observation)?, weights.observation);
        }
    }
    for decision in &decisions {
        if let Some(weight) = document.weights.get_mut(decision.end - 1) {
            *weight = weights.decision;
        }
    }
    document.decisions = decisions;
    Ok(document)
}
