//! Tools that are requests to an HTTP service.
//!
//! Nothing is retried here, and no redirect is followed: a redirect could carry a credential to a host that the
//! declaration does not name.

mod answer;
mod body;
mod declaration;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use kintsugi_types::{EffectId, ToolSafety, ToolSpec};
use serde_json::{Map, Value};
use ureq::http::{HeaderMap, HeaderValue, Method, Request, Response};
use ureq::{Agent, AsSendBody, Body};

use crate::binding::Template;
use crate::error::ToolError;
use crate::tool::{Tool, ToolCall, ToolOutput};
use answer::{Moment, read_answer, status_error, transport_error};
use body::BodyTemplate;

/// The header that lets a service recognise a repeat (draft-ietf-httpapi-idempotency-key-header).
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// A tool of the kind `http`.
pub struct HttpTool {
    spec: ToolSpec,
    agent: Agent,
    method: Method,
    url: Template,
    /// Credentials among them are marked as sensitive.
    headers: HeaderMap,
    body: Option<BodyTemplate>,
    /// Answers 2xx where an effect happened and 404 where it did not.
    post_condition: Option<Template>,
    timeout: Duration,
    output_bytes_max: usize,
    output_schema: Option<Value>,
}

impl std::fmt::Debug for HttpTool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpTool")
            .field("spec", &self.spec)
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

impl Tool for HttpTool {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn call(&self, call: &ToolCall) -> Result<ToolOutput, ToolError> {
        let body = self.body.as_ref().map(|body| body.render(call)).transpose()?;
        let response = self.send(&self.method, &self.url, body, call)?;
        let safety = self.spec.safety;
        if response.status().is_success() {
            return read_answer(response.into_body(), self.output_bytes_max, safety);
        }
        Err(status_error(response, safety))
    }

    fn post_condition(&self, effect: EffectId) -> Option<bool> {
        let call = ToolCall::new(effect, Value::Null, Map::new());
        let response = self.send(&Method::GET, self.post_condition.as_ref()?, None, &call).ok()?;
        match response.status().as_u16() {
            200..300 => Some(true),
            404 => Some(false),
            _ => None,
        }
    }

    fn output_schema(&self) -> Option<&Value> {
        self.output_schema.as_ref()
    }

    fn output_bytes_max(&self) -> usize {
        self.output_bytes_max
    }
}

impl HttpTool {
    fn send(
        &self,
        method: &Method,
        url: &Template,
        body: Option<String>,
        call: &ToolCall,
    ) -> Result<Response<Body>, ToolError> {
        let left = call.deadline_within(self.timeout).saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ToolError::transient("timeout", "there was no time left to ask the service"));
        }
        let mut request = Request::new(());
        *request.method_mut() = method.clone();
        let url = render_url(url, call)?;
        *request.uri_mut() = url
            .parse()
            .map_err(|error| ToolError::fatal("bad_url", format!("the tool's address is none: {error}")))?;
        request.headers_mut().clone_from(&self.headers);
        if self.spec.safety == ToolSafety::Keyed
            && let Ok(key) = HeaderValue::from_str(&call.effect.to_string())
        {
            request.headers_mut().insert(IDEMPOTENCY_KEY, key);
        }
        let result = match body {
            Some(text) => self.run(request.map(|()| text), left),
            // The length of an empty body is said: not every service takes an empty body in chunks.
            None if takes_body(method) => self.run(request.map(|()| ""), left),
            None => self.run(request, left),
        };
        result.map_err(|error| transport_error(&error, self.spec.safety, Moment::Sending))
    }

    fn run(&self, request: Request<impl AsSendBody>, left: Duration) -> Result<Response<Body>, ureq::Error> {
        self.agent.run(self.agent.configure_request(request).timeout_global(Some(left)).build())
    }
}

/// Whether a request of this method has a body, if only an empty one (RFC 9110, section 8.6).
fn takes_body(method: &Method) -> bool {
    [Method::POST, Method::PUT, Method::PATCH].contains(method)
}

/// The address for `call`. A value stays within the part of the path or query where it stands: what could end that
/// part is percent-encoded, and the two names that mean "here" and "above" are refused.
fn render_url(url: &Template, call: &ToolCall) -> Result<String, ToolError> {
    for source in url.sources() {
        let value = crate::binding::plain_text(&source.value(call)?);
        if value == "." || value == ".." {
            return Err(ToolError::recoverable(
                "invalid_arguments",
                format!("`{value}` cannot stand in an address"),
            ));
        }
    }
    url.render(call, percent_encode)
}

/// Everything but the unreserved characters of RFC 3986.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}
