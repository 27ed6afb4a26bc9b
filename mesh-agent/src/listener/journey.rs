//! What a connection means, and the agent's own side of it.
//!
//! `serve` asks for a [`Journey`] once a connection and opens its [`Leg`]. Invariant: where a destination must be
//! reached under mTLS there is no leg that reaches it in the clear.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use mesh_common::{
    kernel::{PortKey, SocketRecord},
    model::{Declared, PeerMode, ServiceAccountKey, SpiffeId, TrustDomain, TunnelProtocol, Workload},
};
use thiserror::Error;
use tokio::net::TcpStream;

use super::data_path::DataPath;
use crate::{
    balance::Active,
    identity::{Expected, Identity},
    inbound::{self, Admitted, Guard, Proof, Reading},
    kernel::tables::PortState,
    node::Pod,
    outbound::{self, Way},
    state::Snapshot,
    telemetry::{Cause, Claim, ConnectionState, Destination, Direction, Opening, Process},
    upstream::{
        DialError, Refusal, Source, Upstream,
        tunnel::{
            client::{Asking, Footing, Tunnel, TunnelError},
            pool::Key,
            protocol,
        },
    },
};

/// A connection whose meaning is known.
pub(super) struct Journey {
    pub(super) opening: Opening,
    pub(super) leg: Result<Leg, Cause>,
    /// Keeps the connection counted at its endpoint.
    pub(super) active: Option<Active>,
    /// What must hold as long as the connection lives, where this agent stands before the destination.
    pub(super) guard: Option<Guard>,
    /// What must be read of it before it goes on.
    pub(super) reading: Reading,
}

impl Journey {
    /// Asks the destination's policies; denied, the journey leads nowhere.
    fn authorized(mut self, path: &DataPath) -> Self {
        let snapshot = path.store.load();
        if let Some(guard) = &self.guard
            && self.leg.is_ok()
        {
            let ruling = match guard.admit(&snapshot) {
                Ok(Admitted { ruling, reading }) => {
                    self.reading = match reading {
                        // What comes is not looked at where somebody declared that it is requests: nothing else passes.
                        Reading::Tokens if speaks_http(&snapshot, guard) => Reading::RequestsOnly,
                        reading => reading,
                    };
                    ruling
                }
                Err(denied) => {
                    self.leg = Err(Cause::of(denied.word(), &denied));
                    denied.ruling()
                }
            };
            if self.reading == Reading::Unread {
                guard.report(&snapshot, path.meters.metrics());
            }
            self.opening.ruling = Some(ruling);
        }
        self
    }
}

/// The agent's own side of a connection, to be opened.
#[derive(Clone)]
pub(super) enum Leg {
    /// From the pod's namespace into the network.
    Dial {
        pod: Arc<Pod>,
        addr: SocketAddr,
        source: Option<SocketAddr>,
    },
    /// From the pod's namespace to a workload of the mesh on another node, under mTLS.
    Tunnel {
        pod: Arc<Pod>,
        addr: SocketAddr,
        client: SocketAddr,
        expected: SpiffeId,
        protocol: TunnelProtocol,
    },
    /// To an application in a pod of this node.
    Deliver {
        pod: Arc<Pod>,
        addr: SocketAddr,
        client: SocketAddr,
        inbound: bool,
    },
}

/// The way of a captured connection out of `pod`.
pub(super) fn outbound(path: &DataPath, pod: &Arc<Pod>, src: SocketAddr, record: &SocketRecord) -> Journey {
    let dialled: SocketAddr = record.peer.into();
    let plan = outbound::resolve(&path.store.load(), &path.pods, dialled);
    let shown = shown(pod, src, dialled);
    let (direction, leg, guard) = match plan.way {
        Ok(way) => {
            let direction = match &way {
                Way::Direct(_) => Direction::Outbound,
                Way::Local(..) => Direction::Local,
            };
            let from = From::Client {
                client: src,
                listener: record.via.ip.into(),
            };
            match leg_to(path, pod, way, plan.peer.as_deref(), shown, from) {
                Ok((leg, guard)) => (direction, Ok(leg), guard),
                Err(reason) => (direction, Err(reason), None),
            }
        }
        Err(unroutable) => (
            Direction::Outbound,
            Err(Cause::of(unroutable.word(), &unroutable)),
            None,
        ),
    };
    let opening = Opening {
        direction,
        workload: Arc::clone(&pod.workload),
        client: shown,
        client_workload: Some(pod.workload.key.clone()),
        original_destination: dialled,
        destination: plan.destination,
        process: Some(Process {
            pid: record.pid,
            comm: record.comm,
        }),
        // On one node the kernel proves who dials.
        peer: guard.as_ref().and_then(|guard| guard.proof.id().cloned()),
        ruling: None,
        state: ConnectionState::Held,
    };
    Journey {
        opening,
        leg,
        active: plan.active,
        guard,
        reading: Reading::Unread,
    }
    .authorized(path)
}

/// What the application itself believes its address to be; an address that it only claims to have is not shown.
pub(super) fn shown(pod: &Pod, src: SocketAddr, dialled: SocketAddr) -> SocketAddr {
    match pod.address_like(dialled.ip()) {
        Some(own) if !pod.has_address(src.ip()) => SocketAddr::new(own, src.port()),
        _ => src,
    }
}

/// From which address and port a leg into the network is dialled.
#[derive(Clone, Copy)]
pub(super) enum From {
    /// As the client that was captured at `listener` would: with its own, if it chose one.
    Client { client: SocketAddr, listener: IpAddr },
    /// Whatever the kernel takes: the leg serves more than one connection.
    Any,
}

/// The leg from `pod` along `way`, at whose end `peer` is; and what must hold on it, if it ends on this node.
pub(super) fn leg_to(
    path: &DataPath,
    pod: &Arc<Pod>,
    way: Way,
    peer: Option<&Workload>,
    shown: SocketAddr,
    from: From,
) -> Result<(Leg, Option<Guard>), Cause> {
    match way {
        Way::Direct(addr) => {
            let pod = Arc::clone(pod);
            let leg = match peer {
                // Never in the clear where the mesh can do better: without a certificate it is refused.
                Some(peer) if path.certificates.is_some() && takes_mtls(path, peer, addr) => Leg::Tunnel {
                    pod,
                    addr,
                    client: shown,
                    expected: path
                        .identities
                        .of(peer)
                        .map_err(|error| Cause::of("no-identity", &error))?,
                    protocol: peer.tunnel,
                },
                _ => Leg::Dial {
                    pod,
                    addr,
                    source: match from {
                        From::Client { client, listener } => outbound::source_for(client, listener, addr),
                        From::Any => None,
                    },
                },
            };
            Ok((leg, None))
        }
        Way::Local(target, addr) => {
            let guard = local_guard(path, pod, &target, shown, addr).ok_or_else(|| {
                let account = account_of(&pod.workload);
                Cause::new(
                    "no-identity",
                    format!("service account {account} can have no identity"),
                )
            })?;
            let leg = Leg::Deliver {
                pod: target,
                addr,
                client: shown,
                inbound: false,
            };
            Ok((leg, Some(guard)))
        }
    }
}

/// The way of a connection steered to `pod`, from somebody who proved who it is, or did not.
pub(super) fn inbound(
    path: &DataPath,
    pod: &Arc<Pod>,
    client: SocketAddr,
    addressed: SocketAddr,
    proof: Proof,
) -> Journey {
    let resolved = inbound::resolve(&path.store.load(), &path.pods, pod, client, addressed);
    let (client_workload, leg) = match resolved {
        Ok(delivery) => (
            delivery.client_workload,
            Ok(Leg::Deliver {
                pod: Arc::clone(pod),
                addr: delivery.app,
                client,
                inbound: true,
            }),
        ),
        Err(reason) => (None, Err(Cause::of(reason.word(), &reason))),
    };
    let opening = Opening {
        direction: Direction::Inbound,
        workload: Arc::clone(&pod.workload),
        client,
        client_workload,
        original_destination: addressed,
        destination: Destination::Workload(pod.workload.key.clone()),
        process: None,
        peer: proof.id().cloned(),
        ruling: None,
        state: ConnectionState::Held,
    };
    let guard = Guard {
        workload: Arc::clone(&pod.workload),
        proof,
        client,
        addressed,
    };
    Journey {
        opening,
        leg,
        active: None,
        guard: Some(guard),
        reading: Reading::Unread,
    }
    .authorized(path)
}

/// Whether a workload takes mutual TLS on this port: all do unless a PeerAuthentication says DISABLE.
pub(super) fn takes_mtls(path: &DataPath, workload: &Workload, addr: SocketAddr) -> bool {
    let snapshot = path.store.load();
    let entry = snapshot.workload(&workload.key);
    entry.is_none_or(|entry| snapshot.policy_of(entry).modes().at(addr.port()).mode != PeerMode::Disable)
}

/// Whether some service declares that the port speaks HTTP.
fn speaks_http(snapshot: &Snapshot, guard: &Guard) -> bool {
    snapshot.declared(&guard.workload, guard.addressed.port()) == Declared::Requests
}

/// What must hold for a connection between two pods of this node: the kernel knows which pod it comes from.
fn local_guard(
    path: &DataPath,
    source: &Pod,
    target: &Pod,
    client: SocketAddr,
    addressed: SocketAddr,
) -> Option<Guard> {
    let id = path.identities.of(&source.workload).ok()?;
    Some(Guard {
        workload: Arc::clone(&target.workload),
        proof: Proof::Kernel(id),
        client,
        addressed,
    })
}

/// The service account that a workload runs as.
pub(crate) fn account_of(workload: &Workload) -> ServiceAccountKey {
    ServiceAccountKey::new(
        Arc::clone(&workload.key.namespace),
        workload.service_account.as_str(),
    )
}

/// Who a workload is to prove to be; `None` where its service account can have no identity.
pub(crate) fn identity_of(domain: &TrustDomain, workload: &Workload) -> Option<SpiffeId> {
    SpiffeId::new(domain, &account_of(workload)).ok()
}

/// Why the agent's own side of a connection does not stand.
#[derive(Debug, Error)]
pub(super) enum LegError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    #[error("service account {0} has no certificate (yet), and nothing goes in the clear")]
    NoCertificate(ServiceAccountKey),
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

impl LegError {
    /// How the client is to be told.
    pub(super) fn refusal(&self) -> Refusal {
        match self {
            Self::Dial(error) => error.refusal(),
            Self::Tunnel(error) => error.refusal(),
            Self::NoCertificate(_) | Self::Tls(_) => Refusal::Refused,
        }
    }

    /// What is told about it.
    pub(super) fn cause(&self) -> Cause {
        let word = match self {
            Self::Dial(error) => error.word(),
            Self::Tunnel(error) => error.word(),
            Self::NoCertificate(_) => "no-own-certificate",
            Self::Tls(_) => "tls-setup",
        };
        Cause::of(word, self)
    }
}

impl Leg {
    /// Opens the agent's own side, for a connection of `claim`.
    pub(super) async fn open(&self, path: &DataPath, claim: &Claim) -> Result<Upstream, LegError> {
        match self {
            Self::Dial { pod, addr, source } => {
                Ok(Upstream::Tcp(path.dialer.dial(&pod.netns, *addr, *source).await?))
            }
            Self::Tunnel {
                pod,
                addr,
                client,
                expected,
                protocol,
            } => {
                let asking = Asking {
                    target: *addr,
                    client: *client,
                    workload: &pod.workload,
                };
                tunnel_to(path, pod, asking, expected, *protocol).await
            }
            Self::Deliver {
                pod, addr, client, ..
            } => {
                let places = claim.places();
                Ok(Upstream::Tcp(deliver(path, pod, *addr, *client, places).await?))
            }
        }
    }

    /// Where it leads.
    pub(super) fn addr(&self) -> SocketAddr {
        match self {
            Self::Dial { addr, .. } | Self::Tunnel { addr, .. } | Self::Deliver { addr, .. } => *addr,
        }
    }

    /// Who is proved to be there once it stands.
    pub(super) fn peer(&self) -> Option<&SpiffeId> {
        match self {
            Self::Tunnel { expected, .. } => Some(expected),
            Self::Dial { .. } | Self::Deliver { .. } => None,
        }
    }

    /// It stands: an inbound connection proves that its port is open.
    pub(super) fn opened(&self, path: &DataPath) {
        if let Self::Deliver {
            pod,
            addr,
            inbound: true,
            ..
        } = self
        {
            remember(path, pod, *addr);
        }
    }

    /// It does not stand: an inbound connection proves that its port is not open any more.
    pub(super) fn not_opened(&self, path: &DataPath) {
        if let Self::Deliver {
            pod,
            addr,
            inbound: true,
            ..
        } = self
            && let Err(error) = path.open_ports.remove(port_key(pod, *addr))
        {
            tracing::debug!(%error, "a closed port is still taken for open");
        }
    }
}

/// A stream to a workload on another node, in a tunnel of the source pod's own.
async fn tunnel_to(
    path: &DataPath,
    pod: &Pod,
    asking: Asking<'_>,
    expected: &SpiffeId,
    protocol: TunnelProtocol,
) -> Result<Upstream, LegError> {
    let passage = Passage::new(path, pod, asking.target, expected, protocol)?;
    let good = |tunnel: &Tunnel| passage.is_good(tunnel);
    let establish = || passage.establish(path, pod);
    let (stream, place) = path.pool.open(&passage.key, asking, good, establish).await?;
    Ok(Upstream::Tunnel(stream, place))
}

/// Whose tunnel leads to whom, and how it is made.
pub(super) struct Passage {
    pub(super) key: Key,
    identity: Arc<Identity>,
}

impl Passage {
    /// From `pod` to `target`, with the pod's certificate of now.
    pub(super) fn new(
        path: &DataPath,
        pod: &Pod,
        target: SocketAddr,
        expected: &SpiffeId,
        protocol: TunnelProtocol,
    ) -> Result<Self, LegError> {
        let account = account_of(&pod.workload);
        let identity = path
            .certificates
            .as_ref()
            .and_then(|store| store.current(&account))
            .ok_or(LegError::NoCertificate(account))?;
        let key = Key {
            source: pod.number,
            protocol,
            door: protocol::door(protocol, target),
            expected: expected.clone(),
            credentials: identity.facts().serial.clone(),
        };
        Ok(Self { key, identity })
    }

    /// Makes a tunnel.
    pub(super) async fn establish(&self, path: &DataPath, pod: &Pod) -> Result<Tunnel, LegError> {
        let Key { door, protocol, .. } = self.key;
        let expected = Expected::OneOf(Arc::from([self.key.expected.clone()]));
        let config = self.identity.client_config(expected, protocol::offer(protocol))?;
        let tcp = path.dialer.dial_in_time(&pod.netns, door).await?;
        let footing = Footing {
            protocol,
            identity: &self.identity,
            config,
            claim: &path.registry.claim_of(&pod.workload.key, None),
        };
        Ok(Tunnel::establish(tcp, door, footing, &path.tunnels).await?)
    }

    /// Whether what both ends proved when a tunnel was made is good for something new as well.
    pub(super) fn is_good(&self, tunnel: &Tunnel) -> bool {
        let credentials = tunnel.credentials();
        self.identity.clock().now() <= credentials.until()
            && credentials.check(self.identity.bundle()).is_ok()
    }
}

/// A connection to an application of this node, on behalf of a client who has so many places.
async fn deliver(
    path: &DataPath,
    pod: &Pod,
    addr: SocketAddr,
    client: SocketAddr,
    places: usize,
) -> Result<TcpStream, DialError> {
    let dial = |source| path.dialer.deliver(&pod.netns, addr, client, places, source);
    if addr.is_ipv4() {
        return dial(Source::Loopback).await;
    }
    // From `::1` only to ports that are known to answer; see `Source`.
    let port = port_key(pod, addr);
    if path.open_ports.contains(port) {
        let answer = dial(Source::Loopback).await;
        if answer.is_ok() {
            return answer;
        }
    }
    let answer = dial(Source::Own).await;
    if answer.is_ok() {
        remember(path, pod, addr);
    }
    answer
}

fn port_key(pod: &Pod, addr: SocketAddr) -> PortKey {
    let family = if addr.is_ipv4() { 4 } else { 6 };
    PortKey {
        netns: pod.netns.cookie(),
        port: addr.port(),
        family,
        reserved: 0,
    }
}

/// An application of the pod accepts at `addr`. Requests to it need not be held, unless some may be denied. That only
/// saves them a detour; without it everything works the same.
fn remember(path: &DataPath, pod: &Pod, addr: SocketAddr) {
    let snapshot = path.store.load();
    let policy = snapshot
        .workload(&pod.workload.key)
        .map(|entry| snapshot.policy_of(entry));
    let state = match policy {
        Some(policy) if !policy.may_deny(addr.port()) => PortState::LetThrough,
        _ => PortState::Held,
    };
    if let Err(error) = path.open_ports.insert(port_key(pod, addr), state) {
        tracing::debug!(%error, "an open port is not remembered");
    }
}

/// Somebody was let through to `addr` and denied: from now on requests are held, and refused before they are accepted.
pub(super) fn hold_from_now_on(path: &DataPath, pod: &Pod, addr: SocketAddr) {
    let port = port_key(pod, addr);
    if path.open_ports.contains(port)
        && let Err(error) = path.open_ports.insert(port, PortState::Held)
    {
        tracing::debug!(%error, "requests to an open port are not held");
    }
}
