//! The matches that are asked about requests to one path, and an index over them.
//!
//! Many rules for one path tell requests apart by a header, a parameter or the method. Each match that wants an exact
//! value is filed under one of them, the one that the fewest others want, and asked only about requests that have it.
//!
//! Invariant: a match is found iff it holds, and the first one in order wins, indexed or not.

use std::collections::HashMap;
use std::sync::Arc;

use http::Method;
use http::header::HeaderName;

use super::criteria::{Criteria, PathCriterion, Text};
use super::request::Asked;
use super::rule::Rule;

/// A match, and the rule that it leads to.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) criteria: Criteria,
    pub(super) rule: Arc<Rule>,
}

/// Candidates in the order in which they are asked.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    candidates: Vec<Candidate>,
    index: Option<Index>,
    path: AskPath,
}

/// Whether the candidates are still to be asked about the path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum AskPath {
    #[default]
    Known,
    Open,
}

/// Places of candidates, in order.
type Places = Vec<u32>;

#[derive(Debug, Default)]
struct Index {
    plain: Places,
    by_header: HashMap<HeaderName, HashMap<Box<[u8]>, Places>>,
    by_parameter: HashMap<Box<str>, HashMap<Box<str>, Places>>,
    by_method: HashMap<Method, Places>,
}

/// So many candidates are asked one after the other; an index would cost more.
const FEW: usize = 8;

impl Bucket {
    pub(super) fn new(path: AskPath) -> Self {
        Self {
            path,
            ..Self::default()
        }
    }

    /// Adds a candidate that comes after all others.
    pub(super) fn push(&mut self, candidate: Candidate) {
        self.candidates.push(candidate);
    }

    /// Makes the index once all candidates are there.
    pub(super) fn finish(&mut self) {
        self.candidates.shrink_to_fit();
        if self.candidates.len() > FEW {
            self.index = Some(Index::new(&self.candidates));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.candidates.is_empty()
    }

    /// The first candidate that the request fits.
    pub(super) fn select(&self, asked: &Asked<'_>) -> Option<&Candidate> {
        let holds = |candidate: &Candidate| {
            candidate.criteria.besides_path(asked)
                && (self.path == AskPath::Known || candidate.criteria.path.holds(asked.path))
        };
        let Some(index) = &self.index else {
            return self.candidates.iter().find(|candidate| holds(candidate));
        };
        let mut best = usize::MAX;
        index.each(asked, |places| {
            let places = places.iter().filter_map(|place| usize::try_from(*place).ok());
            for place in places.take_while(|place| *place < best) {
                if self.candidates.get(place).is_some_and(&holds) {
                    best = place;
                    return;
                }
            }
        });
        self.candidates.get(best)
    }
}

impl Index {
    fn new(candidates: &[Candidate]) -> Self {
        let mut wanted = HashMap::new();
        for key in candidates
            .iter()
            .flat_map(|candidate| Key::all(&candidate.criteria))
        {
            *wanted.entry(key).or_insert(0u32) += 1;
        }
        let mut index = Self::default();
        for (place, candidate) in (0..).zip(candidates) {
            let rarest = Key::all(&candidate.criteria).min_by_key(|key| wanted.get(key).copied());
            let places = match rarest {
                None => &mut index.plain,
                Some(Key::Header(name, value)) => index
                    .by_header
                    .entry(name.clone())
                    .or_default()
                    .entry(value.as_bytes().into())
                    .or_default(),
                Some(Key::Parameter(name, value)) => index
                    .by_parameter
                    .entry(name.into())
                    .or_default()
                    .entry(value.into())
                    .or_default(),
                Some(Key::Method(method)) => index.by_method.entry(method.clone()).or_default(),
            };
            places.push(place);
        }
        index
    }

    /// Hands out every list that can have a candidate for the request.
    fn each(&self, asked: &Asked<'_>, mut visit: impl FnMut(&[u32])) {
        if !self.by_header.is_empty() {
            for (name, value) in asked.each_header() {
                if let Some(places) = self.by_header.get(name).and_then(|by| by.get(&*value)) {
                    visit(places);
                }
            }
        }
        if !self.by_parameter.is_empty() {
            for (name, value) in asked.parameters() {
                if let Some(places) = self.by_parameter.get(&**name).and_then(|by| by.get(&**value)) {
                    visit(places);
                }
            }
        }
        if let Some(places) = self.by_method.get(asked.method) {
            visit(places);
        }
        visit(&self.plain);
    }
}

/// An exact value that a match wants.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Key<'c> {
    Header(&'c HeaderName, &'c str),
    Parameter(&'c str, &'c str),
    Method(&'c Method),
}

impl<'c> Key<'c> {
    fn all(criteria: &'c Criteria) -> impl Iterator<Item = Self> {
        let headers = criteria.headers.iter().filter_map(|wanted| match &wanted.value {
            Text::Exact(value) => Some(Self::Header(&wanted.name, value)),
            Text::Regex(_) => None,
        });
        let parameters = criteria.query.iter().filter_map(|wanted| match &wanted.value {
            Text::Exact(value) => Some(Self::Parameter(&wanted.name, value)),
            Text::Regex(_) => None,
        });
        let method = criteria.method.as_ref().map(Self::Method);
        headers.chain(parameters).chain(method)
    }
}

impl Candidate {
    /// The bytes of the path that the match is about, when it is a prefix.
    pub(super) fn prefix(&self) -> Option<usize> {
        match &self.criteria.path {
            PathCriterion::Prefix(prefix) => Some(prefix.len()),
            _ => None,
        }
    }
}
