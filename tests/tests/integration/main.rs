//! The privileged integration tests: one file a theme. They need root and fail, never skip, without it.
//!
//! What holds for plain networking and must hold through the agent too stands in `checks`; `direct` runs it
//! without an agent, which shows that the checks themselves are right.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at its first surprise"
)]

mod captured;
mod checks;
mod claims;
mod clients;
mod corners;
mod direct;
mod explained;
mod fair;
mod harness;
mod http;
mod mtls;
mod observed;
mod opaque;
mod outside;
mod policy;
mod refusals;
mod requests;
mod restart;
mod routes;
mod same_node;
mod smuggling;
mod sustained;
