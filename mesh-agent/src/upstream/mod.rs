//! Connecting upstream, and carrying bytes once both sides stand.

pub(crate) use buffer::hand_out;
pub(crate) use dial::{in_order, tune};

mod buffer;
mod dial;
pub mod fair;
pub mod incoming;
pub(crate) mod outgoing;
mod relay;
mod seats;
pub mod session;
mod tap;
pub mod tunnel;
mod unread;

pub use dial::{DialError, Dialer, Refusal, Source};
pub use relay::{Ending, abort, relay};
pub use tap::{Overheard, Tap, tap};
pub(crate) use unread::Unread;

/// The agent's own side of a connection, established.
pub enum Upstream {
    /// A TCP connection.
    Tcp(tokio::net::TcpStream),
    /// A stream in a tunnel, and its place there.
    Tunnel(tunnel::Stream, tunnel::client::Place),
}

impl Upstream {
    /// Makes the coming end a reset.
    pub fn abort(self) {
        match self {
            Self::Tcp(stream) => abort(&stream),
            Self::Tunnel(mut stream, _) => stream.send.send_reset(h2::Reason::CANCEL),
        }
    }
}
