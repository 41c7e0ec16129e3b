//! Live progress: a bar on a terminal, plain lines when piped, nothing when quiet. Always on stderr.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use kintsugi_runtime::StatusSnapshot;

use crate::summary::{AgentCounts, Summary};
use crate::terminal::say;

/// How often a plain line is written.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// Where progress goes.
pub(crate) enum Progress {
    Quiet,
    Lines { of: Whole, last: Option<Instant> },
    Bar { of: Whole, bar: ProgressBar },
}

/// What progress is measured against.
pub(crate) struct Whole {
    goals: usize,
    agents: u64,
    started: Instant,
    /// Tokens that were generated until it was shown last.
    tokens: u64,
}

impl Progress {
    /// Progress over `goals` goals that `agents` agents work.
    pub(crate) fn new(goals: usize, agents: u32, is_quiet: bool) -> Self {
        if is_quiet {
            return Self::Quiet;
        }
        let of = Whole { goals, agents: agents.into(), started: Instant::now(), tokens: 0 };
        if !std::io::stderr().is_terminal() {
            return Self::Lines { of, last: None };
        }
        let bar = ProgressBar::new(goals as u64);
        let template = "{bar:30.yellow/dim} {pos}/{len} goals  {elapsed}  {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        Self::Bar { of, bar }
    }

    /// Shows how far the run is.
    pub(crate) fn show(&mut self, done: usize, status: &StatusSnapshot) {
        match self {
            Self::Quiet => {}
            Self::Bar { of, bar } => {
                for line in &status.seam_lines {
                    bar.println(format!("  seam  {line}"));
                }
                bar.set_message(of.words(done, status));
                bar.set_position(done as u64);
            }
            Self::Lines { of, last } => {
                for line in &status.seam_lines {
                    say(&format!("seam  {line}"));
                }
                let words = of.words(done, status);
                if last.is_none_or(|last| last.elapsed() >= LINE_EVERY) {
                    *last = Some(Instant::now());
                    of.line(done, &words);
                }
            }
        }
    }

    /// Says something beside the progress, however quiet it is: somebody has to know.
    pub(crate) fn note(&self, words: &str) {
        match self {
            Self::Bar { bar, .. } => bar.println(words),
            Self::Quiet | Self::Lines { .. } => say(words),
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        if let Self::Bar { bar, .. } = self {
            bar.finish_and_clear();
        }
    }

    /// The last line: what the summary says, so that nobody has to wonder about what came after the line before.
    pub(crate) fn last(&self, summary: &Summary) {
        let Self::Lines { of, .. } = self else { return };
        let AgentCounts { idle, running, degraded, recovering, failed, .. } = summary.agents;
        let agents = [
            ("degraded", degraded.into()),
            ("failed", failed.into()),
            ("recovering", recovering.into()),
            ("running", running.into()),
        ];
        of.line(summary.goals.submitted, &of.worded(idle.into(), &agents, summary.seams(), 0));
    }
}

impl Whole {
    fn line(&self, done: usize, words: &str) {
        say(&format!("{done}/{} goals  {:.0} s  {words}", self.goals, self.started.elapsed().as_secs_f64()));
    }

    fn words(&mut self, done: usize, status: &StatusSnapshot) -> String {
        self.tokens = status.tokens.completion;
        let open = self.goals.saturating_sub(done) as u64;
        // Agents are counted now and then, goals as they end: no more agents run than goals are open.
        let now = |(state, count): (&&'static str, &u64)| {
            (*state, if *state == "running" { (*count).min(open) } else { *count })
        };
        let busy: Vec<(&str, u64)> =
            status.agents.iter().filter(|(state, _)| **state != "idle").map(now).collect();
        let idle = self.agents.saturating_sub(busy.iter().map(|(_, count)| count).sum());
        self.worded(idle, &busy, status.healed, status.needing_person)
    }

    fn worded(&self, idle: u64, busy: &[(&str, u64)], mended: u64, needing_person: u64) -> String {
        let rate = self.tokens as f64 / self.started.elapsed().as_secs_f64().max(0.001);
        let mut words = vec![format!("{rate:.0} tokens/s"), format!("{idle} idle")];
        let busy = busy.iter().filter(|(_, count)| *count > 0);
        words.extend(busy.map(|(state, count)| format!("{count} {state}")));
        words.push(format!("{mended} mended"));
        if needing_person > 0 {
            words.push(format!("{needing_person} need a person"));
        }
        words.join(", ")
    }
}
