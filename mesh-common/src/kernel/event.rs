//! What the kernel half tells the agent over ring buffers.

use super::{SockAddr, SocketRecord};

/// The longest TCP header: 15 words of 4 bytes.
pub const TCP_HEADER_MAX: usize = 60;

/// A connection request held at a listener until the agent knows its fate; in the ring of one data worker.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SynEvent {
    /// Socket cookie of the agent's listener.
    pub listener: u64,
    /// The agent's number for the pod.
    pub pod: u32,
    /// Bytes of `tcp` in use.
    pub tcp_len: u32,
    /// Source of the request, as on the wire.
    pub src: SockAddr,
    /// Destination of the request, as on the wire.
    pub dst: SockAddr,
    /// The client's record; `kind` is 0 when there is none (the request came from outside the pod).
    pub record: SocketRecord,
    /// The TCP header with its options, for sending the request on.
    pub tcp: [u8; TCP_HEADER_MAX],
    /// Always zero.
    pub reserved: u32,
}

/// Something worth telling a person that the data path does not see.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FlowEvent {
    /// Nanoseconds since boot (`CLOCK_MONOTONIC`).
    pub time: u64,
    /// Cookie of the network namespace.
    pub netns: u64,
    /// The agent's number for the pod.
    pub pod: u32,
    /// An [`EventKind`] as a number.
    pub kind: u32,
    /// Source, as far as known.
    pub src: SockAddr,
    /// What was dialled.
    pub dst: SockAddr,
    /// The process's id; 0 when the event has none.
    pub pid: u32,
    /// Always zero.
    pub reserved: u32,
    /// Cookie of the socket; 0 when the event has none.
    pub cookie: u64,
    /// Name of the process.
    pub comm: [u8; 16],
}

impl EventKind {
    /// The kind behind a number of [`FlowEvent::kind`].
    pub const fn of(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Abandoned),
            2 => Some(Self::Refused),
            3 => Some(Self::Dropped),
            _ => None,
        }
    }
}

/// What happened.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A captured connection ended before it was established: refused, timed out or given up.
    Abandoned = 1,
    /// A connection out of an enrolled pod was refused by the kernel half itself.
    Refused = 2,
    /// A connection to an enrolled pod was refused: no agent listens.
    Dropped = 3,
}

const _: () = {
    assert!(size_of::<SynEvent>() == 8 + 4 + 4 + 20 + 20 + size_of::<SocketRecord>() + 60 + 4);
    assert!(size_of::<FlowEvent>() == 8 + 8 + 4 + 4 + 20 + 20 + 4 + 4 + 8 + 16);
};
