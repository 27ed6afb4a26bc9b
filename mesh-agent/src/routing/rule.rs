//! One rule of a route, ready to be followed.

use std::sync::Arc;

use mesh_common::model::{Route, RouteRetry, RouteTimeouts};

use super::backends::Backends;
use super::filters::Filters;

/// What happens to the requests that one rule of a route wants.
#[derive(Debug)]
pub struct Rule {
    /// The route it belongs to.
    pub route: Arc<Route>,
    /// Which rule of the route, from 0.
    pub index: usize,
    /// What is done to requests and answers, whatever the backend.
    pub filters: Arc<Filters>,
    /// Where requests go.
    pub backends: Backends,
    /// How long it may take. A limit of zero is none, and already left out.
    pub timeouts: RouteTimeouts,
    /// What is tried again.
    pub retry: Option<RouteRetry>,
}

impl Rule {
    /// Its name, if its author gave it one.
    pub fn name(&self) -> Option<&str> {
        self.route
            .rules
            .get(self.index)
            .and_then(|rule| rule.name.as_deref())
    }
}
