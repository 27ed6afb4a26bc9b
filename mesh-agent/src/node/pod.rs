//! The pods enrolled on this node.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::{ArcSwap, Guard};
use mesh_common::model::Workload;

use super::Netns;

/// A workload of this node whose traffic the agent carries.
#[derive(Debug)]
pub struct Pod {
    /// The agent's number for it, never used twice in a run.
    pub number: u32,
    /// The workload as it was when it was enrolled.
    pub workload: Arc<Workload>,
    /// Its network namespace.
    pub netns: Arc<Netns>,
    /// The agent's listener ports in that namespace, by data worker.
    pub listener_ports: Vec<u16>,
    captured: AtomicBool,
}

/// Whether everything that a pod dials goes to an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Captured {
    /// So what bears its address and comes from elsewhere is not the pod's.
    Yes,
    /// Not yet, or not any more.
    No,
}

impl Pod {
    /// A pod of which nothing is captured yet.
    pub fn new(number: u32, workload: Arc<Workload>, netns: Arc<Netns>, listener_ports: Vec<u16>) -> Self {
        Self {
            number,
            workload,
            netns,
            listener_ports,
            captured: AtomicBool::new(false),
        }
    }

    /// Says whether the pod's outbound connections are captured.
    pub fn set_captured(&self, captured: Captured) {
        self.captured.store(captured == Captured::Yes, Ordering::Relaxed);
    }

    /// Whether the pod's outbound connections are captured.
    pub fn captured(&self) -> Captured {
        if self.captured.load(Ordering::Relaxed) {
            Captured::Yes
        } else {
            Captured::No
        }
    }

    /// True for an address of the pod on which no application can be meant: a connection to it would come
    /// back to the agent for ever.
    pub fn is_own_listener(&self, addr: SocketAddr) -> bool {
        self.listener_ports.contains(&addr.port())
    }

    /// The pod's address of the same family as `ip`.
    pub fn address_like(&self, ip: IpAddr) -> Option<IpAddr> {
        self.workload
            .addresses
            .iter()
            .copied()
            .find(|own| own.is_ipv4() == ip.is_ipv4())
    }

    /// True for an address of the pod.
    pub fn has_address(&self, ip: IpAddr) -> bool {
        self.workload.addresses.contains(&ip)
    }
}

/// The enrolled pods by address; read on the data path, replaced by enrolment.
#[derive(Debug, Default)]
pub struct PodTable {
    by_address: ArcSwap<HashMap<IpAddr, Arc<Pod>>>,
}

impl PodTable {
    /// The pod that has this address, if it is enrolled here.
    pub fn at(&self, ip: IpAddr) -> Option<Arc<Pod>> {
        self.by_address.load().get(&ip).cloned()
    }

    /// Everything, as of now.
    pub fn load(&self) -> Guard<Arc<HashMap<IpAddr, Arc<Pod>>>> {
        self.by_address.load()
    }

    /// Replaces the table by these pods.
    pub fn replace<'a>(&self, pods: impl Iterator<Item = &'a Arc<Pod>>) {
        let table = pods
            .flat_map(|pod| pod.workload.addresses.iter().map(|ip| (*ip, Arc::clone(pod))))
            .collect();
        self.by_address.store(Arc::new(table));
    }
}
