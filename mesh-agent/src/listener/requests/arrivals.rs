//! Requests that come in one tunnel from another agent.
//!
//! All of them are one client workload's to one port of one workload here: that is what a tunnel is for. So connections to
//! the application are kept with the tunnel, and no other client ever rides them.
//!
//! Invariant: no request reaches the application before its peer's identity and the policies were asked about it.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use h2::server::SendResponse;
use http::Request;
use mesh_common::model::{ObjectKey, SpiffeId};

use super::{
    account::{self, KnownEnds},
    authorize, name_host,
    server::Target,
    standing::{Other, Standing},
};
use crate::{
    http::{
        course::{Course, Onward},
        exchange::{Hop, Message, Steer},
        fault::{Cause, Fault, Side, Signature},
        pool::Shelf,
        server::serve_stream,
        trail::Trail,
        wire::Told,
    },
    inbound::{Guard, Proof},
    listener::{data_path::DataPath, journey::Leg, measure::Ends, serve},
    node::Pod,
    state::Snapshot,
    telemetry::{
        Claim, Connection, ConnectionState, Destination, Direction, Entry, FlowKind, Opening, RequestEnds,
        Ruling,
    },
    upstream::incoming::Incoming,
};

/// The requests of one tunnel.
pub(in crate::listener) struct Arrivals {
    path: Arc<DataPath>,
    pod: Arc<Pod>,
    guard: Arc<Guard>,
    /// Present from the first request on: a tunnel need not have any.
    entry: OnceLock<Entry>,
    ends: KnownEnds,
    shelf: Arc<Shelf>,
    signature: Signature,
    claim: Arc<Claim>,
}

/// One of them.
struct Arrival<'a> {
    arrivals: &'a Arrivals,
    client: SocketAddr,
}

impl Arrivals {
    /// Of a tunnel from `client`, which proved to be `peer`, to `addressed` in `pod`.
    pub(in crate::listener) fn new(
        path: &Arc<DataPath>,
        pod: &Arc<Pod>,
        peer: SpiffeId,
        client: SocketAddr,
        addressed: SocketAddr,
        claim: &Arc<Claim>,
    ) -> Arc<Self> {
        Arc::new(Self {
            path: Arc::clone(path),
            pod: Arc::clone(pod),
            guard: Arc::new(Guard {
                workload: Arc::clone(&pod.workload),
                proof: Proof::Certificate(peer),
                client,
                addressed,
            }),
            ends: KnownEnds::default(),
            entry: OnceLock::new(),
            shelf: Arc::default(),
            signature: Signature::new(pod.workload.node.as_str().into(), Side::Destination),
            claim: Arc::clone(claim),
        })
    }

    /// Serves a request as a task of its own.
    pub(in crate::listener) fn serve(
        self: &Arc<Self>,
        mut request: Request<Incoming>,
        respond: SendResponse<Bytes>,
    ) {
        self.enter();
        let arrivals = Arc::clone(self);
        self.path.spawn(&self.claim, async move {
            let _share = arrivals.claim.budget().join();
            let told = Told::take(request.headers_mut());
            // An agent speaks for the pod its connection comes from, and for no other address.
            let peer = arrivals.guard.client;
            let client = told
                .client
                .filter(|client| client.ip() == peer.ip())
                .unwrap_or(peer);
            let arrival = Arrival {
                arrivals: &arrivals,
                client,
            };
            serve_stream(&arrival, request, respond, told).await;
        });
    }

    /// Lets go of connections to the application that were not used for a while.
    pub(in crate::listener) fn sweep(&self) {
        self.shelf.sweep(std::time::Instant::now());
    }

    /// The workload that the tunnel comes from, if it is known.
    fn client_workload<'s>(&self, snapshot: &'s Snapshot) -> Option<&'s ObjectKey> {
        snapshot.workload_key_at(self.guard.client.ip())
    }

    /// Between whom a request goes that names `host`.
    fn ends(&self, host: &[u8]) -> Arc<RequestEnds> {
        let to = (&*self.pod.workload, self.guard.addressed.port());
        self.ends.now(&self.path, to, host, |snapshot, service| {
            let destination = Destination::Workload(self.pod.workload.key.clone());
            let ends = Ends {
                direction: Direction::Inbound,
                workload: &self.pod.workload,
                client: self.client_workload(snapshot),
                destination: &destination,
                service,
                peer: self.guard.proof.id(),
            };
            let upstream = Some(self.guard.addressed);
            self.path.meters.requests(snapshot, &ends, upstream)
        })
    }

    /// Makes the tunnel a connection that can be looked at.
    fn enter(&self) {
        self.entry.get_or_init(|| {
            let Guard {
                client,
                addressed,
                proof,
                ..
            } = &*self.guard;
            let snapshot = self.path.store.load();
            let opening = Opening {
                direction: Direction::Inbound,
                workload: Arc::clone(&self.pod.workload),
                client: *client,
                client_workload: self.client_workload(&snapshot).cloned(),
                original_destination: *addressed,
                destination: Destination::Workload(self.pod.workload.key.clone()),
                process: None,
                peer: proof.id().cloned(),
                ruling: Some(Ruling::plain("each request is judged by itself")),
                state: ConnectionState::Open,
            };
            let entry = self.path.registry.open_as(opening, Arc::clone(&self.claim));
            entry.connection().set_upstream(*addressed);
            self.path.registry.count_accepted();
            serve::record(&self.path, &entry, FlowKind::Opened, None, None);
            entry
        });
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        self.shelf.clear();
        if let Some(entry) = self.entry.get() {
            serve::record(&self.path, entry, FlowKind::Closed, None, None);
        }
    }
}

impl Steer for Arrival<'_> {
    type Server = Target;
    type Agent = Infallible;
    type Escort = ();

    fn signature(&self) -> &Signature {
        &self.arrivals.signature
    }

    fn connection(&self) -> Option<&Arc<Connection>> {
        self.arrivals.entry.get().map(Entry::connection)
    }

    fn over(&self, trail: &Trail) {
        let ends = self.arrivals.ends(trail.host());
        account::over(&self.arrivals.path, self.connection(), trail, &ends);
    }

    async fn steer(&self, message: &mut Message) -> Result<Course<Hop<Target, Infallible>, ()>, Fault> {
        let Arrivals {
            path,
            pod,
            guard,
            shelf,
            claim,
            ..
        } = self.arrivals;
        if !pod.has_address(guard.addressed.ip()) || pod.is_own_listener(guard.addressed) {
            return Err(Fault::new(
                Cause::Connect,
                format!("{} is no port of workload {}", guard.addressed, pod.workload.key),
            ));
        }
        name_host(message, guard.addressed)?;
        let version = path.store.load().version();
        let kept = authorize(path, guard, &mut message.parts).await?;
        let standing = Standing {
            path: Arc::clone(path),
            version,
            own: Arc::clone(&pod.workload),
            other: match guard.proof.id() {
                Some(peer) => Other::Peer(guard.client.ip(), peer.clone()),
                None => Other::Unproved,
            },
            guard: Some((Arc::clone(guard), kept)),
            carrier: None,
        };
        message.attached.revoked = Some(standing.watch());
        let hop = Hop::Server(Target {
            path: Arc::clone(path),
            shelf: Arc::clone(shelf),
            asker: self.client,
            leg: Leg::Deliver {
                pod: Arc::clone(pod),
                addr: guard.addressed,
                client: self.client,
                inbound: true,
            },
            claim: Arc::clone(claim),
        });
        Ok(Course::Onward(Onward {
            hop,
            escort: (),
            deadline: None,
        }))
    }
}
