//! Where connections enter: one data worker's listeners, and the requests held at them.
//!
//! A request comes in one of two ways. Usually the kernel half holds it ([`held`]): the worker dials first, then
//! sends the request on ([`answer`]), so that the client learns from its own `connect()` what became of it. A
//! request to an application that is known to accept is let through at once, and the worker dials after the
//! accept; so is one to a destination whose requests are led one by one, each to an endpoint of its own. [`accept`]
//! joins both; [`journey`] says what a connection means, and [`serve`] is its life from there; [`data_path`] is what the
//! connections of a worker share. Connections of other agents, each with many connections in it, are [`mesh`]'s;
//! [`admission`] bounds how many of them shake hands at once. What needs no agent is let go: [`direct`]. Where requests
//! are led one by one, [`requests`] says where to.

pub mod accept;
mod admission;
pub mod answer;
mod data_path;
pub mod direct;
pub mod held;
mod identities;
mod journey;
mod measure;
mod mesh;
mod requests;
mod serve;
pub mod socket;
mod terms;

pub use accept::PodListener;
pub use data_path::{DataPath, Serving};
pub(crate) use journey::{account_of, identity_of};
pub(crate) use requests::backend_of;
