//! A route, made ready once when it comes.
//!
//! Invariant: a rule that cannot be followed to the letter is dropped as a whole, and known as such. Nothing of it is
//! left out in silence.

use std::cmp::Ordering;
use std::sync::Arc;

use mesh_common::model::{HttpMatch, PathMatch, Route, RouteKind, RouteMatch, RouteRule, RouteTimeouts};

use super::backends::Backends;
use super::bucket::Candidate;
use super::criteria::{Criteria, PathCriterion};
use super::filters::Filters;
use super::rule::Rule;

/// A route with its rules compiled.
#[derive(Debug)]
pub struct CompiledRoute {
    route: Arc<Route>,
    candidates: Vec<Candidate>,
    rules: usize,
    dropped: Vec<Dropped>,
}

/// A rule that is not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// Which rule of the route, from 0.
    pub rule: usize,
    /// The kind of reason.
    pub reason: DropReason,
    /// The reason in words.
    pub message: String,
}

/// Why a rule is not in force, in the Gateway API's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropReason {
    /// Its filters exclude each other.
    IncompatibleFilters,
    /// It asks for something that the mesh cannot do.
    UnsupportedValue,
}

impl CompiledRoute {
    /// Compiles a route.
    pub fn new(route: Arc<Route>) -> Self {
        let mut candidates = Vec::new();
        let mut dropped = Vec::new();
        let mut rules = 0;
        for (index, rule) in route.rules.iter().enumerate() {
            match compile(&route, index, rule) {
                Ok(compiled) => {
                    rules += 1;
                    candidates.extend(compiled);
                }
                Err((reason, message)) => dropped.push(Dropped {
                    rule: index,
                    reason,
                    message,
                }),
            }
        }
        candidates.shrink_to_fit();
        Self {
            route,
            candidates,
            rules,
            dropped,
        }
    }

    /// The route that it was made of.
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// Whether at least one of its rules can be in force. A route without such a rule is attached to nothing.
    pub fn is_usable(&self) -> bool {
        self.rules > 0
    }

    /// The rules that are not in force, in order.
    pub fn dropped(&self) -> &[Dropped] {
        &self.dropped
    }

    pub(super) fn candidates(&self) -> &[Candidate] {
        &self.candidates
    }

    /// The older route goes first, then the one whose `namespace/name` does.
    pub(super) fn precedence(a: &Self, b: &Self) -> Ordering {
        let created = |route: &Self| (route.route.created.is_none(), route.route.created);
        let names = |route: &Self| route.route.key.to_string();
        created(a).cmp(&created(b)).then_with(|| names(a).cmp(&names(b)))
    }
}

/// The matches of a rule, each leading to it, or why it has to be dropped.
fn compile(
    route: &Arc<Route>,
    index: usize,
    rule: &RouteRule,
) -> Result<impl Iterator<Item = Candidate>, (DropReason, String)> {
    let unsupported = |message| (DropReason::UnsupportedValue, message);
    let every = [match route.kind {
        RouteKind::Http => RouteMatch::Http(HttpMatch {
            path: PathMatch::default(),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
        }),
        RouteKind::Grpc => RouteMatch::Grpc(Default::default()),
    }];
    let matches = match &rule.matches[..] {
        [] => &every[..],
        matches => matches,
    };
    let matches: Vec<_> = matches
        .iter()
        .map(Criteria::new)
        .collect::<Result<_, _>>()
        .map_err(unsupported)?;
    let filters = Filters::new(&rule.filters)?;
    let mut needs_prefix = filters.need_prefix();
    let backends = Backends::new(&rule.backends, |backend| {
        let own = Filters::new(&backend.filters)?;
        own.fits(&filters)?;
        needs_prefix |= own.need_prefix();
        Ok(own)
    })?;
    if filters.redirects() && !rule.backends.is_empty() {
        let message = "RequestRedirect leaves nothing to send to backends";
        return Err((DropReason::IncompatibleFilters, message.to_owned()));
    }
    let prefixes = |criteria: &Criteria| matches!(criteria.path, PathCriterion::Prefix(_));
    if needs_prefix && !matches.iter().all(prefixes) {
        let message = "ReplacePrefixMatch needs matches of type PathPrefix";
        return Err(unsupported(message.to_owned()));
    }
    let limit = |timeout: Option<_>| timeout.filter(|timeout| *timeout > std::time::Duration::ZERO);
    let rule = Arc::new(Rule {
        route: Arc::clone(route),
        index,
        filters: Arc::new(filters),
        backends,
        timeouts: RouteTimeouts {
            request: limit(rule.timeouts.request),
            backend_request: limit(rule.timeouts.backend_request),
        },
        retry: rule.retry.clone(),
    });
    Ok(matches.into_iter().map(move |criteria| Candidate {
        criteria,
        rule: Arc::clone(&rule),
    }))
}
