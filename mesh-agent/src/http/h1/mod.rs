//! HTTP/1.1 on the wire (RFC 9112): strict, without copies, and cancellation-safe.
//!
//! A connection has a [`Reader`] over its read half and a [`Writer`] over its write half; they do not know each other. What one says
//! to the other goes through the caller: an [`Asked`] is made from a request (read or about to be written) and tells the
//! [`Reader`] how to frame the response and the [`Writer`] what the client can take.
//!
//! ```text
//! downstream: reader.request() → RequestHead, then reader.poll_frame() until None, then the next request()
//! upstream:   reader.response(asked) → ResponseHead; a 1xx other than 101 is interim: pass it on, call response() again;
//!             else poll_frame() until None
//! writing:    writer.request(..) or writer.response(..), then { poll_ready, data }*, finish, flush
//! switching:  a head whose `switch` is not Stay ends HTTP on the side that agreed: 101, or 2xx to CONNECT.
//!             reader.into_parts() gives the half and the bytes that followed the head
//! ```
//!
//! **Who writes which header.** The writer owns `Content-Length`, `Transfer-Encoding` and `Connection`: it ignores those in the map (but
//! for the `Content-Length` of a response without a body, to HEAD or a 304) and writes what the [`Framing`] and [`KeepAlive`] say.
//! [`hop_by_hop::strip`] removes the rest of what belongs to one connection. `Date` and `Server` are never invented.
//!
//! **Names** go out in Title-Case: it is what HTTP/1 peers have always sent, and old clients that compare names byte by byte know only that.
//!
//! Invariant: whatever two implementations could read in two ways is refused ([`ReadError`]) and never normalised; after an
//! error the reader gives nothing more.

pub mod hop_by_hop;

mod chunked;
mod encode;
mod error;
mod facts;
mod head;
mod read;
mod scan;
mod target;
mod trailers;
mod write;

#[cfg(test)]
mod tests;

use http::{HeaderValue, Method, StatusCode, Version, request, response};

use facts::Facts;

pub use error::{ReadError, WriteError};
pub use read::{Reader, Readiness};
pub use write::Writer;

/// How much of a message is taken before it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a head: start line and headers with their line ends.
    pub head_bytes: usize,
    /// Bytes of a request target.
    pub target_bytes: usize,
    /// Header lines of a head, and lines of trailers. No more than [`MOST_HEADERS`] count.
    pub headers: usize,
    /// Bytes of trailers with their line ends.
    pub trailer_bytes: usize,
    /// Bytes of one chunk's size line, extensions included.
    pub chunk_line_bytes: usize,
    /// Bytes of a body.
    pub body_bytes: u64,
}

/// The ceiling of [`Limits::headers`].
pub const MOST_HEADERS: usize = 256;

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 64 * 1024,
            target_bytes: 32 * 1024,
            headers: 100,
            trailer_bytes: 8 * 1024,
            chunk_line_bytes: 256,
            body_bytes: u64::MAX,
        }
    }
}

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is no body, whatever the headers say.
    None,
    /// So many bytes; may be 0.
    Length(u64),
    /// Chunks, then trailers.
    Chunked,
    /// Everything until the peer closes: responses only.
    UntilClose,
}

/// Whether the connection carries another message after this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepAlive {
    /// It does.
    Keep,
    /// It is closed after the response.
    Close,
}

/// Whether the client waits for `100 Continue` before it sends the body (RFC 9110 10.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// It does not wait.
    Nothing,
    /// It waits.
    Continue,
}

/// Whether the connection leaves HTTP with this exchange: in a request the wish, in a response the agreement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Switch {
    /// It stays HTTP/1.
    Stay,
    /// To another protocol: the value of `Upgrade`, listed in `Connection` (RFC 9110 7.8).
    Upgrade(HeaderValue),
    /// To a tunnel: CONNECT (RFC 9110 9.3.6).
    Tunnel,
}

/// The form of a request target (RFC 9112 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// `/path?query`: for servers.
    Origin,
    /// `http://host/path?query`: for proxies.
    Absolute,
    /// `host:port`: for CONNECT.
    Authority,
    /// `*`: for OPTIONS.
    Asterisk,
}

impl Target {
    /// The form for a request to a server that was not received over HTTP/1.
    #[must_use]
    pub fn of(parts: &request::Parts) -> Self {
        if parts.method == Method::CONNECT {
            Self::Authority
        } else if parts.method == Method::OPTIONS && parts.uri.path() == "*" {
            Self::Asterisk
        } else {
            Self::Origin
        }
    }
}

/// True for a host as a request may name it, with a port or without: no user, no space, nothing behind.
#[must_use]
pub fn is_host(text: &[u8]) -> bool {
    target::is_host(text, target::Port::Optional)
}

/// What a request wishes of its connection, as a [`Reader`] sees it.
#[must_use]
pub fn wish(parts: &request::Parts) -> Switch {
    if parts.method == Method::CONNECT {
        return Switch::Tunnel;
    }
    let mut facts = Facts::default();
    for (name, value) in &parts.headers {
        facts.note(name, value);
    }
    facts.upgrade(parts.version)
}

/// A request head as read.
#[derive(Debug)]
pub struct RequestHead {
    /// Method, target, version (1.0 or 1.1) and all headers. `Host` is that of an absolute target, if there is one.
    pub parts: request::Parts,
    /// The form the target came in. An absolute one stays absolute in `parts.uri`.
    pub target: Target,
    /// The body that follows: never [`Framing::UntilClose`].
    pub body: Framing,
    /// What the client wants of the connection.
    pub keep_alive: KeepAlive,
    /// Whether it waits for `100 Continue`.
    pub expect: Expect,
    /// Whether it wishes to leave HTTP. HTTP goes on unless the response agrees.
    pub switch: Switch,
}

impl RequestHead {
    /// What the response depends on.
    #[must_use]
    pub fn asked(&self) -> Asked {
        Asked {
            kind: Kind::of(&self.parts.method),
            version: self.parts.version,
            upgrade: match self.switch {
                Switch::Upgrade(_) => Wish::Upgrade,
                Switch::Stay | Switch::Tunnel => Wish::Stay,
            },
        }
    }
}

/// A response head as read.
#[derive(Debug)]
pub struct ResponseHead {
    /// Status, version (1.0 or 1.1) and all headers.
    pub parts: response::Parts,
    /// The body that follows.
    pub body: Framing,
    /// What the server allows.
    pub keep_alive: KeepAlive,
    /// Whether HTTP ends here.
    pub switch: Switch,
}

impl ResponseHead {
    /// True for 1xx except 101: another head follows.
    #[must_use]
    pub fn is_interim(&self) -> bool {
        self.parts.status.is_informational() && self.parts.status != StatusCode::SWITCHING_PROTOCOLS
    }
}

/// What reading and writing of a response need to know of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    kind: Kind,
    version: Version,
    upgrade: Wish,
}

impl Asked {
    /// For a request about to be written with [`Writer::request`], which always says HTTP/1.1.
    #[must_use]
    pub fn of(method: &Method, switch: &Switch) -> Self {
        Self {
            kind: Kind::of(method),
            version: Version::HTTP_11,
            upgrade: match switch {
                Switch::Upgrade(_) => Wish::Upgrade,
                Switch::Stay | Switch::Tunnel => Wish::Stay,
            },
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ordinary,
    Head,
    Connect,
}

impl Kind {
    fn of(method: &Method) -> Self {
        match *method {
            Method::HEAD => Self::Head,
            Method::CONNECT => Self::Connect,
            _ => Self::Ordinary,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Stay,
    Upgrade,
}
