//! One connection as the agent tells about it.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::SystemTime,
};

use mesh_common::model::{ObjectKey, SpiffeId, Workload};

use super::{
    Budget, Claim, Guest, Ruling,
    metrics::{Flags, TcpMeter},
};

/// Which way a connection runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From a workload of this node to elsewhere.
    Outbound,
    /// From elsewhere to a workload of this node.
    Inbound,
    /// Between two workloads of this node, in one hop.
    Local,
}

/// What protects a connection between the two workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Nothing but what the applications do themselves; nobody proved who he is.
    Plaintext,
    /// Mutual TLS between two agents.
    MutualTls,
    /// It does not leave the node; the kernel proves who the client is.
    SameNode,
    /// As [`Self::SameNode`], and the bytes pass no agent: they are on the node's own network as the applications sent
    /// them.
    Direct,
}

/// What a dialled address stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A service, and the endpoint chosen for it; none when it has no ready one.
    Service {
        /// The service.
        service: ObjectKey,
        /// The endpoint's workload and address.
        endpoint: Option<(ObjectKey, SocketAddr)>,
    },
    /// A workload of the mesh, dialled by its own address.
    Workload(ObjectKey),
    /// Nothing the mesh knows.
    Passthrough,
}

/// The process that dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its id in the initial namespace.
    pub pid: u32,
    /// Its name as the kernel shortens it, NUL-padded.
    pub comm: [u8; 16],
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ConnectionState {
    /// The request waits until the destination has answered.
    Held = 0,
    /// The client is connected, the destination is being reached.
    Connecting = 1,
    /// Both ways open.
    Open = 2,
    /// One way has ended.
    HalfClosed = 3,
}

/// One of the two ways through a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// From the client to the destination.
    ToUpstream,
    /// From the destination to the client.
    ToDownstream,
}

/// A connection from the arrival of its request to its end. Shared between the worker and whoever looks.
#[derive(Debug)]
pub struct Connection {
    /// Its number, unique while the agent runs.
    pub id: u64,
    /// Which way it runs.
    pub direction: Direction,
    /// The enrolled workload on whose side the agent stands.
    pub workload: Arc<Workload>,
    /// Who dialled.
    pub client: SocketAddr,
    /// The workload that dialled, when its address is a known one.
    pub client_workload: Option<ObjectKey>,
    /// What was dialled.
    pub original_destination: SocketAddr,
    /// What that stands for.
    pub destination: Destination,
    /// The process that dialled, when it is on this node.
    pub process: Option<Process>,
    /// The data worker that carries it.
    pub worker: u32,
    /// When the request arrived.
    pub opened_at: SystemTime,
    /// Whose places and time it takes.
    pub claim: Arc<Claim>,
    upstream: OnceLock<SocketAddr>,
    peer: OnceLock<SpiffeId>,
    ruling: Mutex<Option<Ruling>>,
    state: AtomicU8,
    to_upstream: AtomicU64,
    to_downstream: AtomicU64,
    requests: AtomicU64,
    meter: OnceLock<Meter>,
    unauthorized: AtomicBool,
    direct: AtomicBool,
}

/// A connection's meter, and what it has been told.
#[derive(Debug)]
struct Meter {
    tcp: Arc<TcpMeter>,
    to_upstream: AtomicU64,
    to_downstream: AtomicU64,
}

/// What is known of a connection when its request arrives; see the fields of [`Connection`].
#[derive(Debug)]
#[expect(missing_docs, reason = "the fields are those of Connection")]
pub struct Opening {
    pub direction: Direction,
    pub workload: Arc<Workload>,
    pub client: SocketAddr,
    pub client_workload: Option<ObjectKey>,
    pub original_destination: SocketAddr,
    pub destination: Destination,
    pub process: Option<Process>,
    pub peer: Option<SpiffeId>,
    pub ruling: Option<Ruling>,
    pub state: ConnectionState,
}

impl Opening {
    /// Who connects to the workload from elsewhere; `None` where the workload itself begins.
    pub(super) fn guest(&self) -> Option<Guest> {
        (self.direction == Direction::Inbound).then(|| Guest {
            addr: self.client.ip(),
            workload: self.client_workload.clone(),
        })
    }
}

impl Connection {
    pub(super) fn new(id: u64, worker: u32, claim: Arc<Claim>, opening: Opening) -> Self {
        Self {
            id,
            direction: opening.direction,
            workload: opening.workload,
            client: opening.client,
            client_workload: opening.client_workload,
            original_destination: opening.original_destination,
            destination: opening.destination,
            process: opening.process,
            peer: opening.peer.map(OnceLock::from).unwrap_or_default(),
            ruling: Mutex::new(opening.ruling),
            worker,
            opened_at: SystemTime::now(),
            claim,
            upstream: OnceLock::new(),
            state: AtomicU8::new(opening.state as u8),
            to_upstream: AtomicU64::new(0),
            to_downstream: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            meter: OnceLock::new(),
            unauthorized: AtomicBool::new(false),
            direct: AtomicBool::new(false),
        }
    }

    /// What its workload's connections may hold.
    pub fn budget(&self) -> &Arc<Budget> {
        self.claim.budget()
    }

    /// What the agent connected to, once it has.
    pub fn upstream(&self) -> Option<SocketAddr> {
        self.upstream.get().copied()
    }

    /// Records what the agent connected to; the first call counts.
    pub fn set_upstream(&self, addr: SocketAddr) {
        // A second value could only be the same: a connection has one upstream.
        let _ = self.upstream.set(addr);
    }

    /// Who the other end proved to be: by a certificate or, on this node, by the kernel.
    pub fn peer(&self) -> Option<&SpiffeId> {
        self.peer.get()
    }

    /// Records who the other end proved to be; the first call counts.
    pub fn set_peer(&self, peer: SpiffeId) {
        // A second value could only be the same: a connection has one peer.
        let _ = self.peer.set(peer);
    }

    /// What the policies last said of it; `None` where this agent does not decide.
    pub fn ruling(&self) -> Option<Ruling> {
        self.ruling.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records what the policies say of it, when it begins and after each change.
    pub fn set_ruling(&self, ruling: Ruling) {
        *self.ruling.lock().unwrap_or_else(PoisonError::into_inner) = Some(ruling);
    }

    /// What protects it; `None` while that is not known.
    pub fn channel(&self) -> Option<Channel> {
        match (self.direction, self.peer(), self.upstream()) {
            (Direction::Local, ..) if self.direct.load(Ordering::Relaxed) => Some(Channel::Direct),
            (Direction::Local, ..) => Some(Channel::SameNode),
            (_, Some(_), _) => Some(Channel::MutualTls),
            (Direction::Inbound, None, _) | (Direction::Outbound, None, Some(_)) => Some(Channel::Plaintext),
            (Direction::Outbound, None, None) => None,
        }
    }

    /// Records that its bytes pass no agent.
    pub fn set_direct(&self) {
        self.direct.store(true, Ordering::Relaxed);
    }

    /// How far it is.
    pub fn state(&self) -> ConnectionState {
        match self.state.load(Ordering::Relaxed) {
            0 => ConnectionState::Held,
            1 => ConnectionState::Connecting,
            2 => ConnectionState::Open,
            _ => ConnectionState::HalfClosed,
        }
    }

    /// Records how far it is.
    pub fn set_state(&self, state: ConnectionState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    /// Counts bytes carried.
    pub fn count(&self, side: Side, bytes: u64) {
        self.counter(side).fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes carried so far.
    pub fn bytes(&self, side: Side) -> u64 {
        self.counter(side).load(Ordering::Relaxed)
    }

    /// Counts a request that came on it.
    pub fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests that came on it; 0 where it is carried as bytes.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Counts the connection as open in its series; the first call counts.
    pub fn measure(&self, tcp: Arc<TcpMeter>) {
        let meter = Meter {
            tcp,
            to_upstream: AtomicU64::new(0),
            to_downstream: AtomicU64::new(0),
        };
        if self.meter.set(meter).is_ok()
            && let Some(meter) = self.meter.get()
        {
            meter.tcp.opened();
        }
    }

    /// Tells its series what was carried since the last time. Whoever asks for metrics calls this for each open
    /// connection, so that bytes are not counted twice on their way.
    pub fn tell_bytes(&self) {
        let Some(meter) = self.meter.get() else {
            return;
        };
        // Two may tell at once: each tells what is beyond what the other has told.
        let fresh = |told: &AtomicU64, now: u64| now.saturating_sub(told.fetch_max(now, Ordering::Relaxed));
        meter
            .tcp
            .received(fresh(&meter.to_upstream, self.bytes(Side::ToUpstream)));
        meter
            .tcp
            .sent(fresh(&meter.to_downstream, self.bytes(Side::ToDownstream)));
    }

    /// Records that it ends because it is not permitted any more.
    pub fn set_unauthorized(&self) {
        self.unauthorized.store(true, Ordering::Relaxed);
    }

    /// Counts the connection as closed in its series, if it was open.
    pub(super) fn tell_end(&self) {
        self.tell_bytes();
        let flags = if self.unauthorized.load(Ordering::Relaxed) {
            Flags::Unauthorized
        } else {
            Flags::None
        };
        if let Some(meter) = self.meter.get() {
            meter.tcp.closed(flags);
        }
    }

    fn counter(&self, side: Side) -> &AtomicU64 {
        match side {
            Side::ToUpstream => &self.to_upstream,
            Side::ToDownstream => &self.to_downstream,
        }
    }
}

impl Process {
    /// The name as text.
    pub fn name(&self) -> String {
        let end = self
            .comm
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(self.comm.len());
        String::from_utf8_lossy(&self.comm[..end]).into_owned()
    }
}
