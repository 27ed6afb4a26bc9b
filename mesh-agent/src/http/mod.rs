//! Requests: what a connection speaks, and the way of each request through the agent.
//!
//! A connection comes from the listener with somebody who [steers](exchange::Steer) its requests. [`detect`] judges its first
//! bytes; [`server`] takes requests from it; [`exchange`] moves each of them and its answer; [`h1`] is the codec of HTTP/1.1,
//! and the h2 crate that of HTTP/2. Where a request goes and whether it may is decided above this floor.
//!
//! ```text
//! server ──Message──▶ exchange ──▶ Steer ──▶ Hop::Agent    a request in a tunnel
//!                        │  ▲                Hop::Server   a connection of a Shelf, or a new one
//!   Downstream ◀──Pump───┘  └───Pump──▶ Upstream
//! ```
//!
//! Invariant: what is ambiguous on the wire is refused, never repaired; bodies are streamed, and one that broke never looks
//! complete.

pub mod course;
pub mod detect;
pub mod exchange;
pub mod fault;
pub mod h1;
pub mod host;
pub mod mirror;
pub mod overhear;
pub mod pool;
pub mod server;
pub mod trail;
pub mod wire;

mod broken;
mod downstream;
mod io;
mod pump;
mod raw;
mod streams;
mod upstream;

pub(crate) use broken::Broken;
pub use io::{Plain, Transport};

/// The reading half of an HTTP/1 connection.
type Reader = h1::Reader<io::ReadHalf>;
/// Its writing half.
type Writer = h1::Writer<io::WriteHalf>;

/// What is taken of a message on an HTTP/1 connection.
const LIMITS: h1::Limits = h1::Limits {
    head_bytes: 64 * 1024,
    target_bytes: 32 * 1024,
    headers: 100,
    trailer_bytes: 8 * 1024,
    chunk_line_bytes: 256,
    body_bytes: u64::MAX,
};

#[cfg(test)]
mod tests;
