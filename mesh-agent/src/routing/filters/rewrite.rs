//! Another host and another path for a request that is sent on.

use http::Uri;
use http::request::Parts;
use mesh_common::model::Rewrite;

use super::host::Host;
use super::path::NewPath;
use super::{FilterFailure, MatchedPath};

/// What the backend sees instead of what the client asked for.
#[derive(Debug)]
pub(super) struct RewriteTo {
    host: Option<Host>,
    pub(super) path: Option<NewPath>,
}

impl RewriteTo {
    pub(super) fn new(rewrite: &Rewrite) -> Result<Self, String> {
        Ok(Self {
            host: rewrite.hostname.as_deref().map(Host::new).transpose()?,
            path: rewrite.path.as_ref().map(NewPath::new).transpose()?,
        })
    }

    pub(super) fn apply(&self, request: &mut Parts, matched: MatchedPath) -> Result<(), FilterFailure> {
        if let Some(path) = &self.path {
            let target = path.of(&request.uri, matched)?;
            let mut parts = request.uri.clone().into_parts();
            let text = target.to_string();
            parts.path_and_query = Some(target);
            request.uri = Uri::from_parts(parts).map_err(|_| FilterFailure::Target(text))?;
        }
        if let Some(host) = &self.host {
            host.put(request);
        }
        Ok(())
    }
}
