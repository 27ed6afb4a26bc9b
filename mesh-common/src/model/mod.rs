//! The mesh as plain data: what exists and where, without a trace of how it was learned.
//!
//! Sources (the agent's YAML directory, later a control plane) make these values and the agent's snapshot holds
//! them. One file per kind of object: [`Workload`], [`Service`], [`Route`], [`AuthorizationPolicy`],
//! [`PeerAuthentication`] and [`RequestAuthentication`], all named by an [`ObjectKey`]. Who a workload is to its peers is a
//! [`SpiffeId`].
//!
//! Invariant: a value of this module was checked by its source: addresses are canonical (an IPv4-mapped IPv6
//! address is written as IPv4), ports are never 0 and names are DNS names.

mod authorization;
mod identity;
mod key;
mod labels;
mod peer_authentication;
mod request_authentication;
mod route;
mod service;
mod workload;

pub use authorization::{
    Action, AuthorizationPolicy, Condition, Enforcement, Operation, PathPattern, Pattern, RequestField, Rule,
    Source, Target, Values,
};
pub use identity::{ServiceAccountKey, SpiffeId, SpiffeIdError, TrustDomain, TrustDomainError};
pub use key::ObjectKey;
pub use labels::Labels;
pub use peer_authentication::{PeerAuthentication, PeerMode};
pub use request_authentication::{
    ClaimHeader, JwtKeys, JwtRule, OriginalToken, RequestAuthentication, TokenPlace,
};
pub use route::{
    BackendRef, BackendTarget, Cors, GrpcMatch, HeaderModifier, HttpMatch, Mirror, NamedMatch, ParentRef,
    PathMatch, PathModifier, Redirect, Rewrite, Route, RouteFilter, RouteKind, RouteMatch, RouteRetry,
    RouteRule, RouteTimeouts, TextMatch,
};
pub use service::{Declared, Service, ServicePort, TargetPort};
pub use workload::{Locate, TunnelProtocol, Workload, WorkloadPort};
