//! What went wrong with a request: a problem document of RFC 9457.

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, ResponseError};
use schemars::JsonSchema;
use serde::Serialize;

/// The media type of a problem document.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// How long to wait where nothing better is known, in seconds.
const RETRY_AFTER_S: u64 = 1;

/// A problem document.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Problem {
    /// What kind of problem, `urn:kintsugi:problem:<name>`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The kind in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What is wrong with this request, and what to do.
    detail: String,
    /// The field, parameter or header that is at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    #[serde(skip)]
    retry_after_s: Option<u64>,
    #[serde(skip)]
    allowed: Option<&'static str>,
}

impl Problem {
    fn new(status: StatusCode, kind: &'static str, title: &'static str, detail: impl fmt::Display) -> Self {
        Self {
            kind,
            title,
            status: status.as_u16(),
            detail: detail.to_string(),
            field: None,
            retry_after_s: None,
            allowed: None,
        }
    }

    /// 400: `field` is wrong.
    pub(crate) fn invalid(field: impl Into<String>, detail: impl fmt::Display) -> Self {
        let problem = Self::new(
            StatusCode::BAD_REQUEST,
            "urn:kintsugi:problem:invalid",
            "The request is not valid",
            detail,
        );
        Self { field: Some(field.into()), ..problem }
    }

    /// 401: the token is missing or wrong.
    pub(crate) fn unauthorized() -> Self {
        let detail = "send the node's token in the header `Authorization: Bearer …`";
        Self::new(StatusCode::UNAUTHORIZED, "urn:kintsugi:problem:unauthorized", "A token is needed", detail)
    }

    /// 404: there is no such thing.
    pub(crate) fn not_found(detail: impl fmt::Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, "urn:kintsugi:problem:not-found", "There is no such thing", detail)
    }

    /// 405: the path is known, the method is not.
    pub(crate) fn method_not_allowed(allowed: &'static str) -> Self {
        let detail = format!("this path takes {allowed}");
        let status = StatusCode::METHOD_NOT_ALLOWED;
        let problem =
            Self::new(status, "urn:kintsugi:problem:method-not-allowed", "The method is not allowed", detail);
        Self { allowed: Some(allowed), ..problem }
    }

    /// 408: the body came too slowly.
    pub(crate) fn too_slow(detail: impl fmt::Display) -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "urn:kintsugi:problem:too-slow",
            "The request took too long",
            detail,
        )
    }

    /// 409: it contradicts what is known.
    pub(crate) fn conflict(detail: impl fmt::Display) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "urn:kintsugi:problem:conflict",
            "The request contradicts what is known",
            detail,
        )
    }

    /// 410: it was there once.
    pub(crate) fn gone(detail: impl fmt::Display) -> Self {
        Self::new(StatusCode::GONE, "urn:kintsugi:problem:gone", "This is no longer kept", detail)
    }

    /// 413: the body is too long.
    pub(crate) fn too_large(detail: impl fmt::Display) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "urn:kintsugi:problem:too-large",
            "The request is too large",
            detail,
        )
    }

    /// 415: the body is not JSON.
    pub(crate) fn not_json() -> Self {
        let detail = "send one JSON object with `Content-Type: application/json`";
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Self::new(status, "urn:kintsugi:problem:unsupported-media-type", "The body is not JSON", detail)
    }

    /// 421: the request is meant for another host.
    pub(crate) fn misdirected() -> Self {
        let detail = "without a token only requests to this machine's own names are answered, such as \
                      127.0.0.1 or localhost";
        let status = StatusCode::MISDIRECTED_REQUEST;
        Self::new(status, "urn:kintsugi:problem:misdirected", "The request is meant for another host", detail)
    }

    /// 429: there is no room now.
    pub(crate) fn full(detail: impl fmt::Display) -> Self {
        let problem = Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "urn:kintsugi:problem:full",
            "There is no room now",
            detail,
        );
        Self { retry_after_s: Some(RETRY_AFTER_S), ..problem }
    }

    /// 500: this is a fault of the node.
    pub(crate) fn internal(detail: impl fmt::Display) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "urn:kintsugi:problem:internal",
            "The node failed",
            detail,
        )
    }

    /// 503: not now.
    pub(crate) fn unavailable(detail: impl fmt::Display) -> Self {
        let problem =
            Self::new(StatusCode::SERVICE_UNAVAILABLE, "urn:kintsugi:problem:unavailable", "Not now", detail);
        Self { retry_after_s: Some(RETRY_AFTER_S), ..problem }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.status, self.title, self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        response.content_type(PROBLEM_JSON);
        if let Some(seconds) = self.retry_after_s {
            response.insert_header((RETRY_AFTER, seconds.to_string()));
        }
        if let Some(allowed) = self.allowed {
            response.insert_header((ALLOW, allowed));
        }
        if self.status_code() == StatusCode::UNAUTHORIZED {
            response.insert_header((WWW_AUTHENTICATE, "Bearer"));
        }
        // A problem is made of texts and numbers: it always has a JSON form.
        response.body(serde_json::to_vec(self).unwrap_or_default())
    }
}
