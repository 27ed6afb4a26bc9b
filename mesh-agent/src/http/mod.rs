//! Requests: what a connection speaks, and the codec of HTTP/1.1.
//!
//! [`detect`] judges the first bytes of a connection; [`h1`] reads and writes messages. Neither dials, routes or decides.
//!
//! Invariant: what is ambiguous on the wire is refused, never repaired.

pub mod detect;
pub mod h1;
