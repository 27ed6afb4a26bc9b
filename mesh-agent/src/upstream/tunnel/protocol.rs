//! What tells the two tunnel protocols apart: where a tunnel is dialled, and what the TLS handshake names.
//!
//! Everything else is one implementation. Invariant: the protocol of a tunnel is what both sides agreed on in the
//! handshake, never what a port suggests.

use std::net::SocketAddr;

use mesh_common::model::TunnelProtocol;

use crate::identity::Alpn;

/// The port on which every implementation of HBONE listens.
pub const HBONE_PORT: u16 = 15008;

/// What is written in the TLS handshake.
const NODEMESH: &[u8] = b"nodemesh/1";
const HBONE: &[u8] = b"h2";

/// What we offer a workload whose protocol this is.
pub fn offer(protocol: TunnelProtocol) -> Alpn {
    match protocol {
        TunnelProtocol::Nodemesh => &[NODEMESH],
        TunnelProtocol::Hbone => &[HBONE],
    }
}

/// What we take on a port of a pod. An agent of ours that was asked for port 15008 comes there too.
pub fn taken_at(port: u16) -> Alpn {
    match port {
        HBONE_PORT => &[HBONE, NODEMESH],
        _ => offer(TunnelProtocol::Nodemesh),
    }
}

/// What a handshake agreed on; `None` if on nothing that we know.
pub fn agreed(alpn: Option<&[u8]>) -> Option<TunnelProtocol> {
    match alpn? {
        NODEMESH => Some(TunnelProtocol::Nodemesh),
        HBONE => Some(TunnelProtocol::Hbone),
        _ => None,
    }
}

/// Where a tunnel to `destination` is dialled.
pub fn door(protocol: TunnelProtocol, destination: SocketAddr) -> SocketAddr {
    match protocol {
        TunnelProtocol::Nodemesh => destination,
        TunnelProtocol::Hbone => SocketAddr::new(destination.ip(), HBONE_PORT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_offered_is_taken_at_its_door_and_understood() {
        let destination: SocketAddr = "10.0.0.1:80".parse().unwrap();
        for protocol in [TunnelProtocol::Nodemesh, TunnelProtocol::Hbone] {
            let [name] = offer(protocol) else {
                panic!("one protocol, one name")
            };
            let taken = taken_at(door(protocol, destination).port());
            assert!(taken.contains(name), "{protocol:?}");
            assert_eq!(agreed(Some(*name)), Some(protocol));
        }
        assert!(
            !taken_at(80).contains(&HBONE),
            "an application's own HTTP/2 is no tunnel"
        );
        assert_eq!(agreed(None), None);
        assert_eq!(agreed(Some(b"http/1.1")), None);
    }

    #[test]
    fn our_own_tunnels_to_port_15008_are_taken_there() {
        let destination: SocketAddr = "[fd00::1]:15008".parse().unwrap();
        let door = door(TunnelProtocol::Nodemesh, destination);
        assert!(taken_at(door.port()).contains(&NODEMESH));
    }
}
