//! Addresses as the kernel programs and the agent exchange them.

/// An IPv6 or IPv4-mapped address: four words, each in network byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ip(pub [u32; 4]);

/// An address and a port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SockAddr {
    /// The address.
    pub ip: Ip,
    /// The port, host byte order.
    pub port: u16,
    /// Always zero.
    pub reserved: u16,
}

impl Ip {
    /// `::`, which stands for "none".
    pub const UNSPECIFIED: Self = Self([0; 4]);

    const MAPPED_PREFIX: u32 = 0x0000_ffff_u32.to_be();

    /// An IPv4 address in network byte order, mapped.
    #[inline(always)]
    pub const fn v4(word: u32) -> Self {
        Self([0, 0, Self::MAPPED_PREFIX, word])
    }

    /// True for an IPv4-mapped address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == Self::MAPPED_PREFIX
    }

    /// The IPv4 address in network byte order; meaningful only where [`Self::is_v4`] holds.
    #[inline(always)]
    pub const fn v4_word(&self) -> u32 {
        self.0[3]
    }

    /// True for 127.0.0.0/8 and `::1`.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        if self.is_v4() {
            u32::from_be(self.0[3]) >> 24 == 127
        } else {
            self.0[0] == 0 && self.0[1] == 0 && self.0[2] == 0 && self.0[3] == 1u32.to_be()
        }
    }

    /// True for `::` and for 0.0.0.0, which both mean "this host" to `connect()`.
    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        self.0[0] == 0
            && self.0[1] == 0
            && self.0[3] == 0
            && (self.0[2] == 0 || self.0[2] == Self::MAPPED_PREFIX)
    }
}

impl SockAddr {
    /// `[::]:0`, which stands for "none".
    pub const UNSPECIFIED: Self = Self::new(Ip::UNSPECIFIED, 0);

    /// An address and a port in host byte order.
    #[inline(always)]
    pub const fn new(ip: Ip, port: u16) -> Self {
        Self {
            ip,
            port,
            reserved: 0,
        }
    }
}

#[cfg(feature = "user")]
mod std_conversions {
    extern crate std;
    use std::net::{IpAddr, Ipv6Addr, SocketAddr};

    use super::{Ip, SockAddr};

    impl From<IpAddr> for Ip {
        fn from(ip: IpAddr) -> Self {
            let octets = match ip {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            let word =
                |i: usize| u32::from_ne_bytes([octets[i], octets[i + 1], octets[i + 2], octets[i + 3]]);
            Self([word(0), word(4), word(8), word(12)])
        }
    }

    impl From<Ip> for IpAddr {
        /// IPv4-mapped addresses come back as IPv4.
        fn from(ip: Ip) -> Self {
            let mut octets = [0; 16];
            for (chunk, word) in octets.chunks_exact_mut(4).zip(ip.0) {
                chunk.copy_from_slice(&word.to_ne_bytes());
            }
            Ipv6Addr::from(octets).to_canonical()
        }
    }

    impl From<SocketAddr> for SockAddr {
        fn from(addr: SocketAddr) -> Self {
            Self::new(addr.ip().into(), addr.port())
        }
    }

    impl From<SockAddr> for SocketAddr {
        fn from(addr: SockAddr) -> Self {
            Self::new(addr.ip.into(), addr.port)
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn addresses_survive_the_round_trip() {
            for text in ["10.1.2.3:80", "[fd00::1]:443", "127.0.0.1:1", "[::1]:65535"] {
                let addr: SocketAddr = text.parse().unwrap();
                assert_eq!(SocketAddr::from(SockAddr::from(addr)), addr);
            }
        }

        #[test]
        fn classes_of_addresses() {
            let ip = |text: &str| Ip::from(text.parse::<IpAddr>().unwrap());
            assert!(ip("127.3.2.1").is_loopback() && ip("::1").is_loopback());
            assert!(!ip("128.0.0.1").is_loopback() && !ip("::2").is_loopback() && !ip("::").is_loopback());
            assert!(ip("0.0.0.0").is_unspecified() && ip("::").is_unspecified());
            assert!(!ip("0.0.0.1").is_unspecified() && !ip("::1").is_unspecified());
            assert!(ip("10.0.0.1").is_v4() && ip("::ffff:10.0.0.1").is_v4() && !ip("fd00::1").is_v4());
        }
    }
}
