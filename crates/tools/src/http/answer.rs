//! What a service answered, within limits, and what its failures mean for an agent.

use std::io::{ErrorKind, Read};
use std::time::Duration;

use kintsugi_types::ToolSafety;
use serde_json::Value;
use ureq::http::header::RETRY_AFTER;
use ureq::http::{Response, StatusCode};
use ureq::{Body, Error};

use crate::error::ToolError;
use crate::limit::bounded;
use crate::tool::ToolOutput;

/// How much of an error's body goes into the message.
const ERROR_BODY_BYTES_MAX: usize = 300;

/// The longest that a service may ask to be left alone; a longer wish is cut to it.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);

/// When a call failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moment {
    /// Before the status came.
    Sending,
    /// After a 2xx came.
    Answered,
}

/// Reads a 2xx answer: JSON made compact, anything else as a JSON string. No more than the limit is ever read.
pub(super) fn read_answer(body: Body, bytes_max: usize, safety: ToolSafety) -> Result<ToolOutput, ToolError> {
    let bytes = read_at_most(body, bytes_max)
        .map_err(|error| transport_error(&Error::from(error), safety, Moment::Answered))?;
    let text = String::from_utf8_lossy(&bytes);
    if bytes.len() > bytes_max {
        return Ok(bounded(&text, bytes_max));
    }
    if text.trim().is_empty() {
        return Ok(bounded("null", bytes_max));
    }
    let answer = serde_json::from_str(&text).unwrap_or_else(|_| Value::String(text.into_owned()));
    Ok(bounded(&answer.to_string(), bytes_max))
}

/// Up to one byte more than `bytes_max`, which shows that there was more.
fn read_at_most(body: Body, bytes_max: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    body.into_reader().take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What a status other than 2xx means.
pub(super) fn status_error(response: Response<Body>, safety: ToolSafety) -> ToolError {
    let status = response.status();
    let retry_after = retry_after(&response);
    // A body that cannot be read only makes the message shorter.
    let body = read_at_most(response.into_body(), ERROR_BODY_BYTES_MAX).unwrap_or_default();
    let body = bounded(String::from_utf8_lossy(&body).trim(), ERROR_BODY_BYTES_MAX).text;
    let message = match body.as_str() {
        "" => format!("the service answered {status}"),
        body => format!("the service answered {status}: {body}"),
    };
    let code = format!("http_{}", status.as_u16());
    match status {
        StatusCode::REQUEST_TIMEOUT
        | StatusCode::TOO_EARLY
        | StatusCode::TOO_MANY_REQUESTS
        | StatusCode::SERVICE_UNAVAILABLE => ToolError { retry_after, ..ToolError::transient(code, message) },
        // The service may have acted before it failed.
        _ if status.is_server_error() && safety == ToolSafety::Unkeyed => outcome_unknown(&message),
        _ if status.is_server_error() => ToolError { retry_after, ..ToolError::transient(code, message) },
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ToolError::fatal(code, message),
        _ if status.is_client_error() => ToolError::recoverable(code, message),
        _ => ToolError::fatal(code, message),
    }
}

/// The wish in seconds (RFC 9110, 10.2.3). The form with a date is taken as no wish: it needs a clock that agrees.
fn retry_after(response: &Response<Body>) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// What a failure of the connection means. Once a request may have left, an unkeyed tool must not be called again.
pub(super) fn transport_error(error: &Error, safety: ToolSafety, moment: Moment) -> ToolError {
    let message = format!("the service could not be asked: {error}");
    let never_left = match error {
        Error::HostNotFound | Error::ConnectionFailed => true,
        Error::Timeout(timeout) => matches!(timeout, ureq::Timeout::Resolve | ureq::Timeout::Connect),
        Error::Io(error) => error.kind() == ErrorKind::ConnectionRefused,
        _ => false,
    };
    match error {
        Error::BadUri(_) | Error::Http(_) => return ToolError::fatal("bad_url", message),
        Error::Tls(_) | Error::Rustls(_) | Error::Pem(_) => return ToolError::fatal("tls", message),
        _ => {}
    }
    if safety == ToolSafety::Unkeyed && (moment == Moment::Answered || !never_left) {
        return outcome_unknown(&message);
    }
    match error {
        Error::Timeout(_) => ToolError::transient("timeout", "the service did not answer in time"),
        _ if never_left => ToolError::transient("unreachable", message),
        _ => ToolError::transient("connection", message),
    }
}

fn outcome_unknown(message: &str) -> ToolError {
    ToolError::fatal(
        "outcome_unknown",
        format!("{message}; whether it acted is unknown, so it is not asked again"),
    )
}
