//! Finding the rule for a request.
//!
//! Exact paths are looked up, prefixes are walked down by segment and back up, and only what has neither is asked one
//! after the other: regular expressions, and gRPC matches without an exact service. Each of these places is a
//! [`Bucket`], which finds its own way through many matches.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use http::request::Parts;
use mesh_common::model::RouteKind;

use super::bucket::{AskPath, Bucket, Candidate};
use super::compile::CompiledRoute;
use super::criteria::{PathCriterion, Text, grpc};
use super::request::Asked;
use super::rule::Rule;
use super::trie::PrefixTrie;

/// The rules of all routes that hold for one port of a service and the clients of one namespace.
pub struct RouteTable {
    port: u16,
    kind: RouteKind,
    routes: Vec<Arc<CompiledRoute>>,
    exact: HashMap<Box<str>, Bucket>,
    prefixes: PrefixTrie,
    /// gRPC services, for matches that leave the method open or compare it with a pattern.
    services: HashMap<Box<str>, Bucket>,
    others: Bucket,
}

/// The rule that leads a request.
#[derive(Clone, Copy, Debug)]
pub struct Matched<'t> {
    /// The rule.
    pub rule: &'t Arc<Rule>,
    /// How the path matched it: for [`Filters::apply_request`](super::Filters::apply_request).
    pub path: MatchedPath,
}

/// What filters need to know of a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatchedPath {
    /// How many bytes of the path the rule's prefix covers, when the match was one. 0 for the prefix `/`.
    pub prefix: Option<usize>,
    /// The port of the service that was dialled.
    pub port: u16,
}

impl RouteTable {
    /// Puts together routes of one kind. The order in which they come does not matter.
    pub fn new(port: u16, kind: RouteKind, mut routes: Vec<Arc<CompiledRoute>>) -> Self {
        routes.sort_by(|a, b| CompiledRoute::precedence(a, b));
        let mut candidates: Vec<_> = routes.iter().flat_map(|route| route.candidates()).collect();
        // Stable: what is equal otherwise stays in the order of routes, rules and matches.
        candidates.sort_by(|a, b| a.criteria.precedence(&b.criteria));
        let mut table = Self {
            port,
            kind,
            routes: Vec::new(),
            exact: HashMap::new(),
            prefixes: PrefixTrie::new(),
            services: HashMap::new(),
            others: Bucket::new(AskPath::Open),
        };
        for candidate in candidates {
            table.bucket(&candidate.criteria.path).push(candidate.clone());
        }
        let buckets = table.exact.values_mut().chain(table.services.values_mut());
        buckets
            .chain(table.prefixes.buckets_mut())
            .for_each(Bucket::finish);
        table.others.finish();
        table.routes = routes;
        table
    }

    fn bucket(&mut self, path: &PathCriterion) -> &mut Bucket {
        match path {
            PathCriterion::Exact(path) => self.exact.entry(path.clone()).or_default(),
            PathCriterion::Prefix(prefix) => self.prefixes.bucket(prefix),
            PathCriterion::Grpc {
                service: Some(Text::Exact(service)),
                method: Some(Text::Exact(method)),
            } => {
                let path = format!("/{service}/{method}").into();
                self.exact.entry(path).or_default()
            }
            PathCriterion::Grpc {
                service: Some(Text::Exact(service)),
                ..
            } => self
                .services
                .entry(service.clone())
                .or_insert_with(|| Bucket::new(AskPath::Open)),
            PathCriterion::Regex(_) | PathCriterion::Grpc { .. } => &mut self.others,
        }
    }

    /// The rule for a request, if any wants it. If none does, the answer is 404.
    pub fn select(&self, request: &Parts) -> Option<Matched<'_>> {
        let asked = Asked::new(request);
        let found = self.find(&asked)?;
        Some(Matched {
            rule: &found.rule,
            path: MatchedPath {
                prefix: found.prefix(),
                port: self.port,
            },
        })
    }

    fn find(&self, asked: &Asked<'_>) -> Option<&Candidate> {
        let exact = || self.exact.get(asked.path)?.select(asked);
        let prefix = || {
            self.prefixes
                .of(asked.path)
                .find_map(|bucket| bucket.select(asked))
        };
        let service = || self.services.get(grpc(asked.path)?.0)?.select(asked);
        exact()
            .or_else(prefix)
            .or_else(service)
            .or_else(|| self.others.select(asked))
    }

    /// Whether the rules are those of HTTPRoutes or of GRPCRoutes.
    pub fn kind(&self) -> RouteKind {
        self.kind
    }

    /// The routes that it is made of, in the order of precedence.
    pub fn routes(&self) -> &[Arc<CompiledRoute>] {
        &self.routes
    }
}

impl fmt::Debug for RouteTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.routes.iter().map(|route| &route.route().key);
        f.debug_struct("RouteTable")
            .field("port", &self.port)
            .field("kind", &self.kind)
            .field("routes", &keys.collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
