//! The Nodemesh node agent.
//!
//! A connection enters at [`listener`] and leaves at [`upstream`]; each floor depends only on the ones below it.
#![deny(unsafe_code)]

pub mod admin;
pub mod agent;
pub mod balance;
pub mod cli;
pub mod config;
pub mod http;
pub mod identity;
pub mod inbound;
pub mod kernel;
pub mod listener;
pub mod node;
pub mod outbound;
pub mod policy;
pub mod routing;
pub mod runtime;
#[cfg(test)]
mod samples;
pub mod state;
pub mod telemetry;
pub mod upstream;
