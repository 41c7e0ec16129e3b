//! Live progress: a bar on a terminal, plain lines when piped, nothing when quiet. Always on stderr.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use kintsugi_runtime::StatusSnapshot;

/// How often a plain line is written.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// Where progress goes.
pub(crate) enum Progress {
    Quiet,
    Lines { goals: usize, started: Instant, last: Option<Instant> },
    Bar { bar: ProgressBar, started: Instant },
}

impl Progress {
    /// Progress over `goals` goals, of which `done` were done before.
    pub(crate) fn new(goals: usize, done: usize, is_quiet: bool) -> Self {
        let started = Instant::now();
        if is_quiet {
            return Self::Quiet;
        }
        if !std::io::stderr().is_terminal() {
            return Self::Lines { goals, started, last: None };
        }
        let bar = ProgressBar::new(goals as u64);
        let template = "{bar:30.yellow/dim} {pos}/{len} goals  {elapsed}  {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        bar.set_position(done as u64);
        Self::Bar { bar, started }
    }

    /// Shows how far the run is.
    pub(crate) fn show(&mut self, done: usize, status: &StatusSnapshot) {
        match self {
            Self::Quiet => {}
            Self::Bar { bar, started } => {
                for line in &status.seam_lines {
                    bar.println(format!("  seam  {line}"));
                }
                bar.set_message(words(status, started.elapsed()));
                bar.set_position(done as u64);
            }
            Self::Lines { goals, started, last } => {
                let mut err = std::io::stderr().lock();
                for line in &status.seam_lines {
                    // Progress that cannot be written is no reason to stop.
                    let _ = writeln!(err, "seam  {line}");
                }
                if last.is_none_or(|last| last.elapsed() >= LINE_EVERY) {
                    *last = Some(Instant::now());
                    let words = words(status, started.elapsed());
                    let _ = writeln!(
                        err,
                        "{done}/{goals} goals  {:.0} s  {words}",
                        started.elapsed().as_secs_f64()
                    );
                }
            }
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        if let Self::Bar { bar, .. } = self {
            bar.finish_and_clear();
        }
    }
}

fn words(status: &StatusSnapshot, elapsed: Duration) -> String {
    let tokens = status.tokens.completion as f64 / elapsed.as_secs_f64().max(0.001);
    let mut words = vec![format!("{tokens:.0} tokens/s")];
    words.extend(status.agents.iter().map(|(state, count)| format!("{count} {state}")));
    words.push(format!("{} mended", status.healed));
    if status.needing_person > 0 {
        words.push(format!("{} need a person", status.needing_person));
    }
    words.join(", ")
}
