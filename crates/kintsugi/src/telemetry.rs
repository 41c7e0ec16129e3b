//! Logs: to stderr, warnings and worse unless `KINTSUGI_LOG` asks for more.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

/// The environment variable that sets the levels, in the syntax of `tracing`'s `EnvFilter`.
pub(crate) const LOG_VARIABLE: &str = "KINTSUGI_LOG";

/// Levels where nobody asked for others.
const LEVELS: &str = "warn,fjall=error,lsm_tree=error";

/// Starts logging. Fails where what was asked for cannot be read.
pub(crate) fn start() -> Result<(), Failure> {
    let filter = match std::env::var_os(LOG_VARIABLE) {
        None => EnvFilter::new(LEVELS),
        Some(levels) => {
            let levels = levels.to_string_lossy();
            EnvFilter::try_new(&levels).map_err(|error| {
                Failure::usage(format_args!(
                    "environment variable {LOG_VARIABLE} is {levels:?}: {error}; write levels such as \
                     `info` or `warn,kintsugi_runtime=debug`"
                ))
            })?
        }
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .with_target(false)
        // Where stderr is closed or full there is nobody to tell that either.
        .log_internal_errors(false)
        .init();
    Ok(())
}
