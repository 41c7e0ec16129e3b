//! Asking the hub, or any other server, for a file: whole, or from a byte on.

use std::io::Read;
use std::time::Duration;

use serde_json::Value;
use ureq::Agent;
use ureq::http::{HeaderMap, Uri};

use super::place::{Place, Told, below, is_loopback, is_same_origin, redirected};
use crate::client::in_path;
use crate::failure::Failure;

/// How long a server may take to be reached, and to begin its answer.
const ANSWER_WITHIN: Duration = Duration::from_mins(1);

/// How long a server may send nothing in the middle of a file.
const SILENCE_MAX: Duration = Duration::from_mins(1);

/// Redirects that are followed for one file.
const REDIRECTS_MAX: usize = 10;

/// Files of a repository that are named to the user.
const FILES_NAMED: usize = 40;

/// The most bytes of the hub's description of a repository.
const DESCRIPTION_BYTES_MAX: u64 = 16 << 20;

/// Where a token is taken from, as the hub's own tools have it.
const TOKEN_VARIABLE: &str = "HF_TOKEN";

/// Who is asked.
pub(super) struct Server {
    agent: Agent,
    hub: Uri,
    /// For the hub alone.
    token: Option<String>,
}

/// An answer, whose body has not been read.
pub(super) struct Answer {
    pub(super) kind: Kind,
    /// How many bytes the whole file has, where the server says so.
    pub(super) total: Option<u64>,
    /// Names this version of the file, where the server promises that it is the same byte for byte.
    pub(super) etag: Option<String>,
    /// What the hub says that the file's SHA-256 is.
    pub(super) sha256: Option<String>,
    pub(super) body: Box<dyn Read>,
}

/// What an answer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The file from its first byte on.
    Whole,
    /// The file from this byte on.
    From(u64),
    /// Nothing: the file does not have the byte that was asked for.
    PastTheEnd,
}

/// From where on a file is asked for, if it is still the version that this names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rest<'a> {
    pub(super) byte: u64,
    pub(super) etag: &'a str,
}

impl Server {
    pub(super) fn new(hub: Uri) -> Result<Self, Failure> {
        let token = std::env::var_os(TOKEN_VARIABLE).map(|token| token.to_string_lossy().trim().to_owned());
        let token = token.filter(|token| !token.is_empty());
        if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(Failure::usage(format_args!("{TOKEN_VARIABLE} holds what no token has")));
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Followed here: the hub tells the hash in the answer that redirects, and the token is for the hub alone.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(ANSWER_WITHIN))
            .timeout_recv_response(Some(ANSWER_WITHIN))
            .timeout_per_read(Some(SILENCE_MAX))
            .accept_encoding("identity")
            .user_agent(concat!("kintsugi/", env!("CARGO_PKG_VERSION")));
        Ok(Self { agent: config.build().into(), hub, token })
    }

    /// Where the hub is.
    pub(super) const fn hub(&self) -> &Uri {
        &self.hub
    }

    /// Asks for the file at `uri`. Every status but those of [`Kind`] is a failure.
    pub(super) fn get(&self, uri: &Uri, from: Option<Rest<'_>>) -> Result<Answer, Failure> {
        let mut at = uri.clone();
        let mut sha256 = None;
        for _ in 0..=REDIRECTS_MAX {
            let is_hub = is_same_origin(&at, &self.hub);
            let mut request = self.agent.get(&at);
            if let Some(from) = from {
                request = request.header("range", format!("bytes={}-", from.byte));
                request = request.header("if-range", from.etag);
            }
            if let Some(token) = self.token.as_ref().filter(|_| is_hub) {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let response = request
                .call()
                .map_err(|error| Failure::outside(format_args!("reach {}: {error}", Told(&at))))?;
            let (parts, body) = response.into_parts();
            if is_hub && sha256.is_none() {
                sha256 = header(&parts.headers, "x-linked-etag").map(unquoted).filter(|hash| is_sha256(hash));
            }
            let status = parts.status.as_u16();
            let kind = match status {
                200 => Kind::Whole,
                206 => Kind::From(range(&parts.headers).and_then(|(from, _)| from).unwrap_or(u64::MAX)),
                416 => Kind::PastTheEnd,
                301 | 302 | 303 | 307 | 308 => {
                    at = next(&at, header(&parts.headers, "location"))?;
                    continue;
                }
                _ => return Err(self.refused(&at, status)),
            };
            let length = header(&parts.headers, "content-length").and_then(|length| length.parse().ok());
            let total = match kind {
                Kind::Whole => length,
                Kind::From(_) | Kind::PastTheEnd => range(&parts.headers).and_then(|(_, total)| total),
            };
            let etag = header(&parts.headers, "etag").filter(|etag| etag.starts_with('"')).map(str::to_owned);
            return Ok(Answer { kind, total, etag, sha256, body: Box::new(body.into_reader()) });
        }
        Err(Failure::outside(format_args!("{}: more than {REDIRECTS_MAX} redirects", Told(uri))))
    }

    fn refused(&self, at: &Uri, status: u16) -> Failure {
        let told = Told(at);
        let remedy = match status {
            401 | 403 if is_same_origin(at, &self.hub) && self.token.is_none() => {
                "it may not be had without a token, or is not there: ask for access on the model's page and put a \
                 token into HF_TOKEN"
            }
            401 | 403 if is_same_origin(at, &self.hub) => {
                "the token in HF_TOKEN does not give access: ask for it on the model's page"
            }
            401 | 403 => "it may not be had",
            404 | 410 => "there is no such file: look at its name on the model's page",
            429 => "the server has too many requests: try again later",
            _ => "the server cannot give it now: try again later",
        };
        Failure::outside(format_args!("{told}: status {status}: {remedy}"))
    }

    /// The only GGUF file of a repository; of several one has to be named.
    pub(super) fn only_file(&self, repository: &str) -> Result<Place, Failure> {
        let segments: Vec<String> = repository.split('/').map(in_path).collect();
        let uri = below(&self.hub, &format!("api/models/{}", segments.join("/")))?;
        let mut text = String::new();
        let read = self.get(&uri, None)?.body.take(DESCRIPTION_BYTES_MAX).read_to_string(&mut text);
        read.map_err(|error| Failure::outside(format_args!("read {}: {error}", Told(&uri))))?;
        let described: Value = serde_json::from_str(&text)
            .map_err(|error| Failure::outside(format_args!("{}: {error}", Told(&uri))))?;
        let files: Vec<&str> = described
            .get("siblings")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|file| file.get("rfilename")?.as_str())
            .filter(|name| name.to_ascii_lowercase().ends_with(".gguf"))
            .collect();
        match files.as_slice() {
            [] => Err(Failure::usage(format_args!("{repository} has no GGUF file"))),
            [file] => Place::parse(&format!("{repository}/{file}")),
            _ => {
                let named: Vec<String> =
                    files.iter().take(FILES_NAMED).map(|file| format!("  {repository}/{file}")).collect();
                let more = files.len() - named.len();
                let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
                Err(Failure::usage(format_args!(
                    "{repository} has {} GGUF files, name one:\n{}{more}",
                    files.len(),
                    named.join("\n")
                )))
            }
        }
    }
}

/// Where a redirect leads; never to an open connection that leaves this machine.
fn next(at: &Uri, location: Option<&str>) -> Result<Uri, Failure> {
    let next = location.and_then(|location| redirected(at, location));
    let next = next
        .filter(|next| next.host().is_some())
        .ok_or_else(|| Failure::outside(format_args!("{} redirects to what is no address", Told(at))))?;
    let is_open = next.scheme_str() != Some("https");
    if is_open && !is_loopback(&next) {
        return Err(Failure::outside(format_args!("{} redirects to plain HTTP", Told(at))));
    }
    Ok(next)
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn unquoted(etag: &str) -> String {
    etag.trim_start_matches("W/").trim_matches('"').to_ascii_lowercase()
}

/// Whether a text is a SHA-256 in base 16.
pub(super) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// First byte and length of the whole, of `Content-Range: bytes 7-99/100` or `bytes */100`.
fn range(headers: &HeaderMap) -> Option<(Option<u64>, Option<u64>)> {
    let (range, total) = header(headers, "content-range")?.strip_prefix("bytes ")?.split_once('/')?;
    let first = range.split_once('-').and_then(|(first, _)| first.parse().ok());
    Some((first, total.parse().ok()))
}
