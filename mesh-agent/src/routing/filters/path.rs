//! Another path for a request, its query kept.

use http::Uri;
use http::uri::PathAndQuery;
use mesh_common::model::PathModifier;

use super::{FilterFailure, MatchedPath};

/// What the path becomes.
#[derive(Debug)]
pub(super) enum NewPath {
    Full(Box<str>),
    /// What stands for the matched prefix, without a slash at the end.
    Prefix(Box<str>),
}

impl NewPath {
    pub(super) fn new(modifier: &PathModifier) -> Result<Self, String> {
        let (new, text) = match modifier {
            PathModifier::Full(text) => (Self::Full(text.as_str().into()), text),
            PathModifier::Prefix(text) => (Self::Prefix(text.trim_end_matches('/').into()), text),
        };
        let empty_prefix = text.is_empty() && new.needs_prefix();
        let fits =
            text.starts_with('/') && !text.contains(['?', '#']) && text.parse::<PathAndQuery>().is_ok();
        if fits || empty_prefix {
            Ok(new)
        } else {
            Err(format!("{text:?} is not a path"))
        }
    }

    pub(super) fn needs_prefix(&self) -> bool {
        matches!(self, Self::Prefix(_))
    }

    /// Path and query of `uri` after the change.
    pub(super) fn of(&self, uri: &Uri, matched: MatchedPath) -> Result<PathAndQuery, FilterFailure> {
        let path = uri.path();
        let mut target = match self {
            Self::Full(full) => full.to_string(),
            Self::Prefix(new) => {
                let rest = matched.prefix.and_then(|length| path.get(length..));
                let rest = rest.ok_or_else(|| FilterFailure::Target(path.to_owned()))?;
                match format!("{new}{rest}") {
                    path if path.is_empty() => "/".to_owned(),
                    path => path,
                }
            }
        };
        if let Some(query) = uri.query() {
            target.push('?');
            target.push_str(query);
        }
        PathAndQuery::try_from(target.as_str()).map_err(|_| FilterFailure::Target(target))
    }
}
