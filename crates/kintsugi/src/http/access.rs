//! Who may ask: with a token, whoever knows it; without one, programs of this machine.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{AUTHORIZATION, HOST};
use actix_web::middleware::Next;
use actix_web::{Error, ResponseError as _, web};

use super::api::Api;
use super::endpoints;
use super::problem::Problem;
use crate::failure::{Explain, Failure};
use crate::settings::HttpSettings;

/// The environment variable that holds the token.
pub(crate) const TOKEN_VARIABLE: &str = "KINTSUGI_HTTP_TOKEN";

/// The shortest token that is taken, in bytes: what is shorter can be guessed.
const TOKEN_BYTES_MIN: usize = 16;

/// The longest token that is taken, in bytes.
const TOKEN_BYTES_MAX: usize = 1_024;

/// Who may ask.
#[derive(Clone)]
pub(crate) struct Access {
    /// BLAKE3 of the token: hashes are compared in constant time.
    token: Option<blake3::Hash>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("has_token", &self.token.is_some()).finish()
    }
}

impl Access {
    /// The token from the environment, else from the file that the settings name, relative to `dir`. An address that
    /// other machines reach needs one; `listen_place` tells where it was set.
    pub(crate) fn resolve(
        settings: &HttpSettings,
        dir: &Path,
        address: &SocketAddr,
        listen_place: Option<&str>,
    ) -> Result<Self, Failure> {
        let token = match (std::env::var_os(TOKEN_VARIABLE), &settings.token_file) {
            (Some(token), _) => {
                Some((format!("variable {TOKEN_VARIABLE}"), token.to_string_lossy().into_owned()))
            }
            (None, Some(file)) => {
                let file = dir.join(file);
                let token = std::fs::read_to_string(&file).outside(|| format!("read {}", file.display()))?;
                Some((format!("file {}", file.display()), token))
            }
            (None, None) => None,
        };
        let Some((place, token)) = token else {
            if address.ip().is_loopback() {
                return Ok(Self { token: None });
            }
            return Err(Failure::usage(format_args!(
                "{}: http.listen is {}, which other machines can reach, and there is no token: put one into the \
                 variable {TOKEN_VARIABLE} or into a file that `http.token_file` names, or listen on \
                 127.0.0.1",
                listen_place.unwrap_or("default"),
                settings.listen
            )));
        };
        let token = token.trim();
        let is_fit = (TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&token.len())
            && token.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_fit {
            return Err(Failure::usage(format_args!(
                "the {place} holds no token: write {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} visible ASCII \
                 characters without spaces, for example what `openssl rand -hex 32` prints"
            )));
        }
        Ok(Self { token: Some(blake3::hash(token.as_bytes())) })
    }

    fn permits(&self, request: &ServiceRequest) -> Result<(), Problem> {
        let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
        if let Some(token) = &self.token {
            let given = header(AUTHORIZATION).and_then(|value| value.split_once(' '));
            return match given {
                Some((scheme, given))
                    if scheme.eq_ignore_ascii_case("bearer")
                        && blake3::hash(given.trim().as_bytes()) == *token =>
                {
                    Ok(())
                }
                _ => Err(Problem::unauthorized()),
            };
        }
        // A page in a browser may be made to ask this machine under a foreign name: the name tells.
        let host = request.uri().host().or_else(|| header(HOST).map(without_port));
        if host.is_some_and(is_own) { Ok(()) } else { Err(Problem::misdirected()) }
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn is_own(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Lets a request through, or answers it. Whether the node lives and is ready may be asked by anybody.
pub(super) async fn check(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let refused = match request.app_data::<web::Data<Api>>() {
        Some(api) if !endpoints::is_public(request.path()) => api.access.permits(&request).err(),
        Some(_) => None,
        None => Some(Problem::internal("the request reached no node")),
    };
    match refused {
        Some(problem) => Ok(request.into_response(problem.error_response())),
        None => Ok(next.call(request).await?.map_into_boxed_body()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machines_own_names_are_own() {
        for own in ["localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]", "LOCALHOST"] {
            assert!(is_own(own), "{own}");
        }
        for foreign in ["example.com", "localhost.example.com", "10.0.0.1", "", "0.0.0.0"] {
            assert!(!is_own(foreign), "{foreign}");
        }
        assert_eq!(without_port("localhost:7878"), "localhost");
        assert_eq!(without_port("[::1]:7878"), "[::1]");
        assert_eq!(without_port("localhost"), "localhost");
    }
}
