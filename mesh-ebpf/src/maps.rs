//! Everything the programs share with the agent. Names here are the names of the pins.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, ArrayOfMaps, HashMap, LruHashMap, PerCpuArray, RingBuf, SkStorage, SockHash},
    macros::btf_map,
};
use mesh_common::kernel::{
    Config, DIRECT_MAX, DirectEntry, DirectKey, FlowKey, InboundEntry, Ip, LetInKey, ListenerEntry,
    ListenerKey, MAX_WORKERS, PASSAGES_MAX, Passage, PodEntry, PortKey, SYN_RING_BYTES, SockAddr,
    SocketRecord,
};

const MAX_PODS: usize = 1024;
/// Two addresses a pod, 16 workers, and as many again while one agent takes over from another.
const MAX_LISTENERS: usize = 64 * MAX_PODS;
const MAX_PENDING: usize = 32 * 1024;
const MMAPABLE: usize = 1 << 10;

/// Settings, written once by the agent that creates the maps.
#[btf_map]
pub static CONFIG: Array<Config, 1> = Array::new();

/// Enrolled pods by the cookie of their network namespace: the one switch of capture.
#[btf_map]
pub static PODS: HashMap<u64, PodEntry, MAX_PODS, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// Cgroup ids of the agents, whose sockets are never captured.
#[btf_map]
pub static AGENTS: HashMap<u64, u32, 16> = HashMap::new();

/// Pod addresses whose inbound connections are steered to the agent.
#[btf_map]
pub static INBOUND: HashMap<Ip, InboundEntry, { 4 * MAX_PODS }, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// The agent's listeners, by pod address and data worker.
#[btf_map]
pub static LISTENER_SOCKETS: SockHash<ListenerKey, MAX_LISTENERS> = SockHash::new();

/// What is known of each listener, by its socket cookie.
#[btf_map]
pub static LISTENERS: HashMap<u64, ListenerEntry, MAX_LISTENERS, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// Connections held by each data worker; the agent maps this array and writes it, `connect` and `lookup` choose by it.
#[btf_map]
pub static LOADS: Array<u64, MAX_WORKERS, MMAPABLE> = Array::new();

/// Ports on which an application was seen to accept: requests to them are not held.
#[btf_map]
pub static OPEN_PORTS: LruHashMap<PortKey, u32, 8192> = LruHashMap::new();

/// Destinations whose captured connections are not held: the agent lets them in before it knows where their requests
/// go. Each agent's own.
#[btf_map]
pub static LET_IN: LruHashMap<LetInKey, u32, 8192> = LruHashMap::new();

/// The record of each socket, on the socket itself.
#[btf_map]
pub static SOCKETS: SkStorage<SocketRecord> = SkStorage::new();

/// Records on their way from a connecting socket to the accepted one.
#[btf_map]
pub static FLOWS: LruHashMap<FlowKey, SocketRecord, MAX_PENDING> = LruHashMap::new();

/// The address under which the network knows a captured connection, by the cookie of the client's socket: put in by
/// the agent before the client is let in, taken by the client's socket when it is.
#[btf_map]
pub static SOURCES: LruHashMap<u64, SockAddr, MAX_PENDING> = LruHashMap::new();

/// Inbound requests that are held, and by which data worker: a repetition, and the request sent on, must meet the
/// same one. Entries are left to the LRU order; a stale one only repeats a choice.
#[btf_map]
pub static HELD: LruHashMap<FlowKey, u32, 8192> = LruHashMap::new();

/// One ring of held connection requests for each data worker, put in by the agent.
#[btf_map]
pub static SYN_RINGS: ArrayOfMaps<RingBuf<u8, SYN_RING_BYTES>, MAX_WORKERS> = ArrayOfMaps::new();

/// Flow events; drained on a timer, so nothing is woken up for them.
#[btf_map]
pub static EVENTS: RingBuf<u8, { 1024 * 1024 }> = RingBuf::new();

/// Who may dial what without the agent. Each agent's own: an agent that begins has said nothing yet.
#[btf_map]
pub static DIRECT: LruHashMap<DirectKey, DirectEntry, 8192> = LruHashMap::new();

/// The generation of `DIRECT` that counts; 0, and at the start, none.
#[btf_map]
pub static GENERATION: Array<u64, 1> = Array::new();

/// The connections that were let go.
#[btf_map]
pub static PASSAGES: HashMap<FlowKey, Passage, PASSAGES_MAX, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// The sockets of those connections, by their cookies, each with the time when it was let go: when this is full no more
/// are. Each agent's own, of the size that it was told.
#[btf_map]
pub static ROOM: HashMap<u64, u64, DIRECT_MAX, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();

/// How often there was no room.
#[btf_map]
pub static FULL: PerCpuArray<u64, 1> = PerCpuArray::new();

/// What becomes of them; drained on a timer.
#[btf_map]
pub static PASSAGE_EVENTS: RingBuf<u8, { 1024 * 1024 }> = RingBuf::new();
