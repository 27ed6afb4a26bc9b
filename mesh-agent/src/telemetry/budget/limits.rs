//! How much of the agent one workload may have, and what there is to have.

use std::fmt;

use super::LIMIT;

/// What a workload may take up in this agent at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes held for readers that are slow.
    pub bytes: usize,
    /// Connections, both ways together, streams of tunnels among them.
    pub connections: usize,
    /// Requests that are led one by one.
    pub requests: usize,
}

/// What a workload can have too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Connections: more are refused.
    Connections,
    /// Requests: more are answered by the mesh.
    Requests,
    /// Bytes held: everything is read in small pieces.
    Bytes,
    /// Time of a data worker: its connections wait for those of others.
    WorkerTime,
}

/// Descriptors that connections need: one on each side.
const DESCRIPTORS_EACH: usize = 2;
/// How many workloads at their limit have room beside each other.
const SHARES: usize = 2;
/// Where the number of descriptors is not known.
const DESCRIPTORS: usize = 20_000;
/// Of the places of a workload, one in so many is for a single client: others still reach it.
const GUESTS: usize = 2;

impl Limits {
    /// Of an agent that may open so many files: no workload takes more than half of them.
    pub fn of_descriptors(descriptors: usize) -> Self {
        let connections = (descriptors / DESCRIPTORS_EACH / SHARES).max(GUESTS);
        Self {
            bytes: LIMIT,
            connections,
            requests: connections,
        }
    }

    /// What a single client of a workload may have of `limit`.
    pub(super) fn of_guest(limit: usize) -> usize {
        (limit / GUESTS).max(1)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::of_descriptors(DESCRIPTORS)
    }
}

impl Resource {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Connections, Self::Requests, Self::Bytes, Self::WorkerTime];

    /// The word for it, in metrics, logs and JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Requests => "requests",
            Self::Bytes => "bytes",
            Self::WorkerTime => "worker-time",
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
