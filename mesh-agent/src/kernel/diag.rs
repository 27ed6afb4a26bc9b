//! Ends single TCP sockets of others, by the kernel's socket diagnosis (`sock_diag(7)`, `SOCK_DESTROY`).
//!
//! Invariant: a socket is named by its cookie, never by addresses alone, which a listener or a later connection may
//! have as well.

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
};

use mesh_common::kernel::SockAddr;
use socket2::{Domain, Protocol, Socket, Type};

use crate::node::Netns;

const NETLINK_SOCK_DIAG: i32 = 4;
const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const HEADER: usize = 16;
const REQUEST: usize = 56;
/// Matches whoever has the addresses; only good for a question that nobody can answer.
const NO_COOKIE: u64 = u64::MAX;

/// One TCP socket.
#[derive(Clone, Copy, Debug)]
pub struct SocketName {
    /// Its own address.
    pub local: SocketAddr,
    /// Its peer's.
    pub remote: SocketAddr,
    /// Its cookie.
    pub cookie: u64,
}

/// Ends a socket of the namespace: its owner gets an error, its peer a reset. True if it was there. The calling
/// thread enters the namespace.
pub fn destroy(netns: &Netns, name: SocketName) -> io::Result<bool> {
    netns.enter()?;
    match ask(name)? {
        0 => Ok(true),
        // Gone, or another one's addresses by now.
        libc::ENOENT | libc::ESTALE => Ok(false),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// Whether this kernel ends sockets on demand (`CONFIG_INET_DIAG_DESTROY`), tried on one that cannot be.
pub fn is_able() -> bool {
    let nobody = SocketAddr::from(([127, 255, 255, 254], 0));
    let name = SocketName {
        local: nobody,
        remote: nobody,
        cookie: NO_COOKIE,
    };
    matches!(ask(name), Ok(libc::ENOENT))
}

/// The kernel's answer: 0, or an error's number.
fn ask(name: SocketName) -> io::Result<i32> {
    let mut socket = Socket::new(
        Domain::from(libc::AF_NETLINK),
        Type::RAW.cloexec(),
        Some(Protocol::from(NETLINK_SOCK_DIAG)),
    )?;
    socket.write_all(&message(name))?;
    let mut answer = [0; 512];
    let length = socket.read(&mut answer)?;
    let field = |at: usize| answer[..length].get(at..at + 4);
    let kind = field(4).map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
    match (kind, field(HEADER)) {
        (Some(NLMSG_ERROR), Some(code)) => Ok(-i32::from_ne_bytes([code[0], code[1], code[2], code[3]])),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// `nlmsghdr` and `inet_diag_req_v2` of <linux/netlink.h> and <linux/inet_diag.h>.
fn message(name: SocketName) -> Vec<u8> {
    let family = if name.local.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let mut bytes = Vec::with_capacity(HEADER + REQUEST);
    let length = u32::try_from(HEADER + REQUEST).unwrap_or(0);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(SOCK_DESTROY.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([
        u8::try_from(family).unwrap_or(0),
        u8::try_from(libc::IPPROTO_TCP).unwrap_or(0),
        0,
        0,
    ]);
    // All states.
    bytes.extend(u32::MAX.to_ne_bytes());
    bytes.extend(name.local.port().to_be_bytes());
    bytes.extend(name.remote.port().to_be_bytes());
    for end in [name.local, name.remote] {
        let ip = SockAddr::from(end).ip;
        let words = if end.is_ipv4() {
            [ip.v4_word(), 0, 0, 0]
        } else {
            ip.0
        };
        // In network byte order already.
        bytes.extend(words.into_iter().flat_map(u32::to_ne_bytes));
    }
    bytes.extend([0; 4]);
    // Two words, the lower half first.
    bytes.extend((name.cookie as u32).to_ne_bytes());
    bytes.extend(((name.cookie >> 32) as u32).to_ne_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_as_long_as_it_says() {
        let name = SocketName {
            local: "10.0.0.1:80".parse().unwrap(),
            remote: "10.0.0.2:4711".parse().unwrap(),
            cookie: 0x0102_0304_0506_0708,
        };
        let bytes = message(name);
        assert_eq!(bytes.len(), HEADER + REQUEST);
        assert_eq!(bytes[..4], 72u32.to_ne_bytes());
        assert_eq!(bytes[16], 2);
        assert_eq!(bytes[24..28], [0, 80, 0x12, 0x67]);
        assert_eq!(bytes[28..32], [10, 0, 0, 1]);
        assert_eq!(bytes[44..48], [10, 0, 0, 2]);
        assert_eq!(bytes[64..68], 0x0506_0708u32.to_ne_bytes());
    }

    #[test]
    fn a_socket_of_ipv6_is_named_whole() {
        let name = SocketName {
            local: "[fd00::1]:80".parse().unwrap(),
            remote: "[fd00::2]:4711".parse().unwrap(),
            cookie: 1,
        };
        let bytes = message(name);
        assert_eq!(bytes[16], 10);
        assert_eq!((bytes[28], bytes[43]), (0xfd, 1));
        assert_eq!((bytes[44], bytes[59]), (0xfd, 2));
    }
}
