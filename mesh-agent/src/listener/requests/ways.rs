//! How requests of one captured connection reach the endpoints that were chosen for them.
//!
//! Invariant: where a destination must be reached under mTLS there is no way that reaches it in the clear.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::HeaderValue;
use mesh_common::model::{Service, SpiffeId, TunnelProtocol, Workload};

use super::{
    authorize,
    server::{ShelfKey, Target},
    standing::{Carrier, Other, Standing},
    unreached,
};
use crate::{
    balance::{Active, Load},
    http::{
        exchange::{Agent, Hop, Message},
        fault::{Cause, Fault},
        trail::Revoked,
        wire::{Told, client_value},
    },
    identity::{CertificateStore, Credentials},
    inbound::{Guard, KeptRequest},
    listener::{
        data_path::DataPath,
        journey::{self, From, Leg, Passage},
        measure::Ends,
    },
    node::Pod,
    outbound::Way,
    state::{Resolution, Snapshot},
    telemetry::{Claim, Destination, Direction, RequestEnds},
    upstream::{
        session::{Mark, Room, Session},
        tunnel::{client::Tunnel, pool::Seated},
    },
};

/// How long a tunnel is taken without asking the pool: that costs more than a request should.
const REMEMBERED: Duration = Duration::from_secs(2);

/// Endpoints that a connection remembers the series of.
const KNOWN: usize = 256;

/// The ways from one client's connection to endpoints.
pub(super) struct Ways {
    pub(super) path: Arc<DataPath>,
    pub(super) pod: Arc<Pod>,
    /// The client as the application knows itself, and as other agents are told.
    client: SocketAddr,
    told: HeaderValue,
    pub(super) claim: Arc<Claim>,
    tunnels: Mutex<Vec<Remembered>>,
    ends: Mutex<KnownEnds>,
}

/// Between whom the requests of the connection go, by one version of the snapshot.
#[derive(Default)]
struct KnownEnds {
    version: u64,
    by_endpoint: Vec<(Arc<Load>, Arc<RequestEnds>)>,
}

/// What a request is counted by, where it is.
pub(super) struct Counted {
    service: Arc<Service>,
    load: Arc<Load>,
}

/// A tunnel used a moment ago.
struct Remembered {
    addr: SocketAddr,
    expected: SpiffeId,
    session: Session,
    credentials: Arc<Credentials>,
    since: Instant,
}

/// The agent at an endpoint of another node, as one request reaches it.
pub(super) struct Across {
    ways: Arc<Ways>,
    addr: SocketAddr,
    expected: SpiffeId,
    carrier: Arc<Carrier>,
}

/// Room in a tunnel, and what its ends proved.
struct Found {
    room: Room,
    credentials: Arc<Credentials>,
}

impl Agent for Across {
    async fn another(&self, mark: &Mark) -> Result<Room, Fault> {
        let Found { room, credentials } = self.ways.room(self.addr, &self.expected, Some(mark)).await?;
        self.carrier.change(credentials);
        Ok(room)
    }
}

impl Counted {
    /// Of `service`, at the endpoint whose load this counts in.
    pub(super) fn new(service: &Arc<Service>, active: &Active) -> Self {
        Self {
            service: Arc::clone(service),
            load: Arc::clone(active.load()),
        }
    }
}

impl Ways {
    /// For a connection from `pod`.
    pub(super) fn new(path: &Arc<DataPath>, pod: &Arc<Pod>, client: SocketAddr) -> Self {
        Self {
            path: Arc::clone(path),
            pod: Arc::clone(pod),
            client,
            told: client_value(client),
            claim: path.registry.claim_of(&pod.workload.key, None),
            tunnels: Mutex::default(),
            ends: Mutex::default(),
        }
    }

    /// Opens the way of a request to an endpoint of `peer`. Where this agent stands before it, the policies are asked.
    pub(super) async fn open(
        self: &Arc<Self>,
        way: Way,
        peer: &Workload,
        counted: Option<Counted>,
        message: &mut Message,
    ) -> Result<Hop<Target, Across>, Fault> {
        let version = self.path.store.load().version();
        let client = self.client_for(way.addr());
        let (leg, guard) = journey::leg_to(&self.path, &self.pod, way, Some(peer), client, From::Any)
            .map_err(|cause| Fault::new(Cause::Connect, cause.to_string()))?;
        if let Some(counted) = counted {
            message.attached.ends = Some(self.ends(counted, peer, &leg, guard.as_ref()));
        }
        if let Some(guard) = guard {
            let kept = authorize(&self.path, &guard, &mut message.parts).await?;
            let other = Other::Local(Arc::clone(&guard.workload));
            message.attached.revoked =
                Some(self.standing(version, other, Some((Arc::new(guard), kept)), None));
        }
        match leg {
            Leg::Tunnel {
                addr,
                expected,
                protocol: TunnelProtocol::Nodemesh,
                ..
            } => {
                let Found { room, credentials } = self.room(addr, &expected, None).await?;
                let carrier = Arc::new(Carrier::new(credentials));
                let other = Other::Peer(addr.ip(), expected.clone());
                let standing = self.standing(version, other, None, Some(Arc::clone(&carrier)));
                message.attached.revoked = Some(standing);
                Told::write(&mut message.parts.headers, message.spoken, &self.told);
                let across = Across {
                    ways: Arc::clone(self),
                    addr,
                    expected,
                    carrier,
                };
                Ok(Hop::Agent(room, across))
            }
            Leg::Tunnel {
                addr,
                protocol: TunnelProtocol::Hbone,
                ..
            } => Err(Fault::new(
                Cause::Connect,
                format!("{addr} is reached by HBONE, in which requests are not led one by one"),
            )),
            leg => {
                let key = ShelfKey {
                    source: self.pod.number,
                    target: match &leg {
                        Leg::Deliver { pod, .. } => Some(pod.number),
                        _ => None,
                    },
                    addr: leg.addr(),
                };
                Ok(Hop::Server(Target {
                    path: Arc::clone(&self.path),
                    shelf: self.path.shelves.shelf(key),
                    asker: self.client,
                    leg,
                    claim: Arc::clone(&self.claim),
                }))
            }
        }
    }

    /// The client as an endpoint of that family sees it: a backend need not have the family that was dialled.
    fn client_for(&self, addr: SocketAddr) -> SocketAddr {
        if self.client.is_ipv4() == addr.is_ipv4() {
            return self.client;
        }
        let own = self.pod.address_like(addr.ip());
        own.map_or(self.client, |own| SocketAddr::new(own, self.client.port()))
    }

    /// Between whom a request goes that takes `leg` to an endpoint of `peer`.
    fn ends(&self, counted: Counted, peer: &Workload, leg: &Leg, guard: Option<&Guard>) -> Arc<RequestEnds> {
        let Counted { service, load } = counted;
        let (direction, proved) = match guard {
            // On one node the kernel proves who asks.
            Some(guard) => (Direction::Local, guard.proof.id()),
            None => (Direction::Outbound, leg.peer()),
        };
        let snapshot = self.path.store.load();
        let mut known = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        if known.version != snapshot.version() || known.by_endpoint.len() >= KNOWN {
            known.version = snapshot.version();
            known.by_endpoint.clear();
        }
        let same = |(other, ends): &&(Arc<Load>, Arc<RequestEnds>)| {
            Arc::ptr_eq(other, &load) && ends.direction == direction && ends.peer.as_ref() == proved
        };
        if let Some((_, ends)) = known.by_endpoint.iter().find(same) {
            return Arc::clone(ends);
        }
        let destination = Destination::Service {
            service: service.key.clone(),
            endpoint: Some((peer.key.clone(), leg.addr())),
        };
        let ends = self.told_ends(&snapshot, direction, &destination, proved, Some(leg.addr()));
        known.by_endpoint.push((load, Arc::clone(&ends)));
        ends
    }

    /// Between whom a request was to go that got no endpoint.
    pub(super) fn no_ends(&self, dialled: SocketAddr) -> Arc<RequestEnds> {
        let snapshot = self.path.store.load();
        let destination = match snapshot.resolve(dialled) {
            Resolution::Service(backend) => Destination::Service {
                service: backend.service.key.clone(),
                endpoint: None,
            },
            _ => Destination::Passthrough,
        };
        self.told_ends(&snapshot, Direction::Outbound, &destination, None, None)
    }

    fn told_ends(
        &self,
        snapshot: &Snapshot,
        direction: Direction,
        destination: &Destination,
        peer: Option<&SpiffeId>,
        upstream: Option<SocketAddr>,
    ) -> Arc<RequestEnds> {
        let ends = Ends {
            direction,
            workload: &self.pod.workload,
            client: Some(&self.pod.workload.key),
            destination,
            service: None,
            peer,
        };
        self.path.meters.requests(snapshot, &ends, upstream)
    }

    /// What must hold of a request as long as it is on its way.
    fn standing(
        &self,
        version: u64,
        other: Other,
        guard: Option<(Arc<Guard>, KeptRequest)>,
        carrier: Option<Arc<Carrier>>,
    ) -> Revoked {
        let standing = Standing {
            path: Arc::clone(&self.path),
            version,
            own: Arc::clone(&self.pod.workload),
            other,
            guard,
            carrier,
        };
        standing.watch()
    }

    /// Room in a tunnel, though not in the one with the mark.
    async fn room(
        &self,
        addr: SocketAddr,
        expected: &SpiffeId,
        without: Option<&Mark>,
    ) -> Result<Found, Fault> {
        if without.is_none()
            && let Some((session, credentials)) = self.remembered(addr, expected)
            && let Ok(room) = session.room().await
        {
            return Ok(Found { room, credentials });
        }
        // Rare, and large: a request has no room for it.
        Box::pin(self.room_of_pool(addr, expected, without)).await
    }

    async fn room_of_pool(
        &self,
        addr: SocketAddr,
        expected: &SpiffeId,
        without: Option<&Mark>,
    ) -> Result<Found, Fault> {
        let passage = Passage::new(&self.path, &self.pod, addr, expected, TunnelProtocol::Nodemesh)
            .map_err(|error| unreached(&error))?;
        let good = |tunnel: &Tunnel| {
            passage.is_good(tunnel) && !without.is_some_and(|mark| tunnel.session().has(mark))
        };
        let establish = || passage.establish(&self.path, &self.pod);
        loop {
            let Seated { tunnel, seat, fresh } = self
                .path
                .pool
                .seat(&passage.key, good, establish)
                .await
                .map_err(|error| unreached(&error))?;
            match tunnel.session().seated(seat).await {
                Ok(room) => {
                    let credentials = Arc::clone(tunnel.credentials());
                    self.remember(addr, expected, tunnel.session(), &credentials);
                    return Ok(Found { room, credentials });
                }
                // One that broke since it was used is replaced: nothing was sent in it.
                Err(error) => {
                    tracing::debug!(%addr, %error, "a tunnel takes no requests any more");
                    self.path.pool.give_up(&passage.key, &tunnel);
                    if fresh {
                        return Err(Fault::new(
                            Cause::Connect,
                            format!("a new tunnel to {addr} broke at once: {error}"),
                        ));
                    }
                }
            }
        }
    }

    fn remembered(&self, addr: SocketAddr, expected: &SpiffeId) -> Option<(Session, Arc<Credentials>)> {
        let mut tunnels = self.lock();
        let at = tunnels
            .iter()
            .position(|one| one.addr == addr && one.expected == *expected)?;
        let one = &tunnels[at];
        let bundle = self
            .path
            .certificates
            .as_deref()
            .and_then(CertificateStore::bundle);
        let is_believed = bundle.is_some_and(|bundle| one.credentials.check(&bundle).is_ok());
        if one.since.elapsed() > REMEMBERED || !one.session.has_room() || !is_believed {
            tunnels.swap_remove(at);
            return None;
        }
        Some((one.session.clone(), Arc::clone(&one.credentials)))
    }

    fn remember(
        &self,
        addr: SocketAddr,
        expected: &SpiffeId,
        session: &Session,
        credentials: &Arc<Credentials>,
    ) {
        let mut tunnels = self.lock();
        tunnels.retain(|one| one.addr != addr && one.since.elapsed() <= REMEMBERED);
        tunnels.push(Remembered {
            addr,
            expected: expected.clone(),
            session: session.clone(),
            credentials: Arc::clone(credentials),
            since: Instant::now(),
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Remembered>> {
        self.tunnels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
