//! Tunnels: TCP connections carried as HTTP/2 `CONNECT` streams over one mutually authenticated TLS connection.
//!
//! [`client`] dials a tunnel and opens streams in it, [`pool`] keeps tunnels for one data worker, [`carry`] moves the
//! bytes between a stream and a TCP connection; the accepting side stands in `listener`. On the wire this is HBONE's
//! shape (RFC 9113, 8.5): `:authority` is the destination, 200 means joined, anything else says why not.
//!
//! Invariant: a stream belongs to the identity of its tunnel, and a tunnel to one source pod and one destination.

pub mod carry;
pub mod client;
pub mod pool;

use std::net::SocketAddr;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::Refusal;

/// What our agents agree on in the TLS handshake, on the original destination port.
pub const ALPNS: &[&[u8]] = &[b"nodemesh/1"];

/// Why a stream was not joined, in words that the other agent understands: see [`Refusal`].
static REFUSAL: HeaderName = HeaderName::from_static("nodemesh-refusal");

/// The two ways of one stream.
pub struct Stream {
    /// Towards the other end of the tunnel.
    pub send: SendStream<Bytes>,
    /// From the other end of the tunnel.
    pub recv: RecvStream,
}

/// Windows and frames: large enough for a fast link, small enough that one stream cannot fill the agent's memory.
pub(crate) mod tuning {
    use std::time::Duration;

    pub(crate) const STREAM_WINDOW: u32 = 1 << 20;
    pub(crate) const CONNECTION_WINDOW: u32 = 16 << 20;
    pub(crate) const FRAME: u32 = 256 << 10;
    /// What an HTTP/1 head may have, as HTTP/2 counts it: 32 bytes more for each header.
    pub(crate) const HEADER_LIST: u32 = 72 << 10;
    pub(crate) const STREAMS: u32 = 200;
    pub(crate) const SEND_BUFFER: usize = 256 << 10;
    /// A tunnel without streams goes after this long.
    pub(crate) const IDLE: Duration = Duration::from_secs(300);
    /// TLS and HTTP/2 together must be done by then.
    pub(crate) const HANDSHAKE: Duration = Duration::from_secs(5);
}

/// Says in an answer how the client is to be refused.
pub(crate) fn write_refusal(headers: &mut HeaderMap, refusal: Refusal) {
    let word = match refusal {
        Refusal::Refused => "refused",
        Refusal::HostUnreachable => "host-unreachable",
        Refusal::NetworkUnreachable => "network-unreachable",
        Refusal::Silent => "silent",
    };
    headers.insert(REFUSAL.clone(), HeaderValue::from_static(word));
}

/// How the client is to be refused, as an answer says.
pub(crate) fn read_refusal(headers: &HeaderMap) -> Refusal {
    match headers.get(&REFUSAL).map(HeaderValue::as_bytes) {
        Some(b"host-unreachable") => Refusal::HostUnreachable,
        Some(b"network-unreachable") => Refusal::NetworkUnreachable,
        Some(b"silent") => Refusal::Silent,
        _ => Refusal::Refused,
    }
}

/// `for="ip:port"` of a `Forwarded` header (RFC 7239): the client as its own agent saw it.
pub(crate) fn write_forwarded(headers: &mut HeaderMap, client: SocketAddr) {
    if let Ok(value) = HeaderValue::from_str(&format!("for=\"{client}\"")) {
        headers.insert(http::header::FORWARDED, value);
    }
}

/// The client that a `Forwarded` header names.
pub(crate) fn read_forwarded(headers: &HeaderMap) -> Option<SocketAddr> {
    let value = headers.get(http::header::FORWARDED)?.to_str().ok()?;
    value
        .split([';', ','])
        .find_map(|pair| pair.trim().strip_prefix("for="))
        .and_then(|client| client.trim_matches('"').parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_survive_the_tunnel() {
        for refusal in [
            Refusal::Refused,
            Refusal::HostUnreachable,
            Refusal::NetworkUnreachable,
            Refusal::Silent,
        ] {
            let mut headers = HeaderMap::new();
            write_refusal(&mut headers, refusal);
            assert_eq!(read_refusal(&headers), refusal);
        }
        assert_eq!(read_refusal(&HeaderMap::new()), Refusal::Refused);
    }

    #[test]
    fn clients_survive_the_tunnel() {
        for client in ["10.0.0.1:4711", "[fd00::1]:65535"] {
            let client: SocketAddr = client.parse().unwrap();
            let mut headers = HeaderMap::new();
            write_forwarded(&mut headers, client);
            assert_eq!(read_forwarded(&headers), Some(client));
        }
        let mut headers = HeaderMap::new();
        headers.insert(
            http::header::FORWARDED,
            HeaderValue::from_static("by=x; for=\"10.0.0.1:1\";host=y"),
        );
        assert_eq!(read_forwarded(&headers), Some("10.0.0.1:1".parse().unwrap()));
        headers.insert(http::header::FORWARDED, HeaderValue::from_static("for=unknown"));
        assert_eq!(read_forwarded(&headers), None);
    }
}
