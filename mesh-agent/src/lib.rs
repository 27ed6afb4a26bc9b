//! The Nodemesh node agent.
//!
//! A connection enters at `listener` and leaves at `upstream`; each floor depends only on the ones below it.
#![deny(unsafe_code)]

pub mod kernel;
pub mod node;
pub mod telemetry;
pub mod upstream;
