//! The host of a request, wherever it stands.

use http::Uri;
use http::header::{HOST, HeaderValue};
use http::request::Parts;
use http::uri::Authority;

/// A host that a request gets.
#[derive(Debug)]
pub(super) struct Host {
    authority: Authority,
    header: HeaderValue,
}

impl Host {
    pub(super) fn new(host: &str) -> Result<Self, String> {
        let wrong = || format!("{host:?} is not a host");
        let authority: Authority = host.parse().map_err(|_| wrong())?;
        if authority.host().is_empty() || authority.as_str().contains('@') {
            return Err(wrong());
        }
        Ok(Self {
            header: HeaderValue::from_str(host).map_err(|_| wrong())?,
            authority,
        })
    }

    /// Replaces the host in target and header. A request that has none gets the header.
    pub(super) fn put(&self, request: &mut Parts) {
        let mut in_target = false;
        if request.uri.authority().is_some() {
            let mut parts = request.uri.clone().into_parts();
            parts.authority = Some(self.authority.clone());
            if let Ok(uri) = Uri::from_parts(parts) {
                request.uri = uri;
                in_target = true;
            }
        }
        if !in_target || request.headers.contains_key(HOST) {
            request.headers.insert(HOST, self.header.clone());
        }
    }
}
