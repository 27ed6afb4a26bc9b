//! The kernel ABI: what the eBPF programs and the node agent tell each other.
//!
//! Addresses are IPv6 throughout, IPv4 as IPv4-mapped (`::ffff:a.b.c.d`), in network byte order; ports are in
//! host byte order. Every type is `repr(C)` without implicit padding. A change of any layout must raise
//! [`ABI_VERSION`]: an agent refuses pinned maps of another version instead of misreading them.

mod addr;
mod direct;
mod event;
#[cfg(feature = "user")]
#[expect(
    unsafe_code,
    reason = "plain-old-data markers for the loader; each type is checked below"
)]
mod user;

pub use addr::{Ip, SockAddr};
pub use direct::{
    DIRECT_MAX, DIRECT_TARGETS, DirectEntry, DirectKey, PASSAGE_ASKED, PASSAGE_OPEN, PASSAGES_MAX, Passage,
    PassageEvent, PassageEventKind,
};
pub use event::{EventKind, FlowEvent, SynEvent, TCP_HEADER_MAX};

/// Version of every layout in this module.
pub const ABI_VERSION: u32 = 2;

/// The most data workers an agent may run; bounds the worker choice in the kernel.
pub const MAX_WORKERS: usize = 16;

/// Size in bytes of each worker's ring of held connection requests.
pub const SYN_RING_BYTES: usize = 256 * 1024;

/// One enrolled pod, keyed in `PODS` by the cookie of its network namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodEntry {
    /// The pod's IPv4 address, mapped; all zero when it has none.
    pub ip4: Ip,
    /// The pod's IPv6 address; all zero when it has none.
    pub ip6: Ip,
    /// The agent's number for this pod, in events.
    pub pod: u32,
    /// How many of `ports` are in use; 0 refuses every connection.
    pub workers: u32,
    /// The listener port of each data worker inside the pod's namespace.
    pub ports: [u16; MAX_WORKERS],
}

/// An address whose inbound connections are steered to the agent, the value of `INBOUND`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InboundEntry {
    /// The agent's number for the pod that owns the address.
    pub pod: u32,
    /// How many listeners stand in `LISTENER_SOCKETS` for it.
    pub workers: u32,
}

/// Key of `LISTENER_SOCKETS`: the listener of one data worker for one pod address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerKey {
    /// The pod address.
    pub ip: Ip,
    /// The data worker.
    pub worker: u32,
}

/// What the kernel knows of one of the agent's listeners, keyed in `LISTENERS` by its socket cookie.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerEntry {
    /// Cookie of the network namespace the listener lives in.
    pub netns: u64,
    /// The agent's number for the pod.
    pub pod: u32,
    /// The data worker whose ring gets the held connection requests.
    pub worker: u32,
}

/// Value in `OPEN_PORTS`: requests to the port are let through at once.
pub const PORT_LET_THROUGH: u32 = 1;

/// Value in `OPEN_PORTS`: an application accepts there, but requests are held, since some may be denied.
pub const PORT_HELD: u32 = 2;

/// A TCP port of a pod on which an application was seen to accept, the key of `OPEN_PORTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortKey {
    /// Cookie of the pod's network namespace.
    pub netns: u64,
    /// Port, host byte order.
    pub port: u16,
    /// 4 or 6.
    pub family: u16,
    /// Always zero.
    pub reserved: u32,
}

/// A destination whose captured connections the agent lets in whatever becomes of their requests, the key of `LET_IN`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LetInKey {
    /// Cookie of the network namespace of who dials.
    pub netns: u64,
    /// What is dialled.
    pub dialled: SockAddr,
    /// Always zero.
    pub reserved: u32,
}

/// A TCP four-tuple in one network namespace, the key of `FLOWS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Cookie of the network namespace.
    pub netns: u64,
    /// The connecting side.
    pub src: SockAddr,
    /// The accepting side.
    pub dst: SockAddr,
}

/// What a socket is told about its peer: the value of the socket storage `SOCKETS`, and of `FLOWS` while the
/// record travels from a connecting socket to the accepted one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketRecord {
    /// The truth: the destination the client dialled, or the client that dialled the server.
    pub peer: SockAddr,
    /// The peer the kernel connected this socket to. The record is stale when it is not the current peer.
    pub via: SockAddr,
    /// What `getsockname()` shows: with a port, this; without one, this address in place of a loopback address;
    /// all zero, what the kernel knows.
    pub local: SockAddr,
    /// A [`RecordKind`] as a number.
    pub kind: u32,
    /// Cookie of the socket that connected.
    pub cookie: u64,
    /// Id of the cgroup of the process that connected.
    pub cgroup: u64,
    /// Process id (in the initial namespace) of the process that connected.
    pub pid: u32,
    /// Always zero.
    pub reserved: u32,
    /// Name of the process that connected, NUL-padded.
    pub comm: [u8; 16],
}

/// Who put a [`SocketRecord`] on its way.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// An application in an enrolled pod dialled out; the agent accepts.
    Captured = 1,
    /// The agent dialled an application; the application accepts.
    Delivered = 2,
    /// An application in an enrolled pod dialled out and was let go to another pod of the node by itself.
    Direct = 3,
}

/// Settings that the agent writes once, the only element of `CONFIG`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// [`ABI_VERSION`] of the agent that made the maps.
    pub abi: u32,
    /// Mark of a connection request that the agent sends on; random, shared by overlapping agents.
    pub mark: u32,
}

impl SocketRecord {
    /// A record of nothing.
    pub const EMPTY: Self = Self {
        peer: SockAddr::UNSPECIFIED,
        via: SockAddr::UNSPECIFIED,
        local: SockAddr::UNSPECIFIED,
        kind: 0,
        cookie: 0,
        cgroup: 0,
        pid: 0,
        reserved: 0,
        comm: [0; 16],
    };
}

impl PodEntry {
    /// An entry that refuses every connection.
    pub const EMPTY: Self = Self {
        ip4: Ip::UNSPECIFIED,
        ip6: Ip::UNSPECIFIED,
        pod: 0,
        workers: 0,
        ports: [0; MAX_WORKERS],
    };
}

/// The sum of the fields' sizes must be the type's size: then there is no padding to leak or to compare.
const _: () = {
    assert!(size_of::<Ip>() == 16);
    assert!(size_of::<SockAddr>() == 20);
    assert!(size_of::<PodEntry>() == 16 + 16 + 4 + 4 + 2 * MAX_WORKERS);
    assert!(size_of::<InboundEntry>() == 8);
    assert!(size_of::<ListenerKey>() == 20);
    assert!(size_of::<ListenerEntry>() == 16);
    assert!(size_of::<PortKey>() == 16);
    assert!(size_of::<LetInKey>() == 8 + 20 + 4);
    assert!(size_of::<FlowKey>() == 8 + 20 + 20);
    assert!(size_of::<SocketRecord>() == 20 * 3 + 4 + 8 + 8 + 4 + 4 + 16);
    assert!(size_of::<Config>() == 8);
};
