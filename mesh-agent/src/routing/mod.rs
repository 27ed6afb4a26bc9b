//! Which rule of which route leads a request: pure decisions over routes that were compiled once.
//!
//! `state` compiles each route ([`CompiledRoute`]), works out which of them hold for the clients of a namespace on a
//! service port, and puts these together to a [`RouteTable`]. The HTTP engine asks the table for the
//! [`Rule`] of a request and the rule for everything else: [`Filters`] to apply, the [`Backends`] to pick from, and
//! how long it may take.
//!
//! Invariant: the answer is the one that a scan of all matches in the Gateway API's order of precedence gives; the
//! table only finds it sooner.

mod backends;
mod bucket;
mod compile;
mod criteria;
mod filters;
mod request;
mod rule;
mod table;
mod trie;

pub use backends::{Backend, BackendPort, Backends, NoBackend};
pub use compile::{CompiledRoute, DropReason, Dropped};
pub use filters::{FilterFailure, FilterOutcome, Filters};
pub use rule::Rule;
pub use table::{Matched, MatchedPath, RouteTable};

#[cfg(test)]
mod tests;
