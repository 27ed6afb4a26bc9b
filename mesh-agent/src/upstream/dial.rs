//! Opens the agent's side of a connection, inside the network namespace it belongs to.
//!
//! Outbound sockets open in the source pod's namespace, so its own address, routes and network policy apply.
//! Sockets towards an application open in the application's namespace, from loopback: one source address a
//! client, so that no two clients share a four-tuple space; the record on the socket tells the application who
//! the client really is.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use aya::maps::{HashMap, MapData, MapError, SkStorage};
use mesh_common::kernel::{RecordKind, SockAddr, SocketRecord};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use thiserror::Error;
use tokio::net::{TcpSocket, TcpStream};

use super::tunnel::tuning;
use crate::{kernel::raw, node::Netns};

/// A peer silent for this long is asked whether it is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;
/// How long an application of this node that accepts connections may take to do so.
const LOCAL_PATIENCE: Duration = Duration::from_secs(1);

/// Opens upstream connections for one data worker.
pub struct Dialer {
    records: Mutex<SkStorage<MapData, SocketRecord>>,
    sources: Mutex<HashMap<MapData, u64, SockAddr>>,
}

/// Why there is no upstream connection.
#[derive(Debug, Error)]
#[error("connecting to {addr}: {source}")]
pub struct DialError {
    /// What was dialled.
    pub addr: SocketAddr,
    /// What went wrong.
    #[source]
    pub source: io::Error,
}

/// Where the agent's connections to an application come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A loopback address. Its ports come back quickly (`tcp_tw_reuse` is on for loopback by default), but the
    /// kernel sends no reset to `::1` from an address on another device.
    Loopback,
    /// The application's own address: refusals arrive, but each port is gone for a minute after use.
    Own,
}

/// How a failed connection attempt is told to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// As a closed port is: with a reset.
    Refused,
    /// As a router does that has no way to the host.
    HostUnreachable,
    /// As a router does that has no way to the network.
    NetworkUnreachable,
    /// Not at all: the destination was silent, and so is the agent.
    Silent,
}

impl Refusal {
    /// The refusal in one word, for metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Refused => "connection-refused",
            Self::HostUnreachable => "host-unreachable",
            Self::NetworkUnreachable => "network-unreachable",
            Self::Silent => "timed-out",
        }
    }
}

impl Dialer {
    /// A dialer that writes records to this storage and source addresses to this map.
    pub fn new(records: SkStorage<MapData, SocketRecord>, sources: HashMap<MapData, u64, SockAddr>) -> Self {
        Self {
            records: Mutex::new(records),
            sources: Mutex::new(sources),
        }
    }

    /// Connects from `netns` to `addr`; from `source` when the client chose its own source address and port.
    pub async fn dial(
        &self,
        netns: &Netns,
        addr: SocketAddr,
        source: Option<SocketAddr>,
    ) -> Result<TcpStream, DialError> {
        let Some(source) = source else {
            return connect(netns, addr, |_| Ok(())).await;
        };
        match connect(netns, addr, |socket| raw::bind_beside(socket, source)).await {
            // Another connection to the same destination had this port within the last minute.
            Err(error) if error.source.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {
                connect(netns, addr, |socket| bind_late(socket, source.ip())).await
            }
            other => other,
        }
    }

    /// Connects from `netns` to where a tunnel is to begin. Who does not answer in time counts as silent.
    pub async fn dial_in_time(&self, netns: &Netns, addr: SocketAddr) -> Result<TcpStream, DialError> {
        tokio::time::timeout(tuning::DIAL, self.dial(netns, addr, None))
            .await
            .unwrap_or_else(|_| {
                let source = io::Error::from_raw_os_error(libc::ETIMEDOUT);
                Err(DialError { addr, source })
            })
    }

    /// Connects to an application inside its own namespace, on behalf of `client`, from `source`.
    pub async fn deliver(
        &self,
        netns: &Netns,
        addr: SocketAddr,
        client: SocketAddr,
        source: Source,
    ) -> Result<TcpStream, DialError> {
        let connected = connect(netns, addr, |socket| {
            let ip = match source {
                Source::Loopback => loopback_source(addr.ip(), client),
                Source::Own => addr.ip(),
            };
            bind_late(socket, ip)?;
            let record = SocketRecord {
                peer: client.into(),
                via: SockAddr::from(addr),
                kind: RecordKind::Delivered as u32,
                ..SocketRecord::EMPTY
            };
            self.lock()
                .insert(&socket.as_raw_fd(), record, 0)
                .map_err(io::Error::other)
        });
        if addr.is_ipv4() || source == Source::Own {
            return connected.await;
        }
        // A refusal would not reach `::1`; a local application that accepts answers at once.
        tokio::time::timeout(LOCAL_PATIENCE, connected)
            .await
            .unwrap_or_else(|_| {
                let source = io::ErrorKind::TimedOut.into();
                Err(DialError { addr, source })
            })
    }

    /// Lets the client whose socket has this cookie know under which address the network knows its connection.
    /// To be called before the client is let in.
    pub fn tell_source(&self, cookie: u64, upstream: &TcpStream) {
        let told = upstream.local_addr().map_err(MapError::IoError).and_then(|addr| {
            let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
            sources.insert(cookie, SockAddr::from(addr), 0)
        });
        if let Err(error) = told {
            // The connection works all the same; only `getsockname()` shows another port than the wire.
            tracing::debug!(%error, "a client does not know its port");
        }
    }

    /// The record of an accepted socket; `None` when the kernel half put none on it.
    pub fn record_of(&self, socket: &impl AsRawFd) -> Option<SocketRecord> {
        match self.lock().get(&socket.as_raw_fd(), 0) {
            Ok(record) => Some(record),
            Err(MapError::KeyNotFound) => None,
            Err(error) => {
                tracing::warn!(%error, "reading a socket's record failed; its connection is refused");
                None
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, SkStorage<MapData, SocketRecord>> {
        // The storage lives in the kernel; a panic elsewhere cannot leave it half changed.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DialError {
    /// How the client is to be told.
    pub fn refusal(&self) -> Refusal {
        match self.source.raw_os_error() {
            Some(libc::EHOSTUNREACH) => Refusal::HostUnreachable,
            Some(libc::ENETUNREACH) => Refusal::NetworkUnreachable,
            Some(libc::ETIMEDOUT) => Refusal::Silent,
            _ => Refusal::Refused,
        }
    }

    /// The reason in one word, for metrics.
    pub fn word(&self) -> &'static str {
        match (self.refusal(), self.source.raw_os_error()) {
            (Refusal::Refused, Some(libc::ECONNREFUSED)) => Refusal::Refused.word(),
            (Refusal::Refused, _) => "dial-failed",
            (other, _) => other.word(),
        }
    }
}

/// Settings that the agent's listeners (whose accepted sockets inherit them) and its own sockets share.
///
/// A connection that nobody ends in order is reset: an agent that is killed must not look like a peer that was done.
/// [`in_order`] takes that back.
pub(crate) fn tune(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES),
    )
}

/// Lets a connection end in order: what was written is delivered, then the end.
pub(crate) fn in_order(stream: &TcpStream) {
    // Fails only on a socket that is no socket.
    let _ = SockRef::from(stream).set_linger(None);
}

/// Connects from `netns`, with a socket that is bound as `bind` does it.
async fn connect(
    netns: &Netns,
    addr: SocketAddr,
    bind: impl FnOnce(&Socket) -> io::Result<()>,
) -> Result<TcpStream, DialError> {
    let open = || -> io::Result<TcpSocket> {
        let socket = new_socket(netns, addr)?;
        bind(&socket)?;
        Ok(TcpSocket::from_std_stream(socket.into()))
    };
    let fail = |source| DialError { addr, source };
    open().map_err(fail)?.connect(addr).await.map_err(fail)
}

fn new_socket(netns: &Netns, addr: SocketAddr) -> io::Result<Socket> {
    netns.enter()?;
    let socket = Socket::new(
        Domain::for_address(addr),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    tune(&socket)?;
    Ok(socket)
}

/// Binds to an address and leaves the port to `connect()`, which can share it between destinations.
fn bind_late(socket: &Socket, ip: IpAddr) -> io::Result<()> {
    raw::bind_address_no_port(socket)?;
    socket.bind(&SocketAddr::new(ip, 0).into())
}

/// A loopback source address: for IPv4 one of sixteen million, by client; for IPv6 there is only one.
fn loopback_source(app: IpAddr, client: SocketAddr) -> IpAddr {
    if app.is_ipv6() {
        return Ipv6Addr::LOCALHOST.into();
    }
    let octets = match client.ip() {
        IpAddr::V4(ip) => ip.octets(),
        IpAddr::V6(ip) => {
            let segments = ip.octets();
            [segments[12], segments[13], segments[14], segments[15]]
        }
    };
    // Clear of 127.0/16, which people use, and of the broadcast address.
    let second = 1 + (octets[0] ^ octets[1]) % 254;
    Ipv4Addr::new(127, second, octets[2], octets[3]).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_loopback_sources_of_their_own() {
        let app: IpAddr = "10.0.0.9".parse().unwrap();
        let source = |client: &str| loopback_source(app, client.parse().unwrap());
        assert_ne!(source("10.0.0.1:1"), source("10.0.0.2:1"));
        for client in ["10.0.0.1:1", "255.0.255.255:9", "0.0.0.0:0", "[fd00::7]:1"] {
            let IpAddr::V4(ip) = source(client) else {
                panic!("not IPv4")
            };
            assert!(
                ip.is_loopback() && ip.octets()[1] != 0 && ip.octets()[1] != 255,
                "{ip}"
            );
        }
        assert_eq!(
            loopback_source("fd00::1".parse().unwrap(), "[fd00::2]:1".parse().unwrap()),
            Ipv6Addr::LOCALHOST
        );
    }

    #[test]
    fn errors_reach_the_client_as_they_are() {
        let refusal = |errno| {
            DialError {
                addr: "10.0.0.1:1".parse().unwrap(),
                source: io::Error::from_raw_os_error(errno),
            }
            .refusal()
        };
        assert_eq!(refusal(libc::ECONNREFUSED), Refusal::Refused);
        assert_eq!(refusal(libc::EHOSTUNREACH), Refusal::HostUnreachable);
        assert_eq!(refusal(libc::ENETUNREACH), Refusal::NetworkUnreachable);
        assert_eq!(refusal(libc::ETIMEDOUT), Refusal::Silent);
        assert_eq!(refusal(libc::EMFILE), Refusal::Refused);
    }
}
