//! What is said when something panics: one line, for a person who has to decide what to do next.

use std::panic::PanicHookInfo;

/// Asks for the whole story, the standard library's own.
const BACKTRACE_VARIABLE: &str = "RUST_BACKTRACE";

/// Tells of panics in one line from here on. An actor that panics is started again from the log, and what was durable
/// stays so in any case; with `RUST_BACKTRACE` set the backtrace follows.
pub(crate) fn tell_in_one_line() {
    let whole_story = std::panic::take_hook();
    let is_asked_for = std::env::var_os(BACKTRACE_VARIABLE).is_some_and(|value| value != "0");
    std::panic::set_hook(Box::new(move |panic| {
        crate::terminal::say(&worded(panic));
        if is_asked_for {
            whole_story(panic);
        }
    }));
}

fn worded(panic: &PanicHookInfo<'_>) -> String {
    let what = crate::terminal::plain(panic.payload_as_str().unwrap_or("no reason given"));
    let place =
        panic.location().map_or_else(String::new, |place| format!(" at {}:{}", place.file(), place.line()));
    let thread = std::thread::current();
    format!(
        "panic: {what}{place}, thread {}; what was acknowledged is safe in the log; to report it, run the same command \
         with {BACKTRACE_VARIABLE}=1",
        thread.name().unwrap_or("without a name")
    )
}
