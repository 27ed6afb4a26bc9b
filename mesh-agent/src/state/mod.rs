//! What the agent knows of the mesh now: an immutable [`Snapshot`], replaced as a whole by the [`Store`].
//!
//! Sources hand [`Change`](crate::config::Change)s to [`Store::apply`]; the data workers and the command line
//! read whatever snapshot is current, without a lock.
//!
//! The maps are persistent: a new snapshot shares everything with the old one but the path to what changed. A
//! changed workload costs its map paths, one look at the services that are selected by one of its labels, and a rewrite of
//! the endpoint lists that it is in; a changed service costs one pass over the workloads of its namespace; a changed
//! policy costs its compilation, and the workloads that it concerns pay when they are next asked about; a changed
//! route costs its compilation and one look at the other routes of its services, and its table is made when a request
//! first asks for it. None of it depends on the size of the mesh.
//!
//! Invariant: a snapshot reached by any sequence of changes equals the one made from its final objects at once,
//! as long as no two of them claim one address (sources see to that).

mod entry;
mod policies;
mod resolve;
mod routes;
mod selectors;
mod snapshot;
mod store;
mod update;

pub use entry::{Endpoint, Family, ServiceBackend, ServiceEntry, WorkloadEntry};
pub use resolve::Resolution;
pub use snapshot::Snapshot;
pub use store::Store;

#[cfg(test)]
mod tests;
