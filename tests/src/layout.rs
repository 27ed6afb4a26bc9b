//! Names, paths and addresses of one mesh, all derived from its id.
//!
//! Nodes count from 1. With `o` and `h` from the id: pods of node `i` are 10.o.i.2 and up (fd6d:h:i::2 and up), the
//! node itself is `.1`; on the backbone a node is 10.o.255.i; services are 10.o.254.n. Packets to 10.o.253.0/24
//! vanish at the node, those to 10.o.252.0/24 are answered with "host unreachable".

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use anyhow::Result;

use crate::cgroup;

/// Directory of what meshes keep in files: configuration, logs, sockets, output of programs.
pub(crate) const STATE: &str = "/run/nodemesh-tests";

const BACKBONE: u8 = 255;
const SERVICES: u8 = 254;
const BLACK_HOLE: u8 = 253;
const UNREACHABLE: u8 = 252;

/// An IPv4 and an IPv6 address of the same thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
}

impl Pair {
    pub(crate) fn both(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) id: String,
    /// The mesh's own directory below [`STATE`].
    pub(crate) dir: PathBuf,
    /// The mesh's own cgroup.
    pub(crate) cgroup: PathBuf,
    number: u16,
}

impl Layout {
    pub(crate) fn new(id: &str) -> Result<Self> {
        Ok(Self {
            id: id.to_owned(),
            dir: Path::new(STATE).join(id),
            cgroup: cgroup::mount_point()?.join(format!("nodemesh-{id}")),
            number: id
                .bytes()
                .fold(0, |sum: u16, byte| sum.wrapping_mul(37).wrapping_add(byte.into())),
        })
    }

    /// Every namespace of the mesh has a name that begins like this.
    pub(crate) fn netns_prefix(&self) -> String {
        format!("nm-{}-", self.id)
    }

    pub(crate) fn backbone_netns(&self) -> String {
        format!("{}backbone", self.netns_prefix())
    }

    pub(crate) fn node_netns(&self, node: &str) -> String {
        format!("{}{node}", self.netns_prefix())
    }

    pub(crate) fn pod_netns(&self, node: &str, pod: &str) -> String {
        format!("{}{node}.{pod}", self.netns_prefix())
    }

    pub(crate) fn node_dir(&self, node: &str) -> PathBuf {
        self.dir.join(node)
    }

    /// Where output of programs goes.
    pub(crate) fn output_dir(&self) -> PathBuf {
        self.dir.join("output")
    }

    /// Holds what the harness itself starts, such as packet captures.
    pub(crate) fn harness_cgroup(&self) -> PathBuf {
        self.cgroup.join("harness")
    }

    pub(crate) fn agent_cgroup(&self, node: &str) -> PathBuf {
        self.cgroup.join(node).join("agent")
    }

    pub(crate) fn pods_cgroup(&self, node: &str) -> PathBuf {
        self.cgroup.join(node).join("kubepods")
    }

    pub(crate) fn pod_cgroup(&self, node: &str, uid: &str) -> PathBuf {
        self.pods_cgroup(node).join("burstable").join(format!("pod{uid}"))
    }

    pub(crate) fn pod_uid(&self, node: u8, pod: u8) -> String {
        format!(
            "{:04x}{node:02x}{pod:02x}-0000-4000-8000-000000000000",
            self.number
        )
    }

    pub(crate) fn gateway(&self, node: u8) -> Pair {
        self.address(node, 1)
    }

    pub(crate) fn pod(&self, node: u8, pod: u8) -> Pair {
        self.address(node, pod + 1)
    }

    pub(crate) fn on_backbone(&self, node: u8) -> Pair {
        self.address(BACKBONE, node)
    }

    pub(crate) fn service(&self, service: u8) -> Pair {
        self.address(SERVICES, service)
    }

    pub(crate) fn black_hole(&self) -> Pair {
        self.address(BLACK_HOLE, 1)
    }

    pub(crate) fn unreachable(&self) -> Pair {
        self.address(UNREACHABLE, 1)
    }

    /// The network an address lies in, as `ip route` takes it: IPv4, then IPv6.
    pub(crate) fn networks(address: Pair) -> [String; 2] {
        let [a, b, c, _] = address.v4.octets();
        let [s, t, u, ..] = address.v6.segments();
        [format!("{a}.{b}.{c}.0/24"), format!("{s:x}:{t:x}:{u:x}::/64")]
    }

    fn address(&self, network: u8, host: u8) -> Pair {
        Pair {
            v4: Ipv4Addr::new(10, (self.number % 250) as u8 + 1, network, host),
            v6: Ipv6Addr::new(0xfd6d, self.number, network.into(), 0, 0, 0, 0, host.into()),
        }
    }
}
