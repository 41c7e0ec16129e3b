//! Logs: to stderr, warnings and worse unless `KINTSUGI_LOG` asks for more.

use tracing_subscriber::EnvFilter;

/// The environment variable that sets the levels, in the syntax of `tracing`'s `EnvFilter`.
pub(crate) const LOG_VARIABLE: &str = "KINTSUGI_LOG";

/// Starts logging.
pub(crate) fn start() {
    let filter = EnvFilter::try_from_env(LOG_VARIABLE)
        .unwrap_or_else(|_| EnvFilter::new("warn,fjall=error,lsm_tree=error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
}
