//! What the agent tells the kernel half about connections that need no agent, and what it learns of them.
//!
//! [`Verdicts`] is written by the data workers and by whoever follows the configuration; [`Passages`] is read by the
//! latter. Invariant: a verdict that was reached before the last [`Verdicts::advance`] lets nobody go.

use std::{
    net::SocketAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapError, PerCpuArray, RingBuf},
};
use mesh_common::kernel::{DIRECT_TARGETS, DirectEntry, DirectKey, FlowKey, Passage, SockAddr};

use super::{
    load::{KernelError, take},
    tables::ignore_absent,
};

/// Everything about direct connections, to be handed out.
pub struct DirectMaps {
    /// Who may dial what.
    pub verdicts: Verdicts,
    /// The connections that were let go.
    pub passages: Passages,
    /// What becomes of them.
    pub events: RingBuf<MapData>,
}

/// Who may dial what without the agent.
pub struct Verdicts {
    generation: AtomicU64,
    maps: Mutex<VerdictMaps>,
}

struct VerdictMaps {
    entries: HashMap<MapData, DirectKey, DirectEntry>,
    generation: Array<MapData, u64>,
}

/// The connections that were let go.
pub struct Passages {
    noted: HashMap<MapData, FlowKey, Passage>,
    room: HashMap<MapData, u64, u64>,
    full: PerCpuArray<MapData, u64>,
}

impl DirectMaps {
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self, KernelError> {
        Ok(Self {
            verdicts: Verdicts {
                generation: AtomicU64::new(0),
                maps: Mutex::new(VerdictMaps {
                    entries: take(ebpf, "DIRECT")?,
                    generation: take(ebpf, "GENERATION")?,
                }),
            },
            passages: Passages {
                noted: take(ebpf, "PASSAGES")?,
                room: take(ebpf, "ROOM")?,
                full: take(ebpf, "FULL")?,
            },
            events: take(ebpf, "PASSAGE_EVENTS")?,
        })
    }
}

impl Verdicts {
    /// The generation that counts now. To be asked before what a verdict rests on is looked at.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// From now on no verdict of before counts.
    pub fn advance(&self) -> Result<(), MapError> {
        let mut maps = self.lock();
        let next = self.generation() + 1;
        // First here: a verdict reached in between then bears a number that does not count yet, or still.
        self.generation.store(next, Ordering::Release);
        maps.generation.set(0, next, 0)
    }

    /// Connections of the namespace to `dialled` may go to any of `targets` by themselves, at most
    /// [`DIRECT_TARGETS`], while `generation` counts.
    pub fn let_go(
        &self,
        netns_cookie: u64,
        dialled: SocketAddr,
        targets: &[SocketAddr],
        generation: u64,
    ) -> Result<(), MapError> {
        let mut entry = DirectEntry {
            generation,
            count: 0,
            targets: [SockAddr::UNSPECIFIED; DIRECT_TARGETS],
            reserved: 0,
        };
        for (slot, target) in entry.targets.iter_mut().zip(targets) {
            *slot = SockAddr::from(*target);
            entry.count += 1;
        }
        self.lock().entries.insert(key(netns_cookie, dialled), entry, 0)
    }

    /// Connections of the namespace to `dialled` are the agent's to carry.
    pub fn keep(&self, netns_cookie: u64, dialled: SocketAddr) -> Result<(), MapError> {
        ignore_absent(self.lock().entries.remove(&key(netns_cookie, dialled)))
    }

    fn lock(&self) -> MutexGuard<'_, VerdictMaps> {
        // The maps live in the kernel; a panic elsewhere cannot leave them half changed.
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Passages {
    /// The connection with this four-tuple.
    pub fn get(&self, flow: &FlowKey) -> Option<Passage> {
        self.noted.get(flow, 0).ok()
    }

    /// Forgets a connection that is not there any more.
    pub fn forget(&mut self, flow: &FlowKey, client: u64) {
        if self.get(flow).is_some_and(|passage| passage.client == client) {
            // The kernel half may have done so meanwhile.
            let _ = self.noted.remove(flow);
        }
        self.free(client);
    }

    /// All of them. One that comes or goes meanwhile may be missing.
    pub fn all(&self) -> Vec<(FlowKey, Passage)> {
        self.noted.iter().filter_map(Result::ok).collect()
    }

    /// The cookies of the sockets that take room. Some of them may have no connection: they failed before it was noted.
    pub fn taken(&self) -> Vec<u64> {
        self.room.keys().filter_map(Result::ok).collect()
    }

    /// Gives a socket room, if there is any: for what an earlier agent let go.
    pub fn take(&mut self, client: u64) {
        let _ = self.room.insert(client, 0, 0);
    }

    /// Frees the room of a socket that has no connection.
    pub fn free(&mut self, client: u64) {
        let _ = self.room.remove(&client);
    }

    /// How many connections were the agent's to carry because there was no room, since this agent began.
    pub fn turned_away(&self) -> u64 {
        let counts = self.full.get(&0, 0);
        counts.map_or(0, |counts| counts.iter().sum())
    }
}

fn key(netns: u64, dialled: SocketAddr) -> DirectKey {
    DirectKey {
        netns,
        dialled: SockAddr::from(dialled),
        reserved: 0,
    }
}
