//! What a request takes along until its answer has begun: what its route does to that.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, StatusCode, request, response};

use crate::{
    http::course::Escort,
    routing::{FilterFailure, FilterOutcome, Filters, MatchedPath},
};

/// A request that was led somewhere.
#[derive(Debug, Default)]
pub(in crate::listener) struct Led {
    /// Those of the rule, then those of the backend, where they do something to answers.
    rule: Option<Answering>,
    backend: Option<Answering>,
}

/// Filters, and what they wanted to know of the request.
#[derive(Debug)]
struct Answering {
    filters: Arc<Filters>,
    origin: Option<HeaderValue>,
}

impl Led {
    /// Does to a request what filters say, those of the rule before those of the backend. What comes back is the answer.
    pub(super) fn follow(
        &mut self,
        filters: &Arc<Filters>,
        request: &mut request::Parts,
        path: MatchedPath,
    ) -> Result<Option<Box<response::Parts>>, FilterFailure> {
        if filters.is_empty() {
            return Ok(None);
        }
        if filters.change_answers() {
            let answering = Answering {
                filters: Arc::clone(filters),
                origin: filters.origin(request),
            };
            let place = match self.rule {
                None => &mut self.rule,
                Some(_) => &mut self.backend,
            };
            *place = Some(answering);
        }
        match filters.apply_request(request, path) {
            FilterOutcome::Continue => Ok(None),
            FilterOutcome::Redirect(mut answer) => {
                self.answered(answer.status, &mut answer.headers);
                Ok(Some(Box::new(answer)))
            }
            FilterOutcome::CorsPreflight(answer) => Ok(Some(Box::new(answer))),
            FilterOutcome::Failed(failure) => Err(failure),
        }
    }
}

impl Escort for Led {
    fn answered(&mut self, _: StatusCode, headers: &mut HeaderMap) {
        for answering in [&self.backend, &self.rule].into_iter().flatten() {
            let Answering { filters, origin } = answering;
            filters.apply_response(headers, origin.as_ref());
        }
    }
}
