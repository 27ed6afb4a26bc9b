//! Which rule of which route leads a request: pure decisions over routes that were compiled once.
//!
//! `state` compiles each route ([`CompiledRoute`]), works out which of them hold for the clients of a namespace on a
//! service port ([`Attached`]), and puts these together to a [`RouteTable`]. The HTTP engine asks the table for the
//! [`Rule`] of a request and the rule for everything else: [`Filters`] to apply, the [`Backends`] to pick from, and
//! how long it may take. [`conditions`] tells what became of a route.
//!
//! Invariant: the answer is the one that a scan of all matches in the Gateway API's order of precedence gives; the
//! table only finds it sooner.

mod attach;
mod backends;
mod bucket;
mod compile;
mod criteria;
mod filters;
mod request;
mod rule;
mod status;
mod table;
mod trie;

pub use attach::Attached;
pub use backends::{Backend, BackendPort, Backends, NoBackend};
pub use compile::{CompiledRoute, DropReason, Dropped};
pub use filters::{FilterFailure, FilterOutcome, Filters};
pub use rule::Rule;
pub use status::{CONTROLLER, Condition, ConditionKind, ParentStatus, Reason, Surroundings, conditions};
pub use table::{Matched, MatchedPath, RouteTable};

#[cfg(test)]
mod tests;
