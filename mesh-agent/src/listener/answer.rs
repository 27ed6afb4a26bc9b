//! Answers a held connection request in the pod's own network namespace, by raw packets.
//!
//! Three answers exist: the request itself, sent on so that the kernel completes the handshake; a reset, as a
//! closed port sends it (RFC 9293, 3.10.7.1); and an unreachable, as a router sends it (RFC 792, RFC 4443).
//! A request that gets no answer is the client's to repeat and to give up.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use mesh_common::kernel::SynEvent;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{node::Netns, upstream::Refusal};

const IPPROTO_ICMP: u8 = 1;
const IPPROTO_TCP: u8 = 6;
const IPPROTO_ICMPV6: u8 = 58;
const IPPROTO_RAW: i32 = 255;
const HOPS: u8 = 64;
const IPV4_HEADER: usize = 20;
const TCP_HEADER: usize = 20;
const TCP_RST: u8 = 0x04;
const TCP_ACK: u8 = 0x10;
const TCP_CHECKSUM_AT: usize = 16;

/// The raw sockets of one pod.
#[derive(Debug)]
pub struct Answerer {
    v4: Socket,
    /// Absent where the kernel has no IPv6.
    v6: Option<Socket>,
}

/// The part of a held request that an answer is made from.
#[derive(Clone, Debug)]
pub struct Request {
    src: SocketAddr,
    dst: SocketAddr,
    tcp: Vec<u8>,
}

impl Request {
    /// The request of an event.
    pub fn of(event: &SynEvent) -> Self {
        let length = (event.tcp_len as usize).min(event.tcp.len());
        Self {
            src: event.src.into(),
            dst: event.dst.into(),
            tcp: event.tcp[..length].to_vec(),
        }
    }
}

impl Answerer {
    /// Opens the sockets inside the pod's namespace; requests sent on carry `mark`.
    pub fn open(netns: &Netns, mark: u32) -> io::Result<Self> {
        netns.enter()?;
        let raw = |domain| -> io::Result<Socket> {
            let socket = Socket::new(
                domain,
                Type::RAW.cloexec().nonblocking(),
                Some(Protocol::from(IPPROTO_RAW)),
            )?;
            socket.set_mark(mark)?;
            // Raw sockets of this protocol never receive; no buffer is needed.
            socket.set_recv_buffer_size(1)?;
            Ok(socket)
        };
        Ok(Self {
            v4: raw(Domain::IPV4)?,
            v6: raw(Domain::IPV6).ok(),
        })
    }

    /// Lets the kernel complete the handshake with the agent's listener.
    pub fn send_on(&self, request: &Request) -> io::Result<()> {
        let mut tcp = request.tcp.clone();
        set_checksum(
            &mut tcp,
            TCP_CHECKSUM_AT,
            request.src.ip(),
            request.dst.ip(),
            IPPROTO_TCP,
        );
        self.send(request.src.ip(), request.dst.ip(), IPPROTO_TCP, &tcp)
    }

    /// Tells the client why there is no connection.
    pub fn refuse(&self, request: &Request, refusal: Refusal) -> io::Result<()> {
        match refusal {
            Refusal::Refused => self.send(request.dst.ip(), request.src.ip(), IPPROTO_TCP, &reset(request)),
            Refusal::HostUnreachable | Refusal::NetworkUnreachable => {
                let (protocol, message) = unreachable(request, refusal);
                self.send(request.dst.ip(), request.src.ip(), protocol, &message)
            }
            Refusal::Silent => Ok(()),
        }
    }

    fn send(&self, src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) -> io::Result<()> {
        let packet = packet(src, dst, protocol, payload);
        let socket = match dst {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => self.v6.as_ref().ok_or(io::ErrorKind::Unsupported)?,
        };
        socket.send_to(&packet, &SocketAddr::new(dst, 0).into()).map(drop)
    }
}

/// A whole IP packet. The kernel fills in what depends on the way it takes: length, id and header checksum.
fn packet(src: IpAddr, dst: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = ip_header(src, dst, protocol, payload.len());
    packet.extend_from_slice(payload);
    packet
}

fn ip_header(src: IpAddr, dst: IpAddr, protocol: u8, payload: usize) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let length = u16::try_from(IPV4_HEADER + payload).unwrap_or(u16::MAX);
            let mut header = vec![0x45, 0];
            header.extend_from_slice(&length.to_be_bytes());
            header.extend_from_slice(&[0, 0, 0x40, 0, HOPS, protocol, 0, 0]);
            header.extend_from_slice(&src.octets());
            header.extend_from_slice(&dst.octets());
            header
        }
        _ => {
            let length = u16::try_from(payload).unwrap_or(u16::MAX);
            let mut header = vec![0x60, 0, 0, 0];
            header.extend_from_slice(&length.to_be_bytes());
            header.extend_from_slice(&[protocol, HOPS]);
            header.extend_from_slice(&as_v6(src));
            header.extend_from_slice(&as_v6(dst));
            header
        }
    }
}

fn reset(request: &Request) -> Vec<u8> {
    let acknowledged = sequence(&request.tcp).wrapping_add(1);
    let mut tcp = Vec::with_capacity(TCP_HEADER);
    tcp.extend_from_slice(&request.dst.port().to_be_bytes());
    tcp.extend_from_slice(&request.src.port().to_be_bytes());
    tcp.extend_from_slice(&0u32.to_be_bytes());
    tcp.extend_from_slice(&acknowledged.to_be_bytes());
    tcp.extend_from_slice(&[0x50, TCP_RST | TCP_ACK, 0, 0, 0, 0, 0, 0]);
    set_checksum(
        &mut tcp,
        TCP_CHECKSUM_AT,
        request.dst.ip(),
        request.src.ip(),
        IPPROTO_TCP,
    );
    tcp
}

/// An unreachable message, which quotes the packet it is about.
fn unreachable(request: &Request, refusal: Refusal) -> (u8, Vec<u8>) {
    const CHECKSUM_AT: usize = 2;
    let mut quoted = ip_header(request.src.ip(), request.dst.ip(), IPPROTO_TCP, request.tcp.len());
    quoted.extend_from_slice(&request.tcp);
    let (protocol, kind, code) = match (request.dst.ip(), refusal) {
        (IpAddr::V4(_), Refusal::NetworkUnreachable) => (IPPROTO_ICMP, 3, 0),
        (IpAddr::V4(_), _) => (IPPROTO_ICMP, 3, 1),
        (IpAddr::V6(_), Refusal::NetworkUnreachable) => (IPPROTO_ICMPV6, 1, 0),
        (IpAddr::V6(_), _) => (IPPROTO_ICMPV6, 1, 3),
    };
    let mut message = vec![kind, code, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&quoted);
    if protocol == IPPROTO_ICMP {
        let sum = fold(sum_words(0, &message));
        message[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&sum.to_be_bytes());
    } else {
        set_checksum(
            &mut message,
            CHECKSUM_AT,
            request.dst.ip(),
            request.src.ip(),
            protocol,
        );
    }
    (protocol, message)
}

fn sequence(tcp: &[u8]) -> u32 {
    match tcp.get(4..8) {
        Some(&[a, b, c, d]) => u32::from_be_bytes([a, b, c, d]),
        _ => 0,
    }
}

/// Computes the checksum over pseudo-header and segment (RFC 9293, 3.1; RFC 8200, 8.1) and stores it. What the
/// kernel handed out may lack one: on virtual devices it is left to hardware that is not there.
fn set_checksum(segment: &mut [u8], at: usize, src: IpAddr, dst: IpAddr, protocol: u8) {
    let Some(field) = segment.get_mut(at..at + 2) else {
        return;
    };
    field.fill(0);
    let mut sum = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => sum_words(sum_words(0, &src.octets()), &dst.octets()),
        _ => sum_words(sum_words(0, &as_v6(src)), &as_v6(dst)),
    };
    sum += u64::from(protocol) + segment.len() as u64;
    let checksum = fold(sum_words(sum, segment));
    segment[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}

fn sum_words(sum: u64, bytes: &[u8]) -> u64 {
    bytes.chunks(2).fold(sum, |sum, pair| {
        sum + u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))
    })
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

fn as_v6(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(src: &str, dst: &str) -> Request {
        let mut tcp = vec![0; TCP_HEADER];
        tcp[4..8].copy_from_slice(&0xffff_ffff_u32.to_be_bytes());
        tcp[12] = 0x50;
        Request {
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            tcp,
        }
    }

    fn verify(src: IpAddr, dst: IpAddr, protocol: u8, segment: &[u8]) -> u16 {
        let sum = match (src, dst) {
            (IpAddr::V4(a), IpAddr::V4(b)) => sum_words(sum_words(0, &a.octets()), &b.octets()),
            (a, b) => sum_words(sum_words(0, &as_v6(a)), &as_v6(b)),
        };
        fold(sum_words(
            sum + u64::from(protocol) + segment.len() as u64,
            segment,
        ))
    }

    #[test]
    fn a_reset_acknowledges_the_request() {
        for (src, dst) in [("127.0.0.1:1000", "127.9.8.7:2000"), ("[::1]:1000", "[::1]:2000")] {
            let request = request(src, dst);
            let segment = reset(&request);
            assert_eq!(&segment[..4], &[0x07, 0xd0, 0x03, 0xe8], "ports are swapped");
            assert_eq!(&segment[8..12], &[0, 0, 0, 0], "the sequence number wraps");
            assert_eq!(segment[13], TCP_RST | TCP_ACK);
            assert_eq!(
                verify(request.dst.ip(), request.src.ip(), IPPROTO_TCP, &segment),
                0
            );
        }
    }

    #[test]
    fn an_unreachable_quotes_the_request() {
        let (protocol, message) = unreachable(&request("10.0.0.1:1", "10.0.0.2:2"), Refusal::HostUnreachable);
        assert_eq!((protocol, message[0], message[1]), (IPPROTO_ICMP, 3, 1));
        assert_eq!(fold(sum_words(0, &message)), 0, "the checksum covers the message");
        assert_eq!(message[8], 0x45, "the quoted packet follows");

        let v6 = request("[fd00::1]:1", "[fd00::2]:2");
        let (protocol, message) = unreachable(&v6, Refusal::NetworkUnreachable);
        assert_eq!((protocol, message[0], message[1]), (IPPROTO_ICMPV6, 1, 0));
        assert_eq!(verify(v6.dst.ip(), v6.src.ip(), IPPROTO_ICMPV6, &message), 0);
    }

    #[test]
    fn checksums_match_a_known_packet() {
        // 4500 0073 0000 4000 4011 .... c0a8 0001 c0a8 00c7: its header checksum is b861.
        let header = [
            0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7,
        ];
        assert_eq!(fold(sum_words(0, &header)), 0xb861);
    }
}
