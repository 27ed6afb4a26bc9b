//! A set of networks, asked for one address at a time at the cost of a binary search.

use std::net::IpAddr;

use ipnet::IpNet;

/// Networks of both families.
#[derive(Debug, Default)]
pub(super) struct NetworkSet {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl NetworkSet {
    pub(super) fn new(networks: &[IpNet]) -> Self {
        let mut set = Self::default();
        for network in networks {
            match network {
                IpNet::V4(net) => set.v4.push((net.network().into(), net.broadcast().into())),
                IpNet::V6(net) => set.v6.push((net.network().into(), net.broadcast().into())),
            }
        }
        merge(&mut set.v4);
        merge(&mut set.v6);
        set
    }

    /// Whether one of the networks has the address. An IPv4-mapped IPv6 address means the IPv4 address.
    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => within(&self.v4, ip.into()),
            IpAddr::V6(ip) => within(&self.v6, ip.into()),
        }
    }
}

/// Puts ranges in order, none within another: of two networks one contains the other or they are apart.
fn merge<T: Ord + Copy>(ranges: &mut Vec<(T, T)>) {
    ranges.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
    ranges.dedup_by(|inner, outer| inner.1 <= outer.1);
}

fn within<T: Ord>(ranges: &[(T, T)], value: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= value);
    after.checked_sub(1).is_some_and(|at| value <= ranges[at].1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn edges_families_and_mapped_addresses() {
        let networks =
            ["10.0.0.0/8", "10.1.0.0/16", "192.0.2.7/32", "fd00::/8"].map(|net| net.parse().unwrap());
        let set = NetworkSet::new(&networks);
        for (ip, expected) in [
            ("10.0.0.0", true),
            ("10.255.255.255", true),
            ("9.255.255.255", false),
            ("11.0.0.0", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("::ffff:10.9.9.9", true),
            ("fd12::1", true),
            ("fe80::1", false),
        ] {
            assert_eq!(set.contains(ip.parse().unwrap()), expected, "{ip}");
        }
        let all = NetworkSet::new(&["0.0.0.0/0".parse().unwrap()]);
        assert!(all.contains("255.255.255.255".parse().unwrap()) && !all.contains("::1".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn the_set_says_what_its_networks_say(
            networks in prop::collection::vec((0u32..256, 24u8..33), 0..12),
            low in 0u32..256,
        ) {
            let networks: Vec<IpNet> = networks
                .into_iter()
                .map(|(low, length)| IpNet::new(IpAddr::from((0x0a00_0000 + low).to_be_bytes()), length).unwrap().trunc())
                .collect();
            let ip = IpAddr::from((0x0a00_0000 + low).to_be_bytes());
            prop_assert_eq!(
                NetworkSet::new(&networks).contains(ip),
                networks.iter().any(|network| network.contains(&ip))
            );
        }
    }
}
