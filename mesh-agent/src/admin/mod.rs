//! The admin API: what a running agent tells about itself and what it can be told to do.
//!
//! - [`proto`]: the messages, generated from `proto/nodemesh/admin/v1/admin.proto`;
//! - [`Inspect`]: what the agent answers them with;
//! - [`RunDir`] and [`AgentLock`]: where an agent is found, and that there is only one;
//! - [`AdminSocket`] and [`serve`]: the Unix socket and the server on it;
//! - [`serve_http`]: metrics, readiness and liveness for others than the command line;
//! - [`dial`] and [`AdminClient`]: the other end, for the command line and for a successor.
//!
//! The agent hands its [`Inspect`] to [`serve`]. Invariant: nothing here is on the path of a connection, and
//! nothing here changes the agent but through that trait.

mod client;
mod filter;
mod http;
mod inspect;
mod lock;
#[cfg(test)]
pub(crate) mod samples;
mod server;
mod socket;
#[cfg(test)]
mod tests;
pub(crate) mod view;
mod words;

pub use client::{AdminClient, DialError, dial};
pub use http::{Door, DoorAddress, Expose, NoAddress, serve_http};
pub use inspect::{ExplainError, FlowFeed, HandoverError, Inspect, LogError};
pub use lock::{AgentLock, LockError, RunDir};
pub use server::{ServeError, serve};
pub use socket::{AdminSocket, SocketError};
pub use words::Words;

/// The messages of the admin API, with its client and its server.
pub mod proto {
    tonic::include_proto!("nodemesh.admin.v1");
}
