//! Asks about, and ends, single TCP sockets of others, by the kernel's socket diagnosis (`sock_diag(7)`, `SOCK_DESTROY`).
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
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const INET_DIAG_INFO: u16 = 2;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const HEADER: usize = 16;
const REQUEST: usize = 56;
/// Room for the answer about one socket.
const ANSWER: usize = 8192;
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

/// What a socket has carried so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Bytes sent that the other end has.
    pub sent: u64,
    /// Bytes received.
    pub received: u64,
}

/// Ends a socket of the namespace: its owner gets an error, its peer a reset. True if it was there. The calling
/// thread enters the namespace.
pub fn destroy(netns: &Netns, name: SocketName) -> io::Result<bool> {
    netns.enter()?;
    match code_of(&ask(SOCK_DESTROY, name)?)? {
        0 => Ok(true),
        // Gone, or another one's addresses by now.
        libc::ENOENT | libc::ESTALE => Ok(false),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// What a socket of the namespace has carried; `None` when it is not there any more, or only waits for its addresses to
/// be free. The calling thread enters the namespace.
pub fn carried(netns: &Netns, name: SocketName) -> io::Result<Option<Carried>> {
    netns.enter()?;
    let answer = ask(SOCK_DIAG_BY_FAMILY, name)?;
    if kind_of(&answer) == Some(SOCK_DIAG_BY_FAMILY) {
        return Ok(info_of(&answer));
    }
    match code_of(&answer)? {
        libc::ENOENT | libc::ESTALE => Ok(None),
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
    let code = ask(SOCK_DESTROY, name).and_then(|answer| code_of(&answer));
    matches!(code, Ok(libc::ENOENT))
}

/// The kernel's answer, whole.
fn ask(question: u16, name: SocketName) -> io::Result<Vec<u8>> {
    let mut socket = Socket::new(
        Domain::from(libc::AF_NETLINK),
        Type::RAW.cloexec(),
        Some(Protocol::from(NETLINK_SOCK_DIAG)),
    )?;
    socket.write_all(&message(question, name))?;
    let mut answer = vec![0; ANSWER];
    let length = socket.read(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}

fn kind_of(answer: &[u8]) -> Option<u16> {
    number(answer, 4).map(u16::from_ne_bytes)
}

/// The number of the error that the kernel answers with; 0 for none.
fn code_of(answer: &[u8]) -> io::Result<i32> {
    match (kind_of(answer), number(answer, HEADER)) {
        (Some(NLMSG_ERROR), Some(code)) => Ok(-i32::from_ne_bytes(code)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// `tcp_info` among the attributes behind `inet_diag_msg`; a socket in TIME_WAIT has none.
fn info_of(answer: &[u8]) -> Option<Carried> {
    const INET_DIAG_MSG: usize = 72;
    const BYTES_ACKED: usize = 120;
    const BYTES_RECEIVED: usize = 128;
    let mut at = HEADER + INET_DIAG_MSG;
    loop {
        let length = usize::from(u16::from_ne_bytes(number(answer, at)?));
        let kind = u16::from_ne_bytes(number(answer, at + 2)?);
        if kind == INET_DIAG_INFO {
            let info = answer.get(at + 4..at + length)?;
            return Some(Carried {
                // The kernel counts the beginning of the stream as a byte.
                sent: u64::from_ne_bytes(number(info, BYTES_ACKED)?).saturating_sub(1),
                received: u64::from_ne_bytes(number(info, BYTES_RECEIVED)?),
            });
        }
        at += length.max(4).next_multiple_of(4);
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// `nlmsghdr` and `inet_diag_req_v2` of <linux/netlink.h> and <linux/inet_diag.h>.
fn message(question: u16, name: SocketName) -> Vec<u8> {
    let family = if name.local.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let mut bytes = Vec::with_capacity(HEADER + REQUEST);
    let length = u32::try_from(HEADER + REQUEST).unwrap_or(0);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(question.to_ne_bytes());
    let ack = if question == SOCK_DESTROY { NLM_F_ACK } else { 0 };
    bytes.extend((NLM_F_REQUEST | ack).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([
        u8::try_from(family).unwrap_or(0),
        u8::try_from(libc::IPPROTO_TCP).unwrap_or(0),
        1 << (INET_DIAG_INFO - 1),
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
        let bytes = message(SOCK_DESTROY, name);
        assert_eq!(bytes.len(), HEADER + REQUEST);
        assert_eq!(bytes[..4], 72u32.to_ne_bytes());
        assert_eq!(bytes[16], 2);
        assert_eq!(bytes[24..28], [0, 80, 0x12, 0x67]);
        assert_eq!(bytes[28..32], [10, 0, 0, 1]);
        assert_eq!(bytes[44..48], [10, 0, 0, 2]);
        assert_eq!(bytes[64..68], 0x0506_0708u32.to_ne_bytes());
    }

    #[test]
    fn what_a_real_socket_carried_is_told_and_that_it_is_gone() {
        use std::io::{Read as _, Write as _};
        let netns = Netns::open("/proc/self/ns/net".as_ref()).unwrap();
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        client.connect(&server.local_addr().unwrap().into()).unwrap();
        let mut client = std::net::TcpStream::from(client);
        let (mut accepted, _) = server.accept().unwrap();
        client.write_all(b"hello").unwrap();
        accepted.read_exact(&mut [0; 5]).unwrap();
        accepted.write_all(b"you").unwrap();
        client.read_exact(&mut [0; 3]).unwrap();
        let name = SocketName {
            local: client.local_addr().unwrap(),
            remote: client.peer_addr().unwrap(),
            cookie: socket2::SockRef::from(&client).cookie().unwrap(),
        };
        let carried_now = || carried(&netns, name).unwrap();
        assert_eq!(carried_now(), Some(Carried { sent: 5, received: 3 }));
        // Another socket's cookie is not taken for it.
        let other = SocketName {
            cookie: name.cookie + 1,
            ..name
        };
        assert_eq!(carried(&netns, other).unwrap(), None);
        drop(accepted);
        client.read_exact(&mut [0; 1]).unwrap_err();
        drop(client);
        assert_eq!(carried_now(), None);
    }

    #[test]
    fn a_socket_of_ipv6_is_named_whole() {
        let name = SocketName {
            local: "[fd00::1]:80".parse().unwrap(),
            remote: "[fd00::2]:4711".parse().unwrap(),
            cookie: 1,
        };
        let bytes = message(SOCK_DESTROY, name);
        assert_eq!(bytes[16], 10);
        assert_eq!((bytes[28], bytes[43]), (0xfd, 1));
        assert_eq!((bytes[44], bytes[59]), (0xfd, 2));
    }
}
