//! Asking a running node over HTTP.

use std::time::Duration;

use serde_json::Value;
use ureq::Agent;

use crate::failure::Failure;
use crate::http::TOKEN_VARIABLE;

/// How long one answer may take.
const ANSWER_WITHIN: Duration = Duration::from_mins(1);

/// How often a node that has no room is asked again before the command gives up: about ten minutes.
const TRIES_MAX: u32 = 600;

/// The longest that is waited between two tries, whatever the node says.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// A node that runs somewhere.
#[derive(Debug)]
pub(crate) struct Client {
    agent: Agent,
    url: String,
    token: Option<String>,
}

/// What a node answered.
#[derive(Debug)]
pub(crate) struct Told {
    pub(crate) status: u16,
    pub(crate) document: Value,
}

impl Told {
    /// Whether the node did it.
    pub(crate) const fn is_done(&self) -> bool {
        self.status < 300
    }

    /// What is wrong, in the node's words.
    pub(crate) fn detail(&self) -> String {
        let member = |name: &str| self.document.get(name).and_then(Value::as_str);
        member("detail")
            .map_or_else(|| format!("the node answered with status {}", self.status), str::to_owned)
    }
}

impl Client {
    /// A client of the node at `url`. The token comes from the environment.
    pub(crate) fn new(url: &str) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(ANSWER_WITHIN))
            .user_agent(concat!("kintsugi/", env!("CARGO_PKG_VERSION")));
        let token = std::env::var_os(TOKEN_VARIABLE).map(|token| token.to_string_lossy().trim().to_owned());
        Self { agent: config.build().into(), url: url.trim_end_matches('/').to_owned(), token }
    }

    /// Posts a JSON document, and again while the node has no room.
    pub(crate) fn post(&self, path: &str, body: &str) -> Result<Told, Failure> {
        let mut tries = 0;
        loop {
            let mut request =
                self.agent.post(format!("{}{path}", self.url)).header("content-type", "application/json");
            if let Some(token) = &self.token {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let mut response = request.send(body).map_err(|error| self.unreachable(&error))?;
            let status = response.status().as_u16();
            tries += 1;
            if matches!(status, 429 | 503) && tries < TRIES_MAX {
                let seconds = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
                let wait = Duration::from_secs(seconds.and_then(|s| s.parse().ok()).unwrap_or(1));
                std::thread::sleep(wait.min(WAIT_MAX));
                continue;
            }
            let text = response.body_mut().read_to_string().map_err(|error| self.unreachable(&error))?;
            return Ok(Told { status, document: serde_json::from_str(&text).unwrap_or(Value::Null) });
        }
    }

    fn unreachable(&self, error: &ureq::Error) -> Failure {
        Failure::outside(format_args!(
            "ask the node at {}: {error}; start it with `kintsugi up`, or name another with --url",
            self.url
        ))
    }
}

/// A name as a segment of a path.
pub(crate) fn in_path(name: &str) -> String {
    use std::fmt::Write as _;
    let mut path = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:@".contains(&byte) {
            path.push(char::from(byte));
        } else {
            // Writing to a text does not fail.
            let _ = write!(path, "%{byte:02X}");
        }
    }
    path
}
