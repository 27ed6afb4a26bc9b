//! Handshakes in memory: who is let in, who is not, and why.

mod handshake;
pub(crate) mod kit;
