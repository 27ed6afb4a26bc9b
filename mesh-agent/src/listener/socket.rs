//! The listening socket of one data worker in one pod.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::{node::Netns, upstream};

/// Connections that may wait to be accepted.
pub(super) const BACKLOG: i32 = 4096;

/// Opens a listener on every address of the namespace, IPv4 and IPv6, on a port of the kernel's choice. Where the
/// kernel has no IPv6 it listens on IPv4 alone.
pub fn open(netns: &Netns) -> io::Result<Socket> {
    netns.enter()?;
    match listen(Domain::IPV6, SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))) {
        Ok(socket) => Ok(socket),
        Err(_) => listen(Domain::IPV4, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))),
    }
}

/// The port a listener was given.
pub fn port(socket: &Socket) -> io::Result<u16> {
    socket
        .local_addr()?
        .as_socket()
        .map(|addr| addr.port())
        .ok_or_else(|| io::Error::other("a listener without an address"))
}

fn listen(domain: Domain, addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(false)?;
    }
    // Accepted sockets inherit these.
    upstream::tune(&socket)?;
    socket.bind(&addr.into())?;
    // Accepted sockets hold the port that was dialled, an application's, as its own would: an application that sets
    // this itself, as servers do, can listen on its port again beside them. After `bind`, for the port is ours alone.
    socket.set_reuse_address(true)?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}
