//! How far a pull is: a bar on a terminal, plain lines when piped, nothing when quiet. Always on stderr.

use std::cell::Cell;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use kintsugi_types::ByteCount;

use crate::terminal::say;

/// How often a plain line is written.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// Where progress goes.
pub(super) enum Progress {
    Quiet,
    Lines(Cell<Course>),
    Bar(ProgressBar),
}

/// One answer of the server on its way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Course {
    begun: Instant,
    from: u64,
    total: Option<u64>,
    told: Instant,
}

impl Progress {
    pub(super) fn new(is_quiet: bool) -> Self {
        if is_quiet {
            return Self::Quiet;
        }
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(0);
            let template =
                "{bar:30.yellow/dim} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta} left";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("━╸─"));
            }
            return Self::Bar(bar);
        }
        let now = Instant::now();
        Self::Lines(Cell::new(Course { begun: now, from: 0, total: None, told: now }))
    }

    /// The file is fetched from this byte on.
    pub(super) fn begin(&self, from: u64, total: Option<u64>) {
        match self {
            Self::Quiet => {}
            Self::Bar(bar) => {
                bar.set_length(total.unwrap_or(0));
                bar.set_position(from);
                bar.reset_eta();
            }
            Self::Lines(course) => {
                let now = Instant::now();
                course.set(Course { begun: now, from, total, told: now });
            }
        }
    }

    /// So much is there.
    pub(super) fn show(&self, bytes: u64) {
        match self {
            Self::Quiet => {}
            Self::Bar(bar) => bar.set_position(bytes),
            Self::Lines(shown) => {
                let course = shown.get();
                if course.told.elapsed() < LINE_EVERY {
                    return;
                }
                shown.set(Course { told: Instant::now(), ..course });
                let seconds = course.begun.elapsed().as_secs_f64().max(0.001);
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a rate is far below 2^53 and not below 0"
                )]
                let rate = ByteCount((bytes.saturating_sub(course.from) as f64 / seconds) as u64);
                let total = course.total.map_or_else(|| "?".to_owned(), |total| ByteCount(total).to_string());
                say(&format!("{} of {total}  {rate}/s", ByteCount(bytes)));
            }
        }
    }

    /// Says something beside it.
    pub(super) fn note(&self, words: &str) {
        match self {
            Self::Quiet => {}
            Self::Bar(bar) => bar.println(words),
            Self::Lines(_) => say(words),
        }
    }

    /// Takes the bar away.
    pub(super) fn finish(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
