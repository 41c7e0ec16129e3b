//! From what a user types to where a file lies on the net: `OWNER/REPO[/FILE]` on the hub, or a URL.

use std::fmt;

use ureq::http::Uri;

use crate::client::in_path;
use crate::failure::Failure;

/// Where the hub is unless `HF_ENDPOINT` says otherwise, as the hub's own tools have it.
const HUB: &str = "https://huggingface.co";

/// How a file of the hub may be written.
const SCHEME: &str = "hf://";

/// Which place of the hub, or which URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A repository of the hub, of which the file is to be found.
    Repository(String),
    /// A file in a repository of the hub.
    Hub { repository: String, file: String },
    /// Anything else.
    Url(Uri),
}

/// Where the hub is, from the environment.
pub(super) fn hub() -> Result<Uri, Failure> {
    let named = std::env::var_os("HF_ENDPOINT").map(|hub| hub.to_string_lossy().into_owned());
    let hub = named.filter(|hub| !hub.trim().is_empty()).unwrap_or_else(|| HUB.to_owned());
    let uri: Option<Uri> = hub.trim().trim_end_matches('/').parse().ok();
    // Over plain HTTP anybody on the way reads the token.
    let is_safe = |uri: &Uri| match uri.scheme_str() {
        Some("https") => uri.host().is_some(),
        Some("http") => is_loopback(uri),
        _ => false,
    };
    uri.filter(is_safe).ok_or_else(|| {
        Failure::usage(format_args!("HF_ENDPOINT is {hub:?}, it must be an https URL such as {HUB}"))
    })
}

impl Place {
    /// Reads what was typed.
    pub(super) fn parse(typed: &str) -> Result<Self, Failure> {
        if let Some(rest) = typed.strip_prefix(SCHEME) {
            return Self::of_hub(rest, typed);
        }
        if typed.contains("://") {
            return Self::of_url(typed);
        }
        Self::of_hub(typed, typed)
    }

    fn of_hub(path: &str, typed: &str) -> Result<Self, Failure> {
        let segments: Vec<&str> = path.split('/').collect();
        let is_plain = |segment: &&str| {
            let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-._ +".contains(&byte);
            !segment.is_empty() && !segment.starts_with('.') && segment.bytes().all(is_fit)
        };
        match segments.as_slice() {
            [owner, name, file @ ..] if segments.iter().all(is_plain) => {
                let repository = format!("{owner}/{name}");
                if file.is_empty() {
                    return Ok(Self::Repository(repository));
                }
                Ok(Self::Hub { repository, file: file.join("/") })
            }
            _ => Err(Failure::usage(format_args!(
                "{typed:?} is neither a file on the hub, OWNER/REPO or OWNER/REPO/FILE.gguf, nor a URL"
            ))),
        }
    }

    fn of_url(typed: &str) -> Result<Self, Failure> {
        let uri: Uri =
            typed.parse().map_err(|error| Failure::usage(format_args!("{typed:?} is no URL: {error}")))?;
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(Failure::usage("a URL with a user or a password in it is not taken"));
        }
        match uri.scheme_str() {
            Some("https") => Ok(Self::Url(uri)),
            Some("http") if is_loopback(&uri) => Ok(Self::Url(uri)),
            Some("http") => Err(Failure::usage(format_args!(
                "{}: over plain HTTP anybody on the way can exchange the file; use https",
                Told(&uri)
            ))),
            _ => Err(Failure::usage(format_args!("{typed:?}: only https and hf are known"))),
        }
    }

    /// The URL of the file; `None` where the file is not known yet.
    pub(super) fn url(&self, hub: &Uri) -> Result<Option<Uri>, Failure> {
        match self {
            Self::Repository(_) => Ok(None),
            Self::Hub { repository, file } => {
                let segments: Vec<String> = file.split('/').map(in_path).collect();
                below(hub, &format!("{repository}/resolve/main/{}", segments.join("/"))).map(Some)
            }
            Self::Url(uri) => Ok(Some(uri.clone())),
        }
    }

    /// The last part of the file's name on the net.
    pub(super) fn file_name(&self) -> &str {
        match self {
            Self::Repository(_) => "",
            Self::Hub { file, .. } => file.rsplit('/').next().unwrap_or(""),
            Self::Url(uri) => uri.path().rsplit('/').next().unwrap_or(""),
        }
    }
}

/// `path` below the hub.
pub(super) fn below(hub: &Uri, path: &str) -> Result<Uri, Failure> {
    let base = hub.to_string();
    format!("{}/{path}", base.trim_end_matches('/')).parse().map_err(Failure::usage)
}

/// Whether both name the same server, over the same protocol.
pub(super) fn is_same_origin(one: &Uri, other: &Uri) -> bool {
    let origin = |uri: &Uri| {
        let port = uri.port_u16().or(match uri.scheme_str() {
            Some("https") => Some(443),
            _ => Some(80),
        });
        (uri.scheme_str().map(str::to_owned), uri.host().map(str::to_ascii_lowercase), port)
    };
    origin(one) == origin(other)
}

/// Whether the server is on this machine.
pub(super) fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or("").trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Where a redirect leads.
pub(super) fn redirected(from: &Uri, location: &str) -> Option<Uri> {
    // A query may hold an address too.
    let path = location.split(['?', '#']).next().unwrap_or("");
    if path.contains("://") {
        return location.parse().ok();
    }
    let (scheme, authority) = (from.scheme_str()?, from.authority()?);
    if let Some(rest) = location.strip_prefix("//") {
        return format!("{scheme}://{rest}").parse().ok();
    }
    if location.starts_with('/') {
        return format!("{scheme}://{authority}{location}").parse().ok();
    }
    let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
    format!("{scheme}://{authority}{folder}/{location}").parse().ok()
}

/// A URL as it is told: without its query, in which secrets may stand.
pub(super) struct Told<'a>(pub(super) &'a Uri);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, authority) = (self.0.scheme_str().unwrap_or(""), self.0.authority());
        let authority = authority.map_or("", |authority| authority.as_str());
        write!(f, "{scheme}://{authority}{}", self.0.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_on_the_hub_or_a_url() {
        let hub: Uri = HUB.parse().unwrap();
        let url = |typed: &str| Place::parse(typed).unwrap().url(&hub).unwrap().unwrap().to_string();
        let expected = "https://huggingface.co/owner/repo/resolve/main/sub/a%20model.gguf";
        assert_eq!(url("owner/repo/sub/a model.gguf"), expected);
        assert_eq!(
            url("hf://owner/repo/model.gguf"),
            "https://huggingface.co/owner/repo/resolve/main/model.gguf"
        );
        assert_eq!(url("https://example.com/a.gguf?k=v"), "https://example.com/a.gguf?k=v");
        assert_eq!(Place::parse("https://example.com/d/a.gguf?k=v").unwrap().file_name(), "a.gguf");
        assert_eq!(Place::parse("owner/repo").unwrap(), Place::Repository("owner/repo".to_owned()));
        for wrong in [
            "",
            "model",
            "owner/",
            "/repo",
            "owner/../etc/passwd",
            "owner/repo//x",
            "ftp://example.com/a.gguf",
            "http://example.com/a.gguf",
            "https://user:secret@example.com/a.gguf",
            "owner/repo/a?b.gguf",
        ] {
            assert!(Place::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_redirect_leads_where_it_says_and_shows_when_it_leaves_the_server() {
        let from: Uri = "https://hub.example/a/b.gguf".parse().unwrap();
        for (location, expected) in [
            ("https://cdn.example/x?y", "https://cdn.example/x?y"),
            ("//cdn.example/x", "https://cdn.example/x"),
            ("/other/b.gguf", "https://hub.example/other/b.gguf"),
            ("c.gguf", "https://hub.example/a/c.gguf"),
            ("/login?next=https://x.example/", "https://hub.example/login?next=https://x.example/"),
        ] {
            assert_eq!(redirected(&from, location).unwrap().to_string(), expected);
        }
        let is_same = |other: &str| is_same_origin(&from, &other.parse().unwrap());
        assert!(is_same("https://HUB.example:443/x"));
        for other in ["http://hub.example/x", "https://hub.example:8443/x", "https://hub.example.evil/x"] {
            assert!(!is_same(other), "{other}");
        }
    }
}
