//! Writing to people and programs, as well-made Unix tools do: what nobody reads any more is no failure, what cannot
//! be written is told once, and nothing that is said on stderr ever stops the work.

use std::io::{ErrorKind, Write as _};

use serde::Serialize;

use crate::failure::Failure;

/// Says a line on stderr. Where that is closed or full there is nobody to tell.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Writes a line to stdout. Returns whether somebody still reads.
pub(crate) fn line_if_read(text: &str) -> Result<bool, Failure> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        other => {
            other.map(|()| true).map_err(|error| Failure::outside(format_args!("write to stdout: {error}")))
        }
    }
}

/// Writes a line to stdout. Whoever reads may have read enough: that ends the program without complaint.
#[expect(clippy::exit, reason = "nobody is left to write for, and nothing is left to do")]
pub(crate) fn line(text: &str) -> Result<(), Failure> {
    if !line_if_read(text)? {
        std::process::exit(0);
    }
    Ok(())
}

/// Writes a document to stdout.
pub(crate) fn document(value: &impl Serialize) -> Result<(), Failure> {
    line(&serde_json::to_string_pretty(value).map_err(Failure::job)?)
}

/// Writes a document as one line to stdout.
pub(crate) fn json_line(value: &impl Serialize) -> Result<(), Failure> {
    line(&serde_json::to_string(value).map_err(Failure::job)?)
}

/// How wide the names of entries are.
const NAME_CHARS: usize = 12;

/// Writes a name and its value for a person. A value of several lines goes on below its first.
pub(crate) fn entry(name: &str, value: &str) -> Result<(), Failure> {
    let mut lines = value.lines().map(plain);
    let first = lines.next().unwrap_or_else(|| "-".to_owned());
    line(&format!("{name:<NAME_CHARS$}  {first}"))?;
    lines.try_for_each(|more| line(format!("{:NAME_CHARS$}  {more}", "").trim_end()))
}

/// What others wrote, with a space for each control character: a terminal acts on those.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
