//! Fields behind a chunked body (RFC 9110 6.5).
//!
//! Invariant: nothing that frames, routes or authorizes a message, or says how to process it, enters it by its trailers: who
//! merges them into the headers would believe it after the decision was made.

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::{Limits, ReadError, head};

/// Reads a block of trailers, its empty line included. Fields that have no place there are left out.
pub(super) fn parse(block: &Bytes, limits: &Limits) -> Result<HeaderMap, ReadError> {
    let mut trailers = HeaderMap::new();
    head::lines(block, limits, |name, value| {
        if is_allowed(&name) {
            trailers.append(name, value);
        }
    })?;
    Ok(trailers)
}

/// The fields that may be sent behind a body, of those given.
pub(super) fn allowed(trailers: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
    trailers.iter().filter(|(name, _)| is_allowed(name))
}

/// RFC 9110 6.5.1, and what tells who a client is.
fn is_allowed(name: &HeaderName) -> bool {
    let is_forbidden = matches!(
        name.as_str(),
        // Framing.
        "connection" | "content-length" | "keep-alive" | "proxy-connection" | "te" | "trailer" | "transfer-encoding" | "upgrade"
        // Routing, and where the request comes from.
        | "forwarded" | "host" | "via"
        // Who asks.
        | "authentication-info" | "authorization" | "cookie" | "proxy-authenticate" | "proxy-authentication-info"
        | "proxy-authorization" | "set-cookie" | "www-authenticate"
        // How to process the request or the response.
        | "age" | "cache-control" | "date" | "expect" | "expires" | "if-match" | "if-modified-since" | "if-none-match"
        | "if-range" | "if-unmodified-since" | "location" | "max-forwards" | "pragma" | "range" | "retry-after" | "vary"
        // How to read the body.
        | "content-encoding" | "content-range" | "content-type"
    );
    !is_forbidden && !name.as_str().starts_with("x-forwarded-")
}
