//! What a connection speaks, judged by its first bytes.
//!
//! The caller shows everything received so far, and asks again with more while the answer is [`Protocol::Undecided`].
//!
//! Invariant: the function is pure and monotonic: an answer other than `Undecided` does not change when bytes follow.

/// What the first bytes of a connection say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// More bytes are needed. At most [`ENOUGH`] bytes are ever needed.
    Undecided,
    /// An HTTP/1.0 or HTTP/1.1 request line begins here.
    Http1,
    /// The preface of HTTP/2 with prior knowledge (RFC 9113 3.4).
    Http2,
    /// A TLS ClientHello record.
    Tls,
    /// Anything else: carried as it is.
    Opaque,
}

/// With so many bytes the answer is never [`Protocol::Undecided`].
pub const ENOUGH: usize = 64;

/// Judges the bytes received so far.
#[must_use]
pub fn detect(seen: &[u8]) -> Protocol {
    if seen.is_empty() {
        return Protocol::Undecided;
    }
    Protocol::Opaque
}
