//! What a rule does to requests and answers, or instead of sending a request on.
//!
//! The engine calls [`Filters::apply_request`] with the rule's filters, then with those of the backend it picked, and
//! [`Filters::apply_response`] in the opposite order. A redirect or a preflight answer ends the matter at once.
//!
//! Invariant: nothing is half done that can fail: a request whose filters cannot be followed is not sent on.

mod cors;
mod headers;
mod host;
mod mirror;
mod path;
mod redirect;
mod rewrite;
#[cfg(test)]
mod tests;

use http::header::{HeaderValue, ORIGIN};
use http::{HeaderMap, request, response};
use mesh_common::model::RouteFilter;
use thiserror::Error;

use self::cors::CorsPolicy;
use self::headers::HeaderChange;
use self::mirror::Copies;
use self::redirect::RedirectTo;
use self::rewrite::RewriteTo;
use super::backends::BackendPort;
use super::compile::DropReason;
use super::table::MatchedPath;

/// The filters of a rule, or of one of its backends.
#[derive(Debug, Default)]
pub struct Filters {
    cors: Option<Box<CorsPolicy>>,
    redirect: Option<Box<RedirectTo>>,
    rewrite: Option<Box<RewriteTo>>,
    request: Option<Box<HeaderChange>>,
    response: Option<Box<HeaderChange>>,
    mirrors: Box<[Copies]>,
    /// An extension that is not known.
    extension: Option<Box<str>>,
}

/// What is to be done with a request after its filters were applied.
#[derive(Debug)]
pub enum FilterOutcome {
    /// Send it on.
    Continue,
    /// Answer with this redirect, without a body.
    Redirect(response::Parts),
    /// Answer the browser's question with this, without a body.
    CorsPreflight(response::Parts),
    /// The filters cannot be followed: answer with an error.
    Failed(FilterFailure),
}

/// Why the filters of a rule cannot be followed for a request.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FilterFailure {
    /// An extension that is not known. The answer is 500.
    #[error("the filter {0} is not known")]
    Extension(String),
    /// A redirect to the host of a request that names none, or none that is one. The answer is 400.
    #[error("the request has no host to redirect to")]
    NoHost,
    /// What came out is no target for a request or a `Location`. The answer is 500.
    #[error("the new target of the request would be {0:?}")]
    Target(String),
}

impl Filters {
    /// Compiles a list of filters.
    pub(super) fn new(list: &[RouteFilter]) -> Result<Self, (DropReason, String)> {
        let mut filters = Self::default();
        let mut mirrors = Vec::new();
        let unsupported = |message| (DropReason::UnsupportedValue, message);
        for filter in list {
            match filter {
                RouteFilter::RequestHeaders(change) => {
                    let change = HeaderChange::new(change).map_err(unsupported)?;
                    once(&mut filters.request, change, "RequestHeaderModifier")?;
                }
                RouteFilter::ResponseHeaders(change) => {
                    let change = HeaderChange::new(change).map_err(unsupported)?;
                    once(&mut filters.response, change, "ResponseHeaderModifier")?;
                }
                RouteFilter::Redirect(redirect) => {
                    let redirect = RedirectTo::new(redirect).map_err(unsupported)?;
                    once(&mut filters.redirect, redirect, "RequestRedirect")?;
                }
                RouteFilter::Rewrite(rewrite) => {
                    let rewrite = RewriteTo::new(rewrite).map_err(unsupported)?;
                    once(&mut filters.rewrite, rewrite, "URLRewrite")?;
                }
                RouteFilter::Mirror(mirror) => mirrors.extend(Copies::new(mirror)),
                RouteFilter::Cors(cors) => {
                    let cors = CorsPolicy::new(cors).map_err(unsupported)?;
                    once(&mut filters.cors, cors, "CORS")?;
                }
                RouteFilter::Extension { group, kind, name } => {
                    filters.extension = Some(format!("{group} {kind} {name}").into());
                }
            }
        }
        filters.mirrors = mirrors.into();
        filters.fits(&Self::default())?;
        Ok(filters)
    }

    /// Whether these, of a backend, can follow those of its rule.
    pub(super) fn fits(&self, rule: &Self) -> Result<(), (DropReason, String)> {
        let redirects = self.redirect.is_some() || rule.redirect.is_some();
        let rewrites = self.rewrite.is_some() || rule.rewrite.is_some();
        let changes_path = |filters: &Self| filters.rewrite.as_ref().is_some_and(|to| to.path.is_some());
        let message = if redirects && rewrites {
            "RequestRedirect and URLRewrite exclude each other"
        } else if changes_path(self) && changes_path(rule) {
            "the rule and one of its backends both replace the path"
        } else {
            return Ok(());
        };
        Err((DropReason::IncompatibleFilters, message.to_owned()))
    }

    /// Whether there is a redirect, so that nothing is ever sent on.
    pub(super) fn redirects(&self) -> bool {
        self.redirect.is_some()
    }

    /// Whether they need to know which prefix of the path matched.
    pub(super) fn need_prefix(&self) -> bool {
        let redirect = self.redirect.as_ref().and_then(|to| to.path.as_ref());
        let rewrite = self.rewrite.as_ref().and_then(|to| to.path.as_ref());
        [redirect, rewrite]
            .into_iter()
            .flatten()
            .any(path::NewPath::needs_prefix)
    }

    /// Changes a request, or says how to answer it instead. A request that failed is not to be sent on.
    pub fn apply_request(&self, request: &mut request::Parts, path: MatchedPath) -> FilterOutcome {
        match self.changed(request, path) {
            Ok(outcome) => outcome,
            Err(failure) => FilterOutcome::Failed(failure),
        }
    }

    fn changed(
        &self,
        request: &mut request::Parts,
        path: MatchedPath,
    ) -> Result<FilterOutcome, FilterFailure> {
        if let Some(name) = &self.extension {
            return Err(FilterFailure::Extension(name.to_string()));
        }
        if let Some(answer) = self.cors.as_ref().and_then(|cors| cors.preflight(request)) {
            return Ok(FilterOutcome::CorsPreflight(answer));
        }
        if let Some(redirect) = &self.redirect {
            return redirect.answer(request, path).map(FilterOutcome::Redirect);
        }
        if let Some(rewrite) = &self.rewrite {
            rewrite.apply(request, path)?;
        }
        if let Some(change) = &self.request {
            change.apply_to_request(request);
        }
        Ok(FilterOutcome::Continue)
    }

    /// What [`Filters::apply_response`] will want to know of the request, before anything is changed about it.
    pub fn origin(&self, request: &request::Parts) -> Option<HeaderValue> {
        self.cors.as_ref()?;
        request.headers.get(ORIGIN).cloned()
    }

    /// Changes an answer. `origin` is what [`Filters::origin`] gave.
    pub fn apply_response(&self, headers: &mut HeaderMap, origin: Option<&HeaderValue>) {
        if let Some(cors) = &self.cors {
            cors.apply(headers, origin);
        }
        if let Some(change) = &self.response {
            change.apply(headers);
        }
    }

    /// Whether [`Filters::apply_response`] does anything.
    pub fn change_answers(&self) -> bool {
        self.cors.is_some() || self.response.is_some()
    }

    /// Whether there are any copies to be made.
    pub fn copy(&self) -> bool {
        !self.mirrors.is_empty()
    }

    /// Where copies of a request go. `random` is evenly spread over all values.
    pub fn mirrors(&self, random: u64) -> impl Iterator<Item = &BackendPort> {
        (0u64..).zip(&self.mirrors).filter_map(move |(number, mirror)| {
            let drawn = mirror::nth(random, number);
            mirror.wants(drawn).then_some(&mirror.to)
        })
    }

    /// Whether a request passes unchanged, and its answer too.
    pub fn is_empty(&self) -> bool {
        self.cors.is_none()
            && self.redirect.is_none()
            && self.rewrite.is_none()
            && self.request.is_none()
            && self.response.is_none()
            && self.mirrors.is_empty()
            && self.extension.is_none()
    }
}

/// Puts a filter in its place, which must be free.
fn once<T>(place: &mut Option<Box<T>>, filter: T, kind: &str) -> Result<(), (DropReason, String)> {
    if place.replace(Box::new(filter)).is_some() {
        return Err((
            DropReason::IncompatibleFilters,
            format!("{kind} stands there more than once"),
        ));
    }
    Ok(())
}
