//! The model card, written from the figures of an evaluation.

use std::fmt::Write as _;

use crate::evaluation::{BINS, Evaluation, Score};
use crate::model::Layout;

/// How the shipped file was made.
pub const RECIPE: &str = "Three runs on two cores that other programs used as well. The first, of 10,250 steps in 72 \
    minutes, saw the training split as it was with 2,335 tickets in the bank. The others saw all that is there for \
    training now, each from the parameters of the one before: `cargo run --release -p kintsugi-train -- train --from \
    FIRST --rate 0.0008 --steps 6000 --out SECOND` (up to step 2,356 with `--steps 5000`), then `--from SECOND --rate \
    0.0003 --steps 1400 --seed 2`.";

/// What became of the shipped file in another engine, by hand.
pub const ELSEWHERE: &str = "It loads in llama.cpp too: of the first 300 held-out decisions, asked \
    for after the oracle's steps, greedily and without the grammar, llama.cpp (node-llama-cpp 3.22.1, on \
    the processor) counted the same prompt tokens in all and wrote the same answer letter by letter in \
    292; in the other 8 it chose the same tool and other words. Checked once, by hand.";

/// What the card tells besides the figures.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The sizes.
    pub layout: &'a Layout,
    /// Size of the file, in bytes.
    pub file_bytes: u64,
    /// Which tickets the figures are about: a heading, and a sentence's beginning that describes them.
    pub tickets: (&'a str, &'a str),
    /// How the file was trained.
    pub recipe: &'a str,
    /// What became of the file in another engine.
    pub elsewhere: &'a str,
    /// How the figures were made, as a command.
    pub evaluation_command: &'a str,
}

fn percent(part: usize, whole: usize) -> String {
    format!("{:.1} %", 100.0 * part as f64 / whole.max(1) as f64)
}

fn row(name: &str, score: &Score) -> String {
    format!(
        "| {name} | {} | {} | {} | {} |\n",
        score.episodes,
        percent(score.right_episodes, score.episodes),
        score.decisions,
        percent(score.right_decisions, score.decisions),
    )
}

/// The card as Markdown.
pub fn card(facts: &Facts<'_>, evaluation: &Evaluation) -> String {
    let shape = facts.layout.shape;
    let mut text = format!(
        "# kintsugi-nano\n\n\
         A decision model for the support desk in `examples/support-desk`: given the system message, a ticket and what \
         the tools said, it writes the next decision as JSON. Licence: Apache-2.0.\n\n\
         - Llama architecture, {:.2} million parameters, {} layers, width {}, {} query and {} key-value heads, \
         feed-forward width {}, context {} tokens, vocabulary {}.\n\
         - GGUF, matrices Q8_0, norms F32, {:.1} MB. llama.cpp's pre-tokenizer `smollm`, no beginning-of-text token, \
         chat template in the file. {}\n\
         - Trained from nothing on traces of the oracle over the training split of the ticket bank, and on no other \
         text. {}\n\n",
        facts.layout.len as f64 / 1e6,
        shape.layers,
        shape.width,
        shape.heads,
        shape.kv_heads,
        shape.ffn,
        shape.context,
        shape.vocabulary,
        facts.file_bytes as f64 / 1e6,
        facts.elsewhere,
        facts.recipe,
    );
    let _ = write!(
        text,
        "## {}\n\n\
         {}, greedy, with the grammar, through the engine that agents use: \
         `{}`. Episodes are rolled out: every decision is asked for with the model's own thoughts and actions before it. A \
         decision is right if it calls the right tool with the right arguments, or ends with an answer that says what \
         the goal expects. An episode is right if all its decisions are; it ends with its first wrong one, and decisions \
         that then no longer come are not counted.\n\n\
         | intent | episodes | right | decisions | right |\n|---|---|---|---|---|\n",
        facts.tickets.0, facts.tickets.1, facts.evaluation_command,
    );
    for (intent, score) in &evaluation.by_intent {
        text.push_str(&row(intent, score));
    }
    text.push_str(&row("**all**", &evaluation.total()));
    let _ = write!(
        text,
        "\n## Calibration\n\n\
         Confidence is the geometric mean of the probabilities of the tokens that the model had a choice about. \
         Expected calibration error over {BINS} intervals: {:.3}.\n\n\
         | confidence | decisions | mean confidence | right |\n|---|---|---|---|\n",
        evaluation.calibration_error(),
    );
    for (index, bin) in evaluation.bins.iter().enumerate().filter(|(_, bin)| bin.decisions > 0) {
        let bound = |index: usize| index as f64 / BINS as f64;
        let mean = bin.confidence / bin.decisions as f64;
        let right = percent(bin.right, bin.decisions);
        let _ = writeln!(
            text,
            "| {:.1} to {:.1} | {} | {mean:.3} | {right} |",
            bound(index),
            bound(index + 1),
            bin.decisions
        );
    }
    text.push_str(
        "\n## What it cannot do\n\n\
         It knows this one shop, its tools and fourteen kinds of ticket, in English. It does not hold a conversation, \
         does not know the world, and is of no use with other tools or prompts: train it anew for those. A ticket that \
         asks for two things at once gets one of them. Its answers repeat what tools said and are not checked for \
         anything else.\n",
    );
    text
}
