//! How an HTTP tool is declared.

use kintsugi_types::ToolSafety;
use ureq::Agent;
use ureq::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};

use super::HttpTool;
use super::body::BodyTemplate;
use crate::binding::{Bindings, Template};
use crate::document::Section;
use crate::error::LoadError;
use crate::load::{Declaration, LoadContext};

#[derive(Debug, Clone, Copy)]
enum Verb {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

const VERBS: [(&str, Verb); 5] = [
    ("GET", Verb::Get),
    ("POST", Verb::Post),
    ("PUT", Verb::Put),
    ("PATCH", Verb::Patch),
    ("DELETE", Verb::Delete),
];

impl Verb {
    fn method(self) -> Method {
        match self {
            Self::Get => Method::GET,
            Self::Post => Method::POST,
            Self::Put => Method::PUT,
            Self::Patch => Method::PATCH,
            Self::Delete => Method::DELETE,
        }
    }

    fn takes_body(self) -> bool {
        matches!(self, Self::Post | Self::Put | Self::Patch)
    }
}

impl HttpTool {
    /// Reads the declaration and resolves its secrets. No request is made.
    pub(crate) fn open(declaration: Declaration, context: &LoadContext<'_>) -> Result<Self, LoadError> {
        declaration.expect_keys(&["method", "url", "headers", "body", "post_condition"])?;
        let section = &declaration.section;
        let bindings = &declaration.bindings;
        let safety = declaration.safety.ok_or_else(|| LoadError {
            hint: Some(
                "read_only changes nothing, keyed honours Idempotency-Key, unkeyed is all else".to_owned(),
            ),
            ..section.error("safety", "is missing: only you know what the service does with a repeat")
        })?;
        let verb = section.optional_choice("method", &VERBS)?;
        let verb = verb.ok_or_else(|| section.error("method", "is missing"))?;
        let url = read_url(section, bindings)?;
        let body = section.json("body")?;
        if body.is_some() && !verb.takes_body() {
            return Err(section.error("body", "cannot be sent with this method"));
        }
        let mut headers = match section.optional_section("headers")? {
            Some(headers) => read_headers(&headers, context)?,
            None => HeaderMap::new(),
        };
        headers.entry(header::ACCEPT).or_insert(HeaderValue::from_static("application/json"));
        if body.is_some() {
            headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
        }
        let error = |path: &str, problem: String, hint| LoadError { hint, ..section.error(path, problem) };
        let body = body.map(|body| BodyTemplate::parse(&body, "body", bindings, &error)).transpose()?;
        let post_condition = section.optional_section("post_condition")?;
        let post_condition = post_condition.map(|asked| {
            asked.expect_keys(&["url"])?;
            read_url(&asked, &Bindings::effect_only())
        });
        Ok(Self {
            spec: declaration.spec(safety),
            agent: agent(safety),
            method: verb.method(),
            url,
            headers,
            body,
            post_condition: post_condition.transpose()?,
            timeout: declaration.timeout,
            output_bytes_max: declaration.output_bytes_max,
            output_schema: declaration.output_schema,
        })
    }
}

/// Idle connections that a tool keeps to its service.
const KEPT_CONNECTIONS_MAX: usize = 4;

/// An agent that does what the declaration says and nothing by itself: no redirect, no proxy of the environment.
///
/// A request on a connection that the service is just closing fails without a word on whether it was read. One that
/// may be repeated is; one that may not gets a connection of its own.
fn agent(safety: ToolSafety) -> Agent {
    let kept = if safety.is_restartable() { KEPT_CONNECTIONS_MAX } else { 0 };
    Agent::config_builder()
        .max_idle_connections(kept)
        .max_idle_connections_per_host(kept)
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .user_agent(concat!("kintsugi/", env!("CARGO_PKG_VERSION")))
        .build()
        .new_agent()
}

/// The address: scheme and host as written, places only after them.
fn read_url(section: &Section, bindings: &Bindings) -> Result<Template, LoadError> {
    let text = section.text("url")?;
    let error = |problem: String, hint| LoadError { hint, ..section.error("url", problem) };
    let template = Template::parse(text, bindings, error)?;
    let uri: Uri =
        template.head().parse().map_err(|problem| error(format!("is no address: {problem}"), None))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
        return Err(error("must begin with http:// or https:// and a host".to_owned(), None));
    }
    // With the slash after the host before the first place, no value can become part of the host.
    let after_scheme = template.head().split_once("://").map_or("", |(_, rest)| rest);
    if template.sources().next().is_some() && !after_scheme.contains('/') {
        return Err(error("may have parameters only after the host's slash".to_owned(), None));
    }
    Ok(template)
}

fn read_headers(section: &Section, context: &LoadContext<'_>) -> Result<HeaderMap, LoadError> {
    let mut headers = HeaderMap::new();
    for (key, text) in section.texts()? {
        let name: HeaderName = key.parse().map_err(|_| section.error(key, "is no name of a header"))?;
        let (text, is_secret) = with_secrets(text, section, key, context)?;
        let mut value: HeaderValue =
            text.parse().map_err(|_| section.error(key, "is no value of a header"))?;
        value.set_sensitive(is_secret);
        headers.insert(name, value);
    }
    Ok(headers)
}

/// Puts secrets in for `${NAME}`, and says whether there was one.
fn with_secrets(
    text: &str,
    section: &Section,
    key: &str,
    context: &LoadContext<'_>,
) -> Result<(String, bool), LoadError> {
    let mut resolved = String::new();
    let mut rest = text;
    let mut is_secret = false;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, after) =
            after.split_once('}').ok_or_else(|| section.error(key, "has a `${` without its `}`"))?;
        let secret = (context.secrets)(name).ok_or_else(|| LoadError {
            hint: Some(format!("set the environment variable {name}")),
            ..section.error(key, format!("needs the secret `{name}`, which is not set"))
        })?;
        resolved.push_str(before);
        resolved.push_str(&secret);
        is_secret = true;
        rest = after;
    }
    resolved.push_str(rest);
    Ok((resolved, is_secret))
}
