//! The shared maps, written by enrolment only.
//!
//! Order matters and is the callers' to keep: listeners stand before anything points to them, and what points
//! to them goes before they do.

use std::{net::IpAddr, os::fd::AsRawFd};

use aya::{
    Ebpf,
    maps::{HashMap, MapData, MapError, SockHash},
};
use mesh_common::kernel::{
    InboundEntry, Ip, LetInKey, ListenerEntry, ListenerKey, MAX_WORKERS, PORT_HELD, PORT_LET_THROUGH,
    PodEntry, PortKey,
};

use socket2::Socket;

use super::load::{KernelError, map_error, take};

/// Handles of the shared maps.
pub struct Tables {
    pods: HashMap<MapData, u64, PodEntry>,
    agents: HashMap<MapData, u64, u32>,
    inbound: HashMap<MapData, Ip, InboundEntry>,
    listener_sockets: SockHash<MapData, ListenerKey>,
    listeners: HashMap<MapData, u64, ListenerEntry>,
}

/// What is known of a port that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum PortState {
    /// Whoever asks is delivered, so requests are let through at once.
    LetThrough = PORT_LET_THROUGH,
    /// Some who ask may be denied, so requests are held until that is known.
    Held = PORT_HELD,
}

/// Ports known to be served; shared by the data workers.
pub struct OpenPorts(Shared<PortKey>);

/// Destinations whose captured connections are let in at once; shared by the data workers.
pub struct LetIn(Shared<LetInKey>);

/// A map that the data workers write, one at a time.
struct Shared<K>(std::sync::Mutex<HashMap<MapData, K, u32>>);

impl Tables {
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self {
            pods: take(ebpf, "PODS")?,
            agents: take(ebpf, "AGENTS")?,
            inbound: take(ebpf, "INBOUND")?,
            listener_sockets: take(ebpf, "LISTENER_SOCKETS")?,
            listeners: take(ebpf, "LISTENERS")?,
        })
    }

    /// From now on sockets of this cgroup are an agent's and never captured. The stamp tells agents apart that live
    /// in one cgroup: the last to come counts.
    pub fn admit_agent(&mut self, cgroup_id: u64, stamp: u32) -> Result<(), KernelError> {
        self.agents
            .insert(cgroup_id, stamp, 0)
            .map_err(map_error("AGENTS"))
    }

    /// Sockets of this cgroup are no agent's any more, unless another agent came to live there. False if one did.
    pub fn dismiss_agent(&mut self, cgroup_id: u64, stamp: u32) -> Result<bool, KernelError> {
        match self.agents.get(&cgroup_id, 0) {
            Ok(last) if last != stamp => return Ok(false),
            Ok(_) | Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(map_error("AGENTS")(error)),
        }
        ignore_absent(self.agents.remove(&cgroup_id)).map_err(map_error("AGENTS"))?;
        Ok(true)
    }

    /// As [`Self::admit_agent`], and no other cgroup's are.
    pub fn admit_only(&mut self, cgroup_id: u64) -> Result<(), KernelError> {
        let others: Vec<u64> = self
            .agents
            .keys()
            .filter_map(Result::ok)
            .filter(|id| *id != cgroup_id)
            .collect();
        for id in others {
            ignore_absent(self.agents.remove(&id)).map_err(map_error("AGENTS"))?;
        }
        Ok(())
    }

    /// Captures the pod's outbound connections, or changes where they go.
    pub fn enrol(&mut self, netns_cookie: u64, entry: PodEntry) -> Result<(), KernelError> {
        self.pods
            .insert(netns_cookie, entry, 0)
            .map_err(map_error("PODS"))
    }

    /// Lets the pod's next outbound connections go direct.
    pub fn unenrol(&mut self, netns_cookie: u64) -> Result<(), KernelError> {
        ignore_absent(self.pods.remove(&netns_cookie)).map_err(map_error("PODS"))
    }

    /// Whether the namespace is enrolled, by this agent or one before it.
    pub fn is_enrolled(&self, netns_cookie: u64) -> bool {
        self.pods.get(&netns_cookie, 0).is_ok()
    }

    /// The namespaces enrolled, by this agent or one before it.
    pub fn enrolled(&self) -> Vec<(u64, PodEntry)> {
        self.pods.iter().filter_map(Result::ok).collect()
    }

    /// Makes `listener` the one that gets this worker's inbound connections to `ip`.
    pub fn set_listener(&mut self, ip: IpAddr, worker: u32, listener: &Socket) -> Result<(), KernelError> {
        let key = ListenerKey {
            ip: ip.into(),
            worker,
        };
        self.listener_sockets
            .insert(key, listener.as_raw_fd(), 0)
            .map_err(map_error("LISTENER_SOCKETS"))
    }

    /// Steers inbound connections to `ip` to that many listeners.
    pub fn set_inbound(&mut self, ip: IpAddr, entry: InboundEntry) -> Result<(), KernelError> {
        self.inbound
            .insert(Ip::from(ip), entry, 0)
            .map_err(map_error("INBOUND"))
    }

    /// Forgets an address. Its connections are refused while its namespace's inbound link stands.
    pub fn remove_inbound(&mut self, ip: Ip) -> Result<(), KernelError> {
        ignore_absent(self.inbound.remove(&ip)).map_err(map_error("INBOUND"))?;
        for worker in 0..MAX_WORKERS {
            let key = ListenerKey {
                ip,
                worker: u32::try_from(worker).unwrap_or(u32::MAX),
            };
            ignore_absent(self.listener_sockets.remove(&key)).map_err(map_error("LISTENER_SOCKETS"))?;
        }
        Ok(())
    }

    /// Tells the kernel whose listener this is.
    pub fn describe_listener(&mut self, socket_cookie: u64, entry: ListenerEntry) -> Result<(), KernelError> {
        self.listeners
            .insert(socket_cookie, entry, 0)
            .map_err(map_error("LISTENERS"))
    }

    /// Forgets a listener.
    pub fn forget_listener(&mut self, socket_cookie: u64) -> Result<(), KernelError> {
        ignore_absent(self.listeners.remove(&socket_cookie)).map_err(map_error("LISTENERS"))
    }

    /// Forgets every listener but these. Only for an agent that runs alone.
    pub fn forget_other_listeners(&mut self, own: &[u64]) -> Result<(), KernelError> {
        let others: Vec<u64> = self
            .listeners
            .keys()
            .filter_map(Result::ok)
            .filter(|cookie| !own.contains(cookie))
            .collect();
        others
            .into_iter()
            .try_for_each(|cookie| self.forget_listener(cookie))
    }
}

impl OpenPorts {
    pub(super) fn new(map: HashMap<MapData, PortKey, u32>) -> Self {
        Self(Shared(map.into()))
    }

    /// An application accepts there.
    pub fn insert(&self, port: PortKey, state: PortState) -> Result<(), MapError> {
        self.0.lock().insert(port, state as u32, 0)
    }

    /// Whether an application is known to accept there.
    pub fn contains(&self, port: PortKey) -> bool {
        self.0.lock().get(&port, 0).is_ok()
    }

    /// Whether an application accepts there is not known any more: requests are held.
    pub fn remove(&self, port: PortKey) -> Result<(), MapError> {
        self.0.remove(&port)
    }
}

impl LetIn {
    pub(super) fn new(map: HashMap<MapData, LetInKey, u32>) -> Self {
        Self(Shared(map.into()))
    }

    /// The next connections to it are not held.
    pub fn insert(&self, destination: LetInKey) -> Result<(), MapError> {
        self.0.lock().insert(destination, 1, 0)
    }

    /// The next ones are.
    pub fn remove(&self, destination: LetInKey) -> Result<(), MapError> {
        self.0.remove(&destination)
    }
}

impl<K: aya::Pod> Shared<K> {
    fn remove(&self, key: &K) -> Result<(), MapError> {
        ignore_absent(self.lock().remove(key))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<MapData, K, u32>> {
        // The map lives in the kernel; a panic elsewhere cannot leave it half changed.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// What was to go is gone already.
pub(super) fn ignore_absent(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}
