//! Who may connect to whom, and ask for what: pure decisions over policies that were compiled once.
//!
//! `state` compiles each AuthorizationPolicy ([`CompiledPolicy`]), works out which ones concern a workload
//! ([`Governing`]) and hands both to [`WorkloadPolicy`]. The inbound side asks that for a [`Decision`] about the
//! [`ConnectionFacts`] of one connection or the [`RequestFacts`] of one request, and for the [`Report`]s of policies
//! that decide nothing; the command line asks it for a [`Trace`], which the very same code writes.
//!
//! A workload that many rules concern asks only those that could match ([`index`]), and finds the same one.
//!
//! The order of a decision: peer mode, policies that are named but not known, CUSTOM, DENY, ALLOW. A connection whose
//! requests nobody reads is judged as TCP: an ALLOW rule with a field of HTTP never matches, and from DENY and AUDIT
//! rules such fields are dropped, which makes them match more. One with requests is judged before the first of them
//! ([`BeforeRequests`]), and then each request by all fields, its path in the one spelling that [`normalize`] gives it.
//!
//! Invariant: whatever is not known counts against the caller. A negated field about the peer or its token in an ALLOW
//! rule does not match a peer without identity or a request without token, a named policy that is not there denies,
//! and CUSTOM denies, since there is no external authorizer to ask. A decision allocates nothing but the
//! index that the first of its kind makes; words are made when they are asked for.

mod clause;
mod compile;
mod decision;
mod facts;
mod filed;
mod index;
pub mod jwt;
mod list;
mod mode;
mod networks;
mod path;
pub mod pattern;
mod request;
mod scope;
mod template;
mod text;
mod token;
mod trace;
mod workload;

pub use clause::{Field, Miss, Part, Why};
pub use compile::{CompiledPolicy, Reads};
pub use decision::{Decision, Reason, Report, Verdict};
pub use facts::{Channel, ConnectionFacts, Headers, Peer, RequestFacts};
pub use mode::{Modes, PortMode};
pub use path::{BadPath, normalize};
pub use scope::Governing;
pub use token::Token;
pub use trace::{PolicyTrace, RuleTrace, Trace};
pub use workload::{BeforeRequests, Entrance, Interest, WorkloadPolicy};

/// The namespace whose policies concern the whole mesh, unless another one is chosen.
pub const ROOT_NAMESPACE: &str = "nodemesh-system";

#[cfg(test)]
mod tests;
