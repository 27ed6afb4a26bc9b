//! Answers that send the client elsewhere.

use http::header::{HeaderValue, LOCATION};
use http::uri::Authority;
use http::{StatusCode, request, response};
use mesh_common::model::Redirect;

use super::host::Host;
use super::path::NewPath;
use super::{FilterFailure, MatchedPath};
use crate::routing::request::authority;

/// Where a redirect leads.
#[derive(Debug)]
pub(super) struct RedirectTo {
    scheme: Option<Scheme>,
    hostname: Option<Box<str>>,
    port: Option<u16>,
    pub(super) path: Option<NewPath>,
    status: StatusCode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

impl RedirectTo {
    pub(super) fn new(redirect: &Redirect) -> Result<Self, String> {
        let scheme = match redirect.scheme.as_deref() {
            None => None,
            Some("http") => Some(Scheme::Http),
            Some("https") => Some(Scheme::Https),
            Some(other) => return Err(format!("{other:?} is not a scheme to redirect to")),
        };
        if !matches!(redirect.status, 301 | 302 | 303 | 307 | 308) {
            return Err(format!("{} is not the status of a redirect", redirect.status));
        }
        let status = StatusCode::from_u16(redirect.status).map_err(|error| error.to_string())?;
        if let Some(hostname) = &redirect.hostname {
            Host::new(hostname)?;
        }
        Ok(Self {
            scheme,
            hostname: redirect.hostname.as_deref().map(Into::into),
            port: redirect.port,
            path: redirect.path.as_ref().map(NewPath::new).transpose()?,
            status,
        })
    }

    /// The answer to a request.
    pub(super) fn answer(
        &self,
        request: &request::Parts,
        matched: MatchedPath,
    ) -> Result<response::Parts, FilterFailure> {
        let asked = match request.uri.scheme_str() {
            Some("https") => Scheme::Https,
            _ => Scheme::Http,
        };
        let scheme = self.scheme.unwrap_or(asked);
        let port = match (self.port, self.scheme) {
            (Some(port), _) => port,
            (None, Some(scheme)) => scheme.port(),
            (None, None) => matched.port,
        };
        let asked_host: Option<Authority> = authority(request).and_then(|text| text.parse().ok());
        let host = match (&self.hostname, &asked_host) {
            (Some(hostname), _) => hostname,
            (None, Some(authority)) if !authority.host().is_empty() => authority.host(),
            _ => return Err(FilterFailure::NoHost),
        };
        let path = match (&self.path, request.uri.path_and_query()) {
            (Some(path), _) => Some(path.of(&request.uri, matched)?),
            (None, path) => path.cloned(),
        };
        let path = path.as_ref().map_or("/", |path| path.as_str());
        let port = if port == scheme.port() {
            String::new()
        } else {
            format!(":{port}")
        };
        let location = format!("{}://{host}{port}{path}", scheme.name());
        let location = HeaderValue::try_from(&location).map_err(|_| FilterFailure::Target(location))?;
        let (mut answer, ()) = http::Response::new(()).into_parts();
        answer.status = self.status;
        answer.headers.insert(LOCATION, location);
        Ok(answer)
    }
}

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that goes without saying.
    fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}
