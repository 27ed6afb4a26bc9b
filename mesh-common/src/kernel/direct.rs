//! Connections between pods of one node that the kernel half lets go by themselves.
//!
//! The agent says beforehand who may dial what ([`DirectKey`], [`DirectEntry`]); the kernel half notes each connection
//! that was let go ([`Passage`]) and tells the agent of it ([`PassageEvent`]). A verdict counts only while its
//! generation is the current one.

use super::{FlowKey, SockAddr};

/// The most endpoints that one dialled address may stand for.
pub const DIRECT_TARGETS: usize = 4;

/// Room for connections that were let go.
pub const PASSAGES_MAX: usize = 64 * 1024;

/// How many may be let go at once: fewer than there is room for, since some are let go that end before they are noted.
pub const DIRECT_MAX: usize = 60 * 1024;

/// Value of [`Passage::state`]: the request is on its way.
pub const PASSAGE_ASKED: u32 = 1;

/// Value of [`Passage::state`]: the destination's socket stands.
pub const PASSAGE_OPEN: u32 = 2;

/// Who dials what, the key of `DIRECT`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DirectKey {
    /// Cookie of the network namespace of the pod that dials.
    pub netns: u64,
    /// What it dials.
    pub dialled: SockAddr,
    /// Always zero.
    pub reserved: u32,
}

/// Where such a connection may go, the value of `DIRECT`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectEntry {
    /// Counts only while it is the value in `GENERATION`.
    pub generation: u64,
    /// How many of `targets` are in use.
    pub count: u32,
    /// Applications of pods of this node: what was dialled, or the endpoints of a service.
    pub targets: [SockAddr; DIRECT_TARGETS],
    /// Always zero.
    pub reserved: u32,
}

/// A connection that was let go, keyed in `PASSAGES` by its four-tuple as it is on the network. There from before its
/// request leaves until the end of the socket that dialled.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passage {
    /// Cookie of the network namespace of the pod that dialled.
    pub netns: u64,
    /// Cookie of the socket that dialled.
    pub client: u64,
    /// Cookie of the socket that accepted; 0 while there is none.
    pub server: u64,
    /// Cookie of the network namespace that it is in: whoever bears the address there.
    pub server_netns: u64,
    /// When the request left, nanoseconds since boot (`CLOCK_MONOTONIC`).
    pub since: u64,
    /// What was dialled.
    pub dialled: SockAddr,
    /// [`PASSAGE_ASKED`] or [`PASSAGE_OPEN`].
    pub state: u32,
    /// Process id (in the initial namespace) of the process that dialled.
    pub pid: u32,
    /// Always zero.
    pub reserved: u32,
    /// Name of that process, NUL-padded.
    pub comm: [u8; 16],
}

/// What became of a connection that was let go.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PassageEvent {
    /// Nanoseconds since boot (`CLOCK_MONOTONIC`).
    pub time: u64,
    /// Its four-tuple.
    pub flow: FlowKey,
    /// What is known of it; all zero where it is not known any more.
    pub passage: Passage,
    /// A [`PassageEventKind`] as a number.
    pub kind: u32,
    /// The state its socket had before, as the kernel numbers them.
    pub before: u32,
    /// Bytes that the client sent and the destination's kernel has.
    pub sent: u64,
    /// Bytes that the client's kernel got.
    pub received: u64,
}

/// What happened.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassageEventKind {
    /// The destination answered.
    Opened = 1,
    /// The client's socket has ended.
    Ended = 2,
}

impl PassageEventKind {
    /// The kind behind a number of [`PassageEvent::kind`].
    pub const fn of(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Opened),
            2 => Some(Self::Ended),
            _ => None,
        }
    }
}

const _: () = {
    assert!(size_of::<DirectKey>() == 8 + 20 + 4);
    assert!(size_of::<DirectEntry>() == 8 + 4 + 20 * DIRECT_TARGETS + 4);
    assert!(size_of::<Passage>() == 5 * 8 + 20 + 3 * 4 + 16);
    assert!(size_of::<PassageEvent>() == 8 + size_of::<FlowKey>() + size_of::<Passage>() + 2 * 4 + 2 * 8);
};
