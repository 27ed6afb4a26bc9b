//! The mesh as plain data: what exists and where, without a trace of how it was learned.
//!
//! Sources (the agent's YAML directory, later a control plane) make these values and the agent's snapshot holds
//! them. One file per kind of object: [`Workload`] and [`Service`], both named by an [`ObjectKey`]. Who a workload
//! is to its peers is a [`SpiffeId`].
//!
//! Invariant: a value of this module was checked by its source: addresses are canonical (an IPv4-mapped IPv6
//! address is written as IPv4), ports are never 0 and names are DNS names.

mod identity;
mod key;
mod service;
mod workload;

pub use identity::{ServiceAccountKey, SpiffeId, SpiffeIdError, TrustDomain, TrustDomainError};
pub use key::ObjectKey;
pub use service::{Service, ServicePort, TargetPort};
pub use workload::{Locate, Workload, WorkloadPort};
